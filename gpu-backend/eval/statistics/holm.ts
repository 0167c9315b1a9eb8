/**
 * p-values of several tests made at once, raised so that rejecting those below α keeps the chance of any false rejection below α, whatever their dependence.
 * Holm 1979, Scandinavian Journal of Statistics 6:65–70: the k-th smallest of m times m − k + 1, never below the ones before it, at most 1.
 * @returns in the order given
 */
export function holm(pValues: readonly number[]): number[] {
  const order = [...pValues.keys()].sort((a, b) => (pValues[a] as number) - (pValues[b] as number) || a - b);
  const adjusted = new Array<number>(pValues.length).fill(1);
  let largest = 0;
  for (const [rank, index] of order.entries()) {
    largest = Math.max(largest, Math.min(1, (pValues[index] as number) * (pValues.length - rank)));
    adjusted[index] = largest;
  }
  return adjusted;
}
