import { incompleteBeta, tQuantile } from './distributions.ts';

export interface Power {
  /** Chance of seeing a difference that is there, 0.8 for 80 %. */
  readonly power: number;
  /** Of the two-sided test, 0.95 for a level of 5 %. */
  readonly confidence: number;
  /** Smallest true difference that as many questions as in this run show with that chance, 0 … 1; null where not even the largest is shown. */
  readonly smallestDifference: number | null;
  /** Questions needed to see a true difference of so many percentage points, in clusters as in this run. */
  readonly needed: readonly { readonly points: number; readonly items: number; readonly clusters: number }[];
}

/** A difference whose error was measured, and on what. */
export interface MeasuredDifference {
  /** Null or 0: all answers were alike, so that nothing is known of how they vary. */
  readonly standardError: number | null;
  readonly items: number;
  readonly clusters: number;
  /** Of the interval that goes with it. */
  readonly degreesOfFreedom: number;
  /** Answers right or wrong, one a cluster: McNemar's test, which counts clusters that differ. */
  readonly isCounted: boolean;
}

/** A standard error below this is rounding. */
const NO_ERROR = 1e-9;

/** Clusters that must differ, all to one side, before an exact two-sided test of signs can reach its level: 2 · 2⁻ᵐ ≤ 1 − confidence. Six for 5 %. */
export function leastClusters(confidence: number): number {
  return 1 + Math.ceil(Math.log2(1 / (1 - confidence)) - 1e-9);
}

/**
 * How many questions it takes to see a difference, from the standard error of a difference that was measured: SE shrinks with the root of the number of
 * clusters, and a difference of (t_{1−α/2} + t_{power}) SE is seen with the chance `power` (Bloom 1995, Evaluation Review 19:547–556; for clustered and paired
 * questions Miller 2024, arXiv 2411.00640, section 5). Student's t has the degrees of freedom of the interval beside it. The test is one of signs, so that no
 * number of clusters below `leastClusters` shows anything, and of right-or-wrong answers, one a cluster, so many must differ with the chance `power`.
 * @returns null where nothing can be said: too few clusters for any test, or answers that did not vary
 */
export function powerOf(
  difference: MeasuredDifference,
  { power = 0.8, confidence = 0.95, points = [1, 2, 5] as readonly number[] } = {},
): Power | null {
  const { standardError, items, clusters, degreesOfFreedom, isCounted } = difference;
  const least = leastClusters(confidence);
  if (standardError === null || standardError < NO_ERROR || clusters < least) return null;
  /** Smallest difference that so many clusters show. */
  const seenBy = (count: number): number => {
    const df = Math.max(1, (degreesOfFreedom * count) / clusters);
    const reach = tQuantile(0.5 + confidence / 2, df) + tQuantile(power, df);
    return Math.max(
      reach * standardError * Math.sqrt(clusters / count),
      isCounted ? countedLeast(count, least, power) : 0,
    );
  };
  const smallest = seenBy(clusters);
  return {
    power,
    confidence,
    smallestDifference: smallest <= 1 ? smallest : null,
    needed: points.map((point) => {
      const count = leastWhere(least, (some) => seenBy(some) <= point / 100 + 1e-12);
      return { points: point, clusters: count, items: Math.ceil((count * items) / clusters) };
    }),
  };
}

/**
 * Smallest share of answers that differ, at best all to one side, with which `least` of `count` or more differ with the chance `power`: the tail of a binomial
 * as an incomplete beta function (DLMF 8.17.5).
 */
function countedLeast(count: number, least: number, power: number): number {
  if (count < least) return Number.POSITIVE_INFINITY;
  let [low, high] = [least / (2 * count), 1];
  for (let step = 0; step < 60; step++) {
    const middle = (low + high) / 2;
    if (incompleteBeta(middle, least, count - least + 1) < power) low = middle;
    else high = middle;
  }
  return high;
}

/** Smallest whole number from `from` on for which it holds; it then holds for all that are larger. */
function leastWhere(from: number, holds: (count: number) => boolean): number {
  if (holds(from)) return from;
  let [fails, succeeds] = [from, 2 * from];
  while (!holds(succeeds)) [fails, succeeds] = [succeeds, 2 * succeeds];
  while (succeeds - fails > 1) {
    const middle = Math.floor((fails + succeeds) / 2);
    if (holds(middle)) succeeds = middle;
    else fails = middle;
  }
  return succeeds;
}

/**
 * Standard error of the difference of two models of which one was measured: the other taken as equally variable, both means correlated so much.
 * 0 where they answer different questions; on the same questions usually 0.3 to 0.7 (Miller 2024, section 4.2).
 */
export function errorOfDifference(standardError: number, correlation: number): number {
  return standardError * Math.sqrt(2 * (1 - correlation));
}
