/** A share of right answers with the uncertainty that comes from asking about the same thing several times. */
export interface ClusteredShare {
  /** Right answers over all answers, 0…1. */
  share: number;
  /** Standard error of the share, with answers of one cluster taken as dependent. */
  standardError: number;
  /** share ± 1.96 standard errors, cut to 0…1. */
  interval95: [number, number];
}

/**
 * Share of right answers and its cluster-robust standard error: sqrt(G/(G-1) · Σ_g (Σ_{i∈g} (y_i − p))²) / n, with G clusters and n answers
 * (Liang & Zeger 1986; as recommended for evaluations by Miller 2024, arXiv 2411.00640).
 * @throws RangeError when there are no answers
 */
export function clusteredShare(answers: Iterable<{ cluster: string; right: boolean }>): ClusteredShare {
  const clusters = new Map<string, { right: number; count: number }>();
  let [right, count] = [0, 0];
  for (const answer of answers) {
    const cluster = clusters.get(answer.cluster) ?? { right: 0, count: 0 };
    cluster.right += Number(answer.right);
    cluster.count++;
    clusters.set(answer.cluster, cluster);
    right += Number(answer.right);
    count++;
  }
  if (count === 0) throw new RangeError('clusteredShare: expected at least one answer');
  const share = right / count;
  let squares = 0;
  for (const cluster of clusters.values()) squares += (cluster.right - share * cluster.count) ** 2;
  const groups = clusters.size;
  const standardError = groups > 1 ? Math.sqrt((groups / (groups - 1)) * squares) / count : Number.NaN;
  const reach = Number.isNaN(standardError) ? 1 : 1.96 * standardError;
  return { share, standardError, interval95: [Math.max(0, share - reach), Math.min(1, share + reach)] };
}
