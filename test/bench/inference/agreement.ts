/** log softmax; entries that are NaN (not reported) are left out. */
export function logSoftmax(logits: Float32Array): Float32Array {
  let most = Number.NEGATIVE_INFINITY;
  for (const value of logits) if (value > most) most = value;
  let sum = 0;
  for (const value of logits) if (!Number.isNaN(value)) sum += Math.exp(value - most);
  return logits.map((value) => value - most - Math.log(sum));
}

export interface Agreement {
  /** Root mean square of the differences of log-probabilities, as a share of the reference's standard deviation. */
  readonly error: number;
  readonly sameArgmax: boolean;
  /** Log-probabilities compared. */
  readonly count: number;
}

/** @param logits of the whole vocabulary, or log-probabilities with NaN where the contender reports none */
export function agreement(logits: Float32Array, reference: Float32Array): Agreement {
  const isWhole = !logits.some(Number.isNaN);
  const own = isWhole ? logSoftmax(logits) : logits;
  const mean = reference.reduce((sum, x) => sum + x, 0) / reference.length;
  const variance = reference.reduce((sum, x) => sum + (x - mean) ** 2, 0) / reference.length;
  let squares = 0;
  let count = 0;
  let best = -1;
  for (const [id, value] of own.entries()) {
    if (Number.isNaN(value)) continue;
    squares += (value - reference[id]!) ** 2;
    count++;
    if (best < 0 || value > own[best]!) best = id;
  }
  const most = reference.reduce((top, value, id) => (value > reference[top]! ? id : top), 0);
  return { error: Math.sqrt(squares / count / variance), sameArgmax: best === most, count };
}
