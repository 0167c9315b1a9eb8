/** Thirty days of cron under a virtual clock: whatever happens to the ticks, each slot has exactly one effect. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Effect, effectsOf, slotsByWallClock } from './reference.ts';
import { makeWorld, randomOf } from './world.ts';

const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;
const DAYS = 30;
/** With the night in which Berlin's and New York's clocks go back in it. */
const START = Date.parse('2026-10-12T00:00:20Z');

const SCHEDULES = [
  { cron: '0 */2 * * *', time_zone: 'UTC', misfire: 'run_all' },
  { cron: '30 2 * * *', time_zone: 'Europe/Berlin', misfire: 'run_once' },
  { cron: '0 */6 * * *', time_zone: 'America/New_York', misfire: 'skip' },
  { cron: '7,37 9-17 * * 1-5', time_zone: 'Europe/Berlin', misfire: 'run_once' },
  { cron: '45 * * * *', time_zone: 'Asia/Kathmandu', misfire: 'run_all' },
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

test('30 days of cron: 5 % of the ticks missing, 5 % doubled, 2 % late, clocks off by 90 s, outages up to 10 days', async () => {
  const seed = Number(process.env.MANTIS_TEST_SEED ?? 20_261_126);
  const world = await makeWorld({ endsAtOnce: true });
  const looks = ticks(seed);
  const rows = await Promise.all(SCHEDULES.map((content) => world.schedule({ ...content, overlap: 'allow' }, START)));
  for (const { atMs, twice } of looks) {
    if (twice) await Promise.all([world.tick(atMs), world.tick(atMs)]);
    else await world.tick(atMs);
  }
  assert.ok(looks.length > 25_000, `${looks.length} ticks`);
  const until = Math.max(...looks.map(({ atMs }) => atMs));
  let effects = 0;
  for (const [at, row] of rows.entries()) {
    const { cron, time_zone, misfire } = SCHEDULES[at] as (typeof SCHEDULES)[number];
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
  }
  assert.ok(effects > 700, `${effects} effects`);
});

for (const overlap of ['skip', 'queue', 'allow'] as const)
  test(`a run that lasts longer than its interval, 100 times, with the policy ${overlap}`, async () => {
    const world = await makeWorld();
    const row = await world.schedule({ overlap, cron: '*/5 * * * *' }, START);
    const under = new Map<string, number>();
    let most = 0;
    for (let at = START; at <= START + 100 * 10 * MINUTE; at += MINUTE) {
      await Promise.all([world.tick(at), world.tick(at)]);
      const active = world.runs(row.id).filter(({ status }) => status === 'running');
      most = Math.max(most, active.length);
      for (const { job_id } of active) {
        const id = job_id as string;
        // Each job takes eight minutes: always into the next slot.
        const minutes = (under.get(id) ?? 0) + 1;
        under.set(id, minutes);
        if (minutes === 8) world.endJob(id);
      }
    }
    const runs = world.runs(row.id);
    assert.equal(runs.length, 200, 'one record for each slot');
    assert.equal(new Set(runs.map(({ slot_at }) => slot_at)).size, 200);
    const skipped = runs.filter(({ status }) => status === 'skipped');
    assert.ok(skipped.every(({ skip_reason }) => skip_reason === 'overlap'));
    if (overlap === 'skip') {
      assert.equal(most, 1);
      assert.equal(skipped.length, 100, 'one record for each run that was not to begin');
    } else if (overlap === 'queue') {
      assert.equal(most, 1);
      assert.ok(skipped.length > 60 && skipped.length < 90, `${skipped.length} skipped`);
    } else {
      assert.equal(most, 2);
      assert.equal(skipped.length, 0);
    }
    assert.equal(world.jobs.length - new Set(world.jobs).size, 0);
    const made = world.sqlite.rows<{ n: number }>('SELECT COUNT(*) AS n FROM jobs');
    assert.equal(made[0]?.n, 200 - skipped.length - runs.filter(({ status }) => status === 'pending').length);
  });
