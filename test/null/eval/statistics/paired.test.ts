import assert from 'node:assert/strict';
import { test } from 'node:test';
import { normalQuantile } from '../../../../gpu-backend/eval/statistics/distributions.ts';
import {
  comparePairs,
  countPairs,
  mcNemarExact,
  newcombeInterval,
} from '../../../../gpu-backend/eval/statistics/paired.ts';
import { normaliseAnswer } from '../../../../gpu-backend/text/normalise-answer.ts';

const near = (got: number, want: number, by: number, what = '') =>
  assert.ok(Math.abs(got - want) <= by, `${what} ${got}, expected ${want} ± ${by}`);

test('the interval of a published example', () => {
  // Hyper-responsive airways before and after a transplant (Bentur et al. 2009), the example of Fagerland, Lydersen and Laake 2014 (Statistics in
  // Medicine 33:2850–2875): 1 both, 1 only before, 7 only after, 12 neither; Newcombe's interval −0.507 … −0.026.
  const counts = { both: 1, onlyFirst: 7, onlySecond: 1, neither: 12 };
  const { difference, interval: ours } = comparePairs(counts, 0.95);
  const interval = newcombeInterval(counts, normalQuantile(0.975));
  assert.ok(ours[0] < interval[0] && ours[1] > interval[1], 'of so few examples somewhat less is known');
  near(difference, -6 / 21, 1e-12);
  near(interval[0], -0.507, 0.0006, 'lower');
  near(interval[1], -0.026, 0.0006, 'upper');
});

test('the exact test by its sum', () => {
  near(mcNemarExact(1, 7), (2 * (1 + 8)) / 256, 1e-12);
  near(mcNemarExact(0, 10), 2 / 1024, 1e-12);
  assert.equal(mcNemarExact(0, 0), 1);
  assert.equal(mcNemarExact(5, 5), 1);
  const large = mcNemarExact(900, 1_100);
  assert.ok(large > 5e-6 && large < 1e-5, `${large}`);
});

test('exchanging the models turns the comparison around', () => {
  const forth = comparePairs({ both: 40, onlyFirst: 3, onlySecond: 9, neither: 12 }, 0.9);
  const back = comparePairs({ both: 40, onlyFirst: 9, onlySecond: 3, neither: 12 }, 0.9);
  near(forth.difference, -back.difference, 1e-15);
  near(forth.interval[0], -back.interval[1], 1e-12);
  near(forth.interval[1], -back.interval[0], 1e-12);
  assert.equal(forth.pValue, back.pValue);
});

test('the fewer examples, the wider the interval; of one nothing is known', () => {
  let last = 0;
  for (const n of [50, 12, 5, 3, 2, 1]) {
    const [low, high] = comparePairs({ both: 0, onlyFirst: 0, onlySecond: n, neither: 0 }, 0.95).interval;
    assert.ok(high - low > last, `${n}: ${low} … ${high}`);
    last = high - low;
  }
  assert.equal(last, 2);
});

test('no discordant pair still leaves doubt, and less of it with more examples', () => {
  const few = comparePairs({ both: 5, onlyFirst: 0, onlySecond: 0, neither: 5 }, 0.95);
  const many = comparePairs({ both: 500, onlyFirst: 0, onlySecond: 0, neither: 500 }, 0.95);
  assert.ok(few.interval[0] <= 0 && few.interval[1] >= 0);
  const allRight = comparePairs({ both: 10, onlyFirst: 0, onlySecond: 0, neither: 0 }, 0.95);
  assert.ok(allRight.interval[0] < -0.2 && allRight.interval[1] > 0.2);
  assert.ok(many.interval[1] - many.interval[0] <= few.interval[1] - few.interval[0]);
});

test('an interval of 95 % covers the truth about as often', () => {
  let state = 12345;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  for (const [n, truth] of [
    [40, [0.5, 0.1, 0.1, 0.3]],
    [100, [0.6, 0.05, 0.15, 0.2]],
    [30, [0.85, 0.02, 0.08, 0.05]],
  ] as const) {
    const difference = truth[2] - truth[1];
    let covered = 0;
    const rounds = 3_000;
    for (let round = 0; round < rounds; round++) {
      const counts = countPairs(
        Array.from({ length: n }, (): [boolean, boolean] => {
          const u = random();
          if (u < truth[0]) return [true, true];
          if (u < truth[0] + truth[1]) return [true, false];
          return u < truth[0] + truth[1] + truth[2] ? [false, true] : [false, false];
        }),
      );
      const [low, high] = comparePairs(counts, 0.95).interval;
      if (low <= difference && difference <= high) covered++;
    }
    const share = covered / rounds;
    assert.ok(share > 0.925 && share < 0.995, `n ${n}: covered ${share}`);
  }
});

test('answers are the same by words and order, not by case, spaces and what stands around them', () => {
  for (const [a, b] of [
    ['Two cats.', '  two   cats'],
    ['“Left”', 'left'],
    ['Yes!', '"YES"'],
    ['ﬁve', 'five'],
    ['B:', 'b'],
  ] as const)
    assert.equal(normaliseAnswer(a), normaliseAnswer(b));
  for (const [a, b] of [
    ['two cats', 'cats two'],
    ['3.5', '35'],
    ['a cat', 'cat'],
    ['', 'yes'],
  ] as const)
    assert.notEqual(normaliseAnswer(a), normaliseAnswer(b));
});

test('without examples nothing is compared', () => {
  assert.throws(() => comparePairs(countPairs([]), 0.95), /at least one example/);
});
