import { tQuantile } from './distributions.ts';
import { wilson } from './wilson.ts';

/**
 * Two models on the same questions. Examples on which both are right, or both wrong, say nothing about which is better; the statistics rest on the
 * others.
 */

/** Counts by who was right. */
export interface PairedCounts {
  readonly both: number;
  /** Right by the first and wrong by the second. */
  readonly onlyFirst: number;
  readonly onlySecond: number;
  readonly neither: number;
}

export interface PairedComparison {
  readonly examples: number;
  /** Share right of the second less that of the first, −1…1. */
  readonly difference: number;
  readonly interval: readonly [number, number];
  /** Exact two-sided McNemar test: chance of discordant pairs as uneven as these, or more, if both were equally good. */
  readonly pValue: number;
}

/** @param right by example, whether the first and whether the second model was right */
export function countPairs(right: Iterable<readonly [first: boolean, second: boolean]>): PairedCounts {
  let [both, onlyFirst, onlySecond, neither] = [0, 0, 0, 0];
  for (const [first, second] of right) {
    if (first && second) both++;
    else if (first) onlyFirst++;
    else if (second) onlySecond++;
    else neither++;
  }
  return { both, onlyFirst, onlySecond, neither };
}

/**
 * Newcombe's interval with the quantile of Student's t, n − 1 degrees of freedom, in place of the normal one, which would find a difference in two examples; of one
 * example nothing can be said.
 * @param confidence of the interval, 0.95 for 95 %
 * @throws RangeError without examples
 */
export function comparePairs(counts: PairedCounts, confidence: number): PairedComparison {
  const examples = counts.both + counts.onlyFirst + counts.onlySecond + counts.neither;
  if (examples === 0) throw new RangeError('comparePairs: expected at least one example');
  return {
    examples,
    difference: (counts.onlySecond - counts.onlyFirst) / examples,
    interval: examples === 1 ? [-1, 1] : newcombeInterval(counts, tQuantile(0.5 + confidence / 2, examples - 1)),
    pValue: mcNemarExact(counts.onlyFirst, counts.onlySecond),
  };
}

/**
 * Interval of the difference of two paired proportions: hybrid of Wilson's score intervals of each, with the correlation φ of the pairs, corrected for
 * continuity where it is positive. Newcombe 1998, Statistics in Medicine 17:2635–2650, method 10. It stays inside −1…1 and keeps its coverage for few or no discordant pairs, where
 * Wald's interval collapses to a point.
 * @param z two-sided quantile of the confidence
 */
export function newcombeInterval(
  { both: a, onlyFirst: b, onlySecond: c, neither: d }: PairedCounts,
  z: number,
): [number, number] {
  const n = a + b + c + d;
  const [first, second] = [(a + b) / n, (a + c) / n];
  const [firstLow, firstHigh] = wilson(first, n, z);
  const [secondLow, secondHigh] = wilson(second, n, z);
  const margins = (a + b) * (c + d) * (a + c) * (b + d);
  const product = a * d - b * c;
  const corrected = product > n / 2 ? product - n / 2 : Math.min(product, 0);
  const phi = margins === 0 ? 0 : corrected / Math.sqrt(margins);
  const reach = (x: number, y: number) => Math.sqrt(Math.max(0, x * x - 2 * phi * x * y + y * y));
  const difference = (c - b) / n;
  return [
    Math.max(-1, difference - reach(second - secondLow, firstHigh - first)),
    Math.min(1, difference + reach(secondHigh - second, first - firstLow)),
  ];
}

/** Twice the smaller tail of a binomial with one half, at most 1. McNemar 1947, Psychometrika 12:153–157, in its exact form. */
export function mcNemarExact(onlyFirst: number, onlySecond: number): number {
  const n = onlyFirst + onlySecond;
  const least = Math.min(onlyFirst, onlySecond);
  // In logarithms: 2⁻ⁿ leaves the numbers for n > 1,074.
  let logTerm = -n * Math.LN2;
  let tail = 0;
  for (let k = 0; k <= least; k++) {
    tail += Math.exp(logTerm);
    logTerm += Math.log(n - k) - Math.log(k + 1);
  }
  return Math.min(1, 2 * tail);
}
