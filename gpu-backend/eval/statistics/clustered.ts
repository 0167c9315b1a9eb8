import { type Design, designOf, type Linearised, linearise, type Observation, sumBy } from './design.ts';
import { tQuantile } from './distributions.ts';
import { wilson } from './wilson.ts';

/** A mean of scores between 0 and 1, with what is known of its error. */
export interface Estimate {
  readonly mean: number;
  /** Null where the sample has a single cluster and nothing is known. */
  readonly standardError: number | null;
  readonly interval: readonly [number, number];
  /** Of the interval, 0.95 for 95 %. */
  readonly confidence: number;
  readonly items: number;
  readonly clusters: number;
  readonly degreesOfFreedom: number;
  /** Independent right-or-wrong answers that would give the same mean with the same error. */
  readonly effectiveItems: number;
  /** `wilson`: score interval on the effective items, see `clusteredMean`; `none`: one cluster, nothing can be said. */
  readonly method: 'wilson' | 'none';
}

/**
 * Mean of scores with the standard error of its clusters (see `linearise`) and an interval.
 *
 * The interval is Wilson's (1927, JASA 22:209–212) with the effective number of items n* = p(1 − p)/SE² in place of n and the quantile of Student's t in place of
 * the normal one (Korn & Graubard 1998, Survey Methodology 24:193–201; of the intervals compared by Franco, Little, Louis & Slud 2019, J. Survey Statistics and
 * Methodology 7:334–364, among those that keep their coverage best). It stays inside 0 … 1 and keeps its coverage for few and for extreme answers, where ± 1.96 SE
 * does not. Right-or-wrong answers count at most as what they are: n* ≤ n. Where all answers are alike (SE = 0), a cluster counts as one answer. Scores between
 * 0 and 1 have the same n*, which may then exceed n: they vary less than right-or-wrong ones with their mean.
 * @throws RangeError without observations, or with a value outside 0 … 1
 */
export function clusteredMean(
  observations: readonly Observation[],
  { by = 'records', confidence = 0.95 }: { readonly by?: 'records' | 'categories'; readonly confidence?: number } = {},
): Estimate {
  const design = designOf(observations, by);
  const values = Float64Array.from(observations, ({ value }) => value);
  return estimateOf(values, design, linearise(values, design), confidence);
}

/** The same from a design and a linearisation that the caller has at hand. */
export function estimateOf(
  values: Float64Array,
  design: Design,
  { mean, influences }: Linearised,
  confidence: number,
): Estimate {
  if (design.items === 0) throw new RangeError('clusteredMean: expected at least one observation');
  const wrong = values.find((value) => !(value >= 0 && value <= 1));
  if (wrong !== undefined) throw new RangeError(`clusteredMean: expected scores between 0 and 1, received ${wrong}`);
  const known = { mean, confidence, items: design.items, clusters: design.clusters };
  if (design.clusters < 2) {
    const nothing = { standardError: null, degreesOfFreedom: 0, effectiveItems: 1, method: 'none' } as const;
    return { ...known, ...nothing, interval: [0, 1] };
  }
  let variance = 0;
  for (const influence of influences) variance += influence * influence;
  const spread = mean * (1 - mean);
  // Rounding leaves about 1e-34 where the truth is 0.
  const isConstant = variance <= 1e-24 || spread <= 1e-12;
  let effectiveItems = isConstant ? design.clusters : spread / variance;
  if (values.every((value) => value === 0 || value === 1)) effectiveItems = Math.min(effectiveItems, design.items);
  const t = tQuantile(0.5 + confidence / 2, design.degreesOfFreedom);
  return {
    ...known,
    standardError: isConstant ? 0 : Math.sqrt(variance),
    interval: wilson(mean, effectiveItems, t),
    degreesOfFreedom: design.degreesOfFreedom,
    effectiveItems,
    method: 'wilson',
  };
}

/**
 * Intraclass correlation of the scores of one cluster: 0 where clusters say nothing, 1 where all of a cluster are alike. Analysis of variance for clusters of
 * different sizes, Donner & Koval 1980, Biometrics 36:19–25; null where no cluster has two items or there is one cluster only.
 */
export function intraclassCorrelation(observations: readonly Observation[]): number | null {
  const { clusters, clusterOf, items } = designOf(observations, 'records');
  if (clusters < 2 || items <= clusters) return null;
  const values = Float64Array.from(observations, ({ value }) => value);
  const ones = new Float64Array(items).fill(1);
  const [sums, sizes] = [sumBy(values, clusterOf, clusters), sumBy(ones, clusterOf, clusters)];
  const mean = values.reduce((sum, value) => sum + value, 0) / items;
  let [between, within, sizeSquares] = [0, 0, 0];
  for (const [g, size] of sizes.entries()) {
    between += size * ((sums[g] as number) / size - mean) ** 2;
    sizeSquares += size * size;
  }
  for (const [i, cluster] of clusterOf.entries())
    within += ((values[i] as number) - (sums[cluster] as number) / (sizes[cluster] as number)) ** 2;
  const meanBetween = between / (clusters - 1);
  const meanWithin = within / (items - clusters);
  const size = (items - sizeSquares / items) / (clusters - 1);
  const total = meanBetween + (size - 1) * meanWithin;
  return total <= 0 ? null : (meanBetween - meanWithin) / total;
}
