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
 * @param confidence of the interval, 0.95 for 95 %
 * @throws RangeError without examples
 */
export function comparePairs(counts: PairedCounts, confidence: number): PairedComparison {
  const examples = counts.both + counts.onlyFirst + counts.onlySecond + counts.neither;
  if (examples === 0) throw new RangeError('comparePairs: expected at least one example');
  return {
    examples,
    difference: (counts.onlySecond - counts.onlyFirst) / examples,
    interval: newcombeInterval(counts, normalQuantile(0.5 + confidence / 2)),
    pValue: mcNemarExact(counts.onlyFirst, counts.onlySecond),
  };
}

/**
 * Interval of the difference of two paired proportions: hybrid of Wilson's score intervals of each, with the correlation φ of the pairs, corrected for
 * continuity where it is positive. Newcombe 1998, Statistics in Medicine 17:2635–2650, method 10. It stays inside −1…1 and keeps its coverage for few or no discordant pairs, where
 * Wald's interval collapses to a point.
 */
function newcombeInterval(
  { both: a, onlyFirst: b, onlySecond: c, neither: d }: PairedCounts,
  z: number,
): [number, number] {
  const n = a + b + c + d;
  const first = wilson(a + b, n, z);
  const second = wilson(a + c, n, z);
  const margins = (a + b) * (c + d) * (a + c) * (b + d);
  const product = a * d - b * c;
  const corrected = product > n / 2 ? product - n / 2 : Math.min(product, 0);
  const phi = margins === 0 ? 0 : corrected / Math.sqrt(margins);
  const reach = (x: number, y: number) => Math.sqrt(Math.max(0, x * x - 2 * phi * x * y + y * y));
  const difference = (c - b) / n;
  return [
    Math.max(-1, difference - reach(second.share - second.low, first.high - first.share)),
    Math.min(1, difference + reach(second.high - second.share, first.share - first.low)),
  ];
}

/** Score interval of a proportion. Wilson 1927, JASA 22:209–212. */
function wilson(right: number, n: number, z: number): { share: number; low: number; high: number } {
  const share = right / n;
  const centre = (share + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  // At the ends rounding must not put the share outside its interval.
  return { share, low: Math.min(share, Math.max(0, centre - half)), high: Math.max(share, Math.min(1, centre + half)) };
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

/** Inverse of the standard normal distribution, relative error below 1e-7. Wichura 1988, algorithm AS 241 (PPND7), Applied Statistics 37:477–484. */
export function normalQuantile(p: number): number {
  if (!(p > 0 && p < 1)) throw new RangeError(`normalQuantile: expected a probability between 0 and 1, received ${p}`);
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) {
    const r = 0.180625 - q * q;
    return (
      (q * (((59.10937472 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179)) /
      (((67.1875636 * r + 78.757757664) * r + 17.895169469) * r + 1)
    );
  }
  const r = Math.sqrt(-Math.log(Math.min(p, 1 - p)));
  const x =
    r <= 5
      ? (((0.17023821103 * (r - 1.6) + 1.3067284816) * (r - 1.6) + 2.75681539) * (r - 1.6) + 1.4234372777) /
        ((0.12021132975 * (r - 1.6) + 0.7370016425) * (r - 1.6) + 1)
      : (((0.017337203997 * (r - 5) + 0.42868294337) * (r - 5) + 3.081226386) * (r - 5) + 6.657905115) /
        ((0.012258202635 * (r - 5) + 0.24197894225) * (r - 5) + 1);
  return q < 0 ? -x : x;
}

/**
 * What two answers must share to count as the same: compatibility characters made one (NFKC), small letters, runs of white space as one space, without
 * quotation marks around it and without a full stop, exclamation or question mark, comma, colon or semicolon at the end. Words and their order stay.
 */
export function normaliseAnswer(text: string): string {
  return text
    .normalize('NFKC')
    .toLowerCase()
    .replace(/\s+/gu, ' ')
    .trim()
    .replace(/^["'“”‘’«»`]+|["'“”‘’«»`]+$/gu, '')
    .replace(/[.!?。！？,;:\s]+$/u, '')
    .replace(/["'“”‘’«»`]+$/gu, '');
}
