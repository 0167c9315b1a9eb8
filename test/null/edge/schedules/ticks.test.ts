/** Thirty days of cron under a virtual clock: whatever happens to the ticks, each slot has exactly one effect. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SCHEDULES, START, thirtyDays } from './thirty-days.ts';
import { makeWorld } from './world.ts';

const MINUTE = 60_000;
test('30 days of cron: 5 % of the ticks missing, 5 % doubled, 2 % late, clocks off by 90 s, outages up to 10 days', async () => {
  const { looks, effects } = await thirtyDays(Number(process.env.MANTIS_TEST_SEED ?? 20_261_126), SCHEDULES);
  assert.ok(looks > 25_000, `${looks} looks`);
  assert.ok(effects > 500, `${effects} effects`);
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
