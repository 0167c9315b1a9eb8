import assert from 'node:assert/strict';
import test from 'node:test';
import { type LearningRateSchedule, learningRateAt, progressOf } from '../../../gpu-backend/train/schedule.ts';

const near = (got: number, want: number): void => assert.ok(Math.abs(got - want) < 1e-12, `${got} is not ${want}`);

test('warm-up rises linearly, then every kind takes its course', () => {
  const base = { peak: 2, warmupShare: 0.1, floorShare: 0.1 };
  for (const kind of ['constant', 'linear', 'cosine', 'trapezoid'] as const) {
    const schedule: LearningRateSchedule = { ...base, kind };
    near(learningRateAt(schedule, 0), 0);
    near(learningRateAt(schedule, 0.05), 1);
    near(learningRateAt(schedule, 0.1), 2);
    near(learningRateAt(schedule, 1), kind === 'constant' ? 2 : 0.2);
    near(learningRateAt(schedule, 7), kind === 'constant' ? 2 : 0.2);
  }
  near(learningRateAt({ ...base, kind: 'linear' }, 0.55), 1.1);
  near(learningRateAt({ ...base, kind: 'cosine' }, 0.55), 1.1);
  near(learningRateAt({ ...base, kind: 'trapezoid', decayShare: 0.2 }, 0.8), 2);
  near(learningRateAt({ ...base, kind: 'trapezoid', decayShare: 0.2 }, 0.9), 1.1);
});

test('no step of a run has rate zero', () => {
  const schedule: LearningRateSchedule = { kind: 'linear', peak: 1, warmupShare: 0.03 };
  for (let step = 1; step <= 10; step++) assert.ok(learningRateAt(schedule, progressOf(step, 10)) > 0);
});
