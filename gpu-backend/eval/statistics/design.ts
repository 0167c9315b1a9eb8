/**
 * What belongs together in a sample of scores. An estimate here is a weighted mean, or a mean of means; its error comes from linearising it: each score gets an
 * influence on the estimate, influences of one cluster are summed, and the sums of the clusters are independent.
 */

/** One score and where it belongs. */
export interface Observation {
  /** Scores of one cluster share pictures or wording and are not independent. */
  readonly cluster: string;
  readonly category: string | null;
  /** 0 … 1. */
  readonly value: number;
}

export interface Design {
  readonly items: number;
  readonly clusters: number;
  /** Strata of the estimate: the categories for a mean of categories, else one. */
  readonly strata: number;
  readonly clusterOf: Int32Array;
  readonly stratumOf: Int32Array;
  /** Items of each stratum. */
  readonly sizes: Float64Array;
  /** Weight of each item, summing to 1. */
  readonly weights: Float64Array;
  /** Correction of each stratum's influences: sqrt(G/(G−1)) with its G clusters; 1 for a stratum of one cluster, see `linearise`. */
  readonly corrections: Float64Array;
  readonly isLonely: Uint8Array;
  /** Degrees of freedom: Kish's effective number of clusters, (Σ W)²/Σ W² with the clusters' weights W, less the strata; at least 1. */
  readonly degreesOfFreedom: number;
}

/** @param by `records`: every item weighs the same; `categories`: every category does, and its items share its weight */
export function designOf(
  items: readonly Pick<Observation, 'cluster' | 'category'>[],
  by: 'records' | 'categories',
): Design {
  const [clusterOf, clusters] = indexed(items, ({ cluster }) => cluster);
  const [stratumOf, strata] =
    by === 'categories'
      ? indexed(items, ({ category }) => category ?? '')
      : [new Int32Array(items.length), items.length === 0 ? 0 : 1];
  const sizes = new Float64Array(strata);
  const clustersOf = Array.from({ length: strata }, () => new Set<number>());
  for (const [i, stratum] of stratumOf.entries()) {
    sizes[stratum] = at(sizes, stratum) + 1;
    clustersOf[stratum]?.add(at(clusterOf, i));
  }
  const weights = Float64Array.from(stratumOf, (stratum) => 1 / (strata * at(sizes, stratum)));
  const clusterWeights = sumBy(weights, clusterOf, clusters);
  let squares = 0;
  for (const weight of clusterWeights) squares += weight * weight;
  return {
    items: items.length,
    clusters,
    strata,
    clusterOf,
    stratumOf,
    sizes,
    weights,
    corrections: Float64Array.from(clustersOf, ({ size }) => (size > 1 ? Math.sqrt(size / (size - 1)) : 1)),
    isLonely: Uint8Array.from(clustersOf, ({ size }) => Number(size < 2)),
    degreesOfFreedom: Math.max(1, 1 / squares - strata),
  };
}

export interface Linearised {
  readonly mean: number;
  readonly strataMeans: Float64Array;
  /** Influence of each cluster on the mean, corrected for small samples: the variance of the mean is the sum of their squares. */
  readonly influences: Float64Array;
}

/**
 * The weighted mean of `values` and what each cluster adds to its error. Residuals are taken from the mean of the stratum; in a stratum of a single cluster they
 * are 0 by construction, so there they are taken from the whole mean (R's survey package: `lonely.psu = "adjust"`, Lumley 2010, Complex Surveys).
 * Delta method for the mean of means: Woodruff 1971, JASA 66:411–414; clusters: Liang & Zeger 1986, Biometrika 73:13–22, with G/(G−1).
 */
export function linearise(values: ArrayLike<number>, design: Design): Linearised {
  const strataMeans = sumBy(values, design.stratumOf, design.strata).map(
    (sum, stratum) => sum / at(design.sizes, stratum),
  );
  const mean = strataMeans.reduce((sum, one) => sum + one, 0) / design.strata;
  const influences = new Float64Array(design.clusters);
  for (let i = 0; i < design.items; i++) {
    const stratum = at(design.stratumOf, i);
    const centre = at(design.isLonely, stratum) === 1 ? mean : at(strataMeans, stratum);
    const influence = (at(values, i) - centre) * at(design.weights, i) * at(design.corrections, stratum);
    const cluster = at(design.clusterOf, i);
    influences[cluster] = at(influences, cluster) + influence;
  }
  return { mean, strataMeans, influences };
}

/** Covariance of two means over the same clusters. */
export function covarianceOf(first: Linearised, second: Linearised): number {
  let sum = 0;
  for (const [g, influence] of first.influences.entries()) sum += influence * at(second.influences, g);
  return sum;
}

/** Sums of `values` by an index. */
export function sumBy(values: ArrayLike<number>, indexOf: Int32Array, length: number): Float64Array {
  const sums = new Float64Array(length);
  for (const [i, index] of indexOf.entries()) sums[index] = at(sums, index) + at(values, i);
  return sums;
}

function indexed<T>(items: readonly T[], name: (item: T) => string): [Int32Array, number] {
  const numbers = new Map<string, number>();
  const indices = Int32Array.from(items, (item) => {
    const key = name(item);
    const known = numbers.get(key);
    if (known !== undefined) return known;
    numbers.set(key, numbers.size);
    return numbers.size - 1;
  });
  return [indices, numbers.size];
}

function at(values: ArrayLike<number>, index: number): number {
  return values[index] as number;
}
