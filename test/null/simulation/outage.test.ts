import assert from 'node:assert/strict';
import { it } from 'node:test';
import { outage } from '../../fixtures/simulation/outage.ts';
import { realStage } from '../../fixtures/simulation/sweep.ts';

/** The benchmark `simulation --outage` makes 1,000. */
const JOBS = process.env.MANTIS_LONG_TESTS === '1' ? 1_000 : 60;

it('ten days without edge and backends lose no job and no event', async () => {
  const { lost, ...sums } = await outage(await realStage(), JOBS, 10);
  assert.deepEqual(lost, []);
  assert.equal(sums.succeeded, JOBS);
  assert.equal(sums.received, 2 * JOBS);
  assert.ok(sums.virtualDays > 10);
});
