/**
 * Score interval of a proportion, inside 0 … 1. Wilson 1927, JASA 22:209–212.
 * @param share right answers over all
 * @param n how many answers, not necessarily whole
 * @param z quantile of the distribution: 1.96 for 95 %
 */
export function wilson(share: number, n: number, z: number): [number, number] {
  const centre = (share + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  // At the ends rounding must not put the share outside its interval.
  return [Math.min(share, Math.max(0, centre - half)), Math.max(share, Math.min(1, centre + half))];
}
