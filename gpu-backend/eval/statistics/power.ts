import { normalQuantile } from './distributions.ts';

export interface Power {
  /** Chance of seeing a difference that is there, 0.8 for 80 %. */
  readonly power: number;
  /** Of the two-sided test, 0.95 for a level of 5 %. */
  readonly confidence: number;
  /** Smallest true difference that as many questions as in this run show with that chance, 0 … 1. */
  readonly smallestDifference: number;
  /** Questions needed to see a true difference of so many percentage points, in clusters as in this run. */
  readonly needed: readonly { readonly points: number; readonly items: number; readonly clusters: number }[];
}

/**
 * How many questions it takes to see a difference, from the standard error of a difference that was measured: SE shrinks with the root of the number of
 * clusters, and a difference of (z_{1−α/2} + z_{power}) SE is seen with the chance `power`. Miller 2024, arXiv 2411.00640, section 5; with the clustered and
 * paired error in place of its variance terms.
 * @param difference of which the error is known, with the items and clusters that it was measured on
 */
export function powerOf(
  difference: { readonly standardError: number; readonly items: number; readonly clusters: number },
  { power = 0.8, confidence = 0.95, points = [1, 2, 5] as readonly number[] } = {},
): Power {
  const reach = normalQuantile(0.5 + confidence / 2) + normalQuantile(power);
  const smallestDifference = reach * difference.standardError;
  return {
    power,
    confidence,
    smallestDifference,
    needed: points.map((point) => {
      const clusters = Math.max(2, Math.ceil(difference.clusters * (smallestDifference / (point / 100)) ** 2 - 1e-9));
      return { points: point, clusters, items: Math.ceil((clusters * difference.items) / difference.clusters) };
    }),
  };
}

/**
 * Standard error of the difference of two models of which one was measured: the other taken as equally variable, both means correlated so much.
 * 0 where they answer different questions; on the same questions usually 0.3 to 0.7 (Miller 2024, section 4.2).
 */
export function errorOfDifference(standardError: number, correlation: number): number {
  return standardError * Math.sqrt(2 * (1 - correlation));
}
