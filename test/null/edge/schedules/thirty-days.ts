/** Thirty days of cron under a virtual clock, through the real code and database, against the reference model. */
import assert from 'node:assert/strict';
import { type Effect, effectsOf, slotsByWallClock } from './reference.ts';
import { makeWorld, randomOf } from './world.ts';

const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;
const DAYS = 30;
/** With the night in which Berlin's and New York's clocks go back in it. */
export const START = Date.parse('2026-10-12T00:00:20Z');

export const SCHEDULES = [
  { cron: '0 */2 * * *', time_zone: 'UTC', misfire: 'run_all' },
  { cron: '30 2 * * *', time_zone: 'Europe/Berlin', misfire: 'run_once' },
  { cron: '0 */6 * * *', time_zone: 'America/New_York', misfire: 'skip' },
  { cron: '7,37 9-17 * * 1-5', time_zone: 'Europe/Berlin', misfire: 'run_once' },
  { cron: '45 */3 * * *', time_zone: 'Asia/Kathmandu', misfire: 'run_all' },
  { cron: '20 1 * * *', time_zone: 'America/New_York', misfire: 'skip' },
] as const;

/** When somebody looks, in order: what the clock then says. `twice`: two at once. */
function ticks(seed: number): { atMs: number; twice: boolean }[] {
  const random = randomOf(seed);
  const outages = [
    { from: 3, days: 10 },
    { from: 16, days: 1 },
    { from: 21.3, days: 0.2 },
  ].map(({ from, days }) => ({ fromMs: START + from * DAY, untilMs: START + (from + days) * DAY }));
  const all: { realMs: number; twice: boolean }[] = [];
  for (let at = START; at <= START + DAYS * DAY; at += MINUTE) {
    const fate = random();
    if (fate < 0.05) continue;
    if (outages.some(({ fromMs, untilMs }) => at >= fromMs && at < untilMs)) continue;
    const lateMs = fate > 0.98 ? random() * 15 * MINUTE : 0;
    all.push({ realMs: at + lateMs, twice: fate >= 0.05 && fate < 0.1 });
  }
  return all
    .sort((a, b) => a.realMs - b.realMs)
    .map(({ realMs, twice }) => ({ atMs: Math.round(realMs + (random() * 2 - 1) * 90_000), twice }));
}

export type Schedule30 = { cron: string; time_zone: string; misfire: 'run_once' | 'skip' | 'run_all' };

/**
 * 43,200 minutes: 5 % of the ticks missing, 5 % doubled, 2 % up to 15 minutes late, clocks off by up to 90 s, three outages, one of ten days.
 * @throws AssertionError where a slot has not exactly the effect that the reference model gives it, or a run not exactly one job
 */
export async function thirtyDays(
  seed: number,
  schedules: readonly Schedule30[],
): Promise<{ looks: number; effects: number; runs: number }> {
  const world = await makeWorld({ endsAtOnce: true });
  const looks = ticks(seed);
  const rows = await Promise.all(schedules.map((content) => world.schedule({ ...content, overlap: 'allow' }, START)));
  for (const { atMs, twice } of looks) {
    if (twice) await Promise.all([world.tick(atMs), world.tick(atMs)]);
    else await world.tick(atMs);
  }
  const until = Math.max(...looks.map(({ atMs }) => atMs));
  let effects = 0;
  let started = 0;
  for (const [at, row] of rows.entries()) {
    const { cron, time_zone, misfire } = schedules[at] as Schedule30;
    const slots = slotsByWallClock(cron, time_zone, START, until + DAY);
    const expected = effectsOf(
      slots,
      misfire,
      looks.map((look) => look.atMs),
    );
    const runs = world.runs(row.id);
    const got = runs.map(
      (run): Effect => ({
        slotMs: run.slot_at,
        kind: run.status === 'skipped' ? 'missed' : 'run',
        missed: run.missed,
        missedFromMs: run.missed_from,
      }),
    );
    assert.deepEqual(got, expected, `seed ${seed}, ${cron} ${time_zone} ${misfire}`);
    const catchUps = new Map<number, number>();
    for (const run of runs.filter(
      ({ status, created_at, slot_at }) => status !== 'skipped' && created_at - slot_at > 5 * MINUTE,
    ))
      catchUps.set(run.created_at, (catchUps.get(run.created_at) ?? 0) + 1);
    assert.ok(Math.max(0, ...catchUps.values()) <= 24, 'catch-up of at most 24 runs');
    // One job for each run, none besides.
    const jobs = world.sqlite.rows<{ n: number }>('SELECT COUNT(*) AS n FROM jobs WHERE schedule_id = ?', row.id);
    assert.equal(jobs[0]?.n, got.filter(({ kind }) => kind === 'run').length);
    effects += got.length;
    started += jobs[0]?.n ?? 0;
  }
  return { looks: looks.length, effects, runs: started };
}
