import { type Estimate, estimateOf } from './clustered.ts';
import { covarianceOf, designOf, linearise, sumBy } from './design.ts';
import { countPairs, mcNemarExact, type PairedCounts } from './paired.ts';
import { RandomStream } from './random.ts';

/** One question answered by two models. */
export interface ScoredPair {
  readonly cluster: string;
  readonly category: string | null;
  /** 0 … 1. */
  readonly first: number;
  readonly second: number;
}

export interface RunComparison {
  readonly first: Estimate;
  readonly second: Estimate;
  /** Mean of the second less that of the first, −1 … 1. */
  readonly difference: number;
  readonly interval: readonly [number, number];
  /** Of the difference; null with a single cluster. */
  readonly standardError: number | null;
  /** Of the two means over the clusters: how much asking both the same questions gains. Null where one of them has no error. */
  readonly correlation: number | null;
  /** Who was right, where all scores are 0 or 1. */
  readonly counts: PairedCounts | null;
  /** Chance of a difference as large as this one, or larger, if both models were equally good. */
  readonly pValue: number;
  readonly test: 'exact McNemar' | 'exact sign-flip' | 'sign-flip';
}

export interface CompareOptions {
  readonly by?: 'records' | 'categories';
  /** Default 0.95. */
  readonly confidence?: number;
  /** Random sign-flips, where there are too many clusters for all. Default 9999, for more than 2,000 clusters that differ fewer, 999 at least. */
  readonly draws?: number;
  /** Decides the random numbers. */
  readonly seed?: string;
}

/** So many clusters with a difference, or fewer, have all their signs tried. */
const EXACT_CLUSTERS = 14;
/** Draws times clusters that differ: about a tenth of a second. */
const SIGN_FLIP_WORK = 2e7;

/**
 * Two models on the same questions, answers of one cluster taken as dependent.
 *
 * Interval: both means' intervals (see `clusteredMean`) joined by the correlation of the means over clusters: MOVER, Zou & Donner 2008, Statistics in Medicine
 * 27:1693–1702, which for independent right-or-wrong answers is Newcombe's (1998, method 8) hybrid score interval with the correlation.
 * Test: exact McNemar where every cluster has one question and scores are 0 or 1; else a permutation test that exchanges the two models' scores of whole clusters
 * (Fisher 1935; for clustered pairs Gail, Mark, Carroll, Green & Pee 1996, Statistics in Medicine 15:1069–1092), with all exchanges for up to 14 clusters that
 * differ, else seeded draws with p = (1 + as extreme)/(1 + draws) (Phipson & Smyth 2010).
 * @throws RangeError without pairs, or with a score outside 0 … 1
 */
export function compareRuns(pairs: readonly ScoredPair[], options: CompareOptions = {}): RunComparison {
  const { by = 'records', confidence = 0.95, draws, seed = 'compareRuns' } = options;
  if (pairs.length === 0) throw new RangeError('compareRuns: expected at least one pair');
  const design = designOf(pairs, by);
  const [firstValues, secondValues] = [
    Float64Array.from(pairs, ({ first }) => first),
    Float64Array.from(pairs, ({ second }) => second),
  ];
  const [firstLine, secondLine] = [linearise(firstValues, design), linearise(secondValues, design)];
  const first = estimateOf(firstValues, design, firstLine, confidence);
  const second = estimateOf(secondValues, design, secondLine, confidence);
  const product = (first.standardError ?? 0) * (second.standardError ?? 0);
  const correlation = product === 0 ? null : Math.max(-1, Math.min(1, covarianceOf(firstLine, secondLine) / product));
  let variance = 0;
  for (const [g, influence] of firstLine.influences.entries())
    variance += ((secondLine.influences[g] as number) - influence) ** 2;
  const isBinary = [firstValues, secondValues].every((values) => values.every((value) => value === 0 || value === 1));
  const counts = isBinary ? countPairs(pairs.map((pair) => [pair.first === 1, pair.second === 1])) : null;
  const isSimple = counts !== null && by === 'records' && design.clusters === design.items;
  const weighted = Float64Array.from(pairs, (pair, i) => (pair.second - pair.first) * (design.weights[i] as number));
  return {
    first,
    second,
    difference: second.mean - first.mean,
    interval: mover(first, second, correlation ?? 0),
    standardError: design.clusters < 2 ? null : Math.sqrt(variance),
    correlation,
    counts,
    ...(isSimple
      ? { pValue: mcNemarExact(counts.onlyFirst, counts.onlySecond), test: 'exact McNemar' }
      : signFlip(sumBy(weighted, design.clusterOf, design.clusters), draws, seed)),
  };
}

function mover(first: Estimate, second: Estimate, correlation: number): [number, number] {
  if (first.method === 'none') return [-1, 1];
  const reach = (x: number, y: number) => Math.sqrt(Math.max(0, x * x - 2 * correlation * x * y + y * y));
  const difference = second.mean - first.mean;
  return [
    Math.max(-1, difference - reach(second.mean - second.interval[0], first.interval[1] - first.mean)),
    Math.min(1, difference + reach(second.interval[1] - second.mean, first.mean - first.interval[0])),
  ];
}

/** @param sums each cluster's part in the difference */
function signFlip(
  sums: Float64Array,
  asked: number | undefined,
  seed: string,
): { pValue: number; test: 'exact sign-flip' | 'sign-flip' } {
  let [observed, largest] = [0, 0];
  for (const sum of sums) {
    observed += sum;
    largest = Math.max(largest, Math.abs(sum));
  }
  const differing = sums.filter((sum) => Math.abs(sum) > 1e-12 * largest);
  // Sums that are equal but for rounding count as equally extreme.
  const limit = Math.abs(observed) - 1e-9 * largest;
  let asExtreme = 0;
  if (differing.length <= EXACT_CLUSTERS) {
    const all = 2 ** differing.length;
    for (let signs = 0; signs < all; signs++) {
      let flipped = 0;
      for (const [g, sum] of differing.entries()) flipped += (signs >>> g) & 1 ? -sum : sum;
      if (Math.abs(flipped) >= limit) asExtreme++;
    }
    return { pValue: asExtreme / all, test: 'exact sign-flip' };
  }
  const draws = asked ?? Math.max(999, Math.min(9_999, Math.floor(SIGN_FLIP_WORK / differing.length)));
  const random = new RandomStream(seed);
  for (let draw = 0; draw < draws; draw++) {
    let flipped = 0;
    let bits = 0;
    for (let g = 0; g < differing.length; g++) {
      bits = g % 32 === 0 ? random.bits() : bits >>> 1;
      flipped += bits & 1 ? -(differing[g] as number) : (differing[g] as number);
    }
    if (Math.abs(flipped) >= limit) asExtreme++;
  }
  return { pValue: (1 + asExtreme) / (1 + draws), test: 'sign-flip' };
}
