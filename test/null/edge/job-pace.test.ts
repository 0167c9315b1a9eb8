import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { estimatedFinish } from '../../../edge/jobs/pace.ts';

const step = (n: number, createdAt: number) => ({
  key: `step-${n}`,
  createdAt,
  data: { step: n, total_steps: 10, tokens: 100, tokens_per_second: 1000 },
});
const note = (key: string, createdAt: number) => ({ key, createdAt, data: null });

describe('when a job ends', () => {
  it('counts what lies between its steps too: a save of 9 s after each other one', () => {
    const events = [step(1, 1_000), step(2, 1_100), note('ckpt-2', 10_000), step(3, 10_100), step(4, 10_200)];
    assert.equal(estimatedFinish(events, 10_200), 10_200 + Math.round((9_200 / 3) * 6));
  });

  it('leaves out what was before a pause or another worker', () => {
    const events = [step(1, 0), step(2, 1_000), note('edge-rev', 3_600_000), step(3, 3_601_000), step(4, 3_601_500)];
    assert.equal(estimatedFinish(events, 3_601_500), 3_601_500 + 500 * 6);
  });

  it('has only the computation to go by after one step, and says nothing before', () => {
    assert.equal(estimatedFinish([note('edge-rev', 0), step(1, 5_000)], 5_000), 5_000 + 100 * 9);
    assert.equal(estimatedFinish([note('edge-rev', 0)], 5_000), null);
    assert.equal(estimatedFinish([{ key: 'step-1', createdAt: 1, data: { step: 1 } }], 5_000), null);
  });

  it('does not go back where steps are repeated after a rollback', () => {
    const events = [step(6, 1_000), step(7, 2_000), step(4, 3_000), step(5, 4_000)];
    assert.equal(estimatedFinish(events, 4_000), 4_000 + 100 * 5);
  });
});
