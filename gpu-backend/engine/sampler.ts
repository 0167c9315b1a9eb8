/**
 * From one row of logits to one token id. Everything here is per row and deterministic: temperature 0 is greedy (first of
 * equals), above that one counter-based uniform decides, so batch mates can never change an answer.
 */
import { uniform } from './random.ts';

export interface SamplingParams {
  /** 0 = greedy. Range 0 … 2. */
  readonly temperature: number;
  /** Nucleus: smallest set of tokens whose probabilities sum to at least this. Range (0, 1]; 1 = off. */
  readonly topP: number;
  /** Keep the k most likely tokens; 0 = off. */
  readonly topK: number;
  /** Any safe integer; the same seed gives the same text. */
  readonly seed: number;
}

export interface TokenLogprob {
  readonly id: number;
  /** Natural logarithm of the model's own probability, before temperature and truncation. */
  readonly logprob: number;
}

export interface SampledToken extends TokenLogprob {
  /** The most likely tokens with their log-probabilities, best first; as many as asked for. */
  readonly top: readonly TokenLogprob[];
}

/** Index of the largest value; the first of equals. NaN never wins. */
export function argmax(logits_V: Float32Array): number {
  let best = 0;
  let bestValue = Number.NEGATIVE_INFINITY;
  for (let id = 0; id < logits_V.length; id++) {
    const value = logits_V[id]!;
    if (value > bestValue) {
      bestValue = value;
      best = id;
    }
  }
  return best;
}

/** log Σ exp(x), shifted by the maximum so that it cannot overflow. */
export function logSumExp(values: Float32Array): number {
  let most = Number.NEGATIVE_INFINITY;
  for (const value of values) if (value > most) most = value;
  if (most === Number.NEGATIVE_INFINITY) return most;
  let sum = 0;
  for (const value of values) sum += Math.exp(value - most);
  return most + Math.log(sum);
}

/**
 * Samples the token at position `counter` of an answer (0 = first generated token).
 * `topLogprobs`: how many alternatives to report; -1 = none wanted at all (saves the pass over the vocabulary).
 * Throws when a logit is NaN: a broken model must not turn into plausible text.
 */
export function sample(
  logits_V: Float32Array,
  params: SamplingParams,
  counter: number,
  topLogprobs = -1,
): SampledToken {
  const id = params.temperature === 0 ? argmax(logits_V) : sampleId(logits_V, params, counter);
  if (Number.isNaN(logits_V[id]!) || logits_V[id] === Number.NEGATIVE_INFINITY)
    throw new Error(`Expected finite logits, got none among ${logits_V.length}; the weights are damaged or diverged.`);
  if (topLogprobs < 0) return { id, logprob: Number.NaN, top: [] };
  const total = logSumExp(logits_V);
  const top = mostLikely(logits_V, topLogprobs).map((other) => ({ id: other, logprob: logits_V[other]! - total }));
  return { id, logprob: logits_V[id]! - total, top };
}

function sampleId(logits_V: Float32Array, params: SamplingParams, counter: number): number {
  const truncated = params.topK > 0 || params.topP < 1;
  const ids = truncated ? mostLikely(logits_V, params.topK > 0 ? params.topK : logits_V.length) : null;
  const count = ids?.length ?? logits_V.length;
  const idAt = (index: number) => (ids === null ? index : ids[index]!);
  const most = logits_V[ids === null ? argmax(logits_V) : ids[0]!]!;

  const weights = new Float64Array(count);
  let sum = 0;
  for (let index = 0; index < count; index++) {
    const weight = Math.exp((logits_V[idAt(index)]! - most) / params.temperature);
    weights[index] = weight;
    sum += weight;
  }
  let kept = count;
  if (params.topP < 1) {
    let mass = 0;
    for (kept = 0; kept < count && mass < params.topP * sum; kept++) mass += weights[kept]!;
    sum = mass;
  }
  let target = uniform(params.seed, counter) * sum;
  for (let index = 0; index < kept; index++) {
    target -= weights[index]!;
    if (target < 0) return idAt(index);
  }
  return idAt(Math.max(kept - 1, 0)); // rounding of the running sum: the last kept token
}

/** Ids of the `count` largest logits, best first; equals by id. A bounded insertion keeps small counts linear in the vocabulary. */
function mostLikely(logits_V: Float32Array, count: number): number[] {
  if (count <= 0) return [];
  if (count > 64) {
    const all = Array.from(logits_V.keys()).filter((id) => !Number.isNaN(logits_V[id]!));
    return all.sort((a, b) => logits_V[b]! - logits_V[a]! || a - b).slice(0, count);
  }
  const best: number[] = [];
  for (let id = 0; id < logits_V.length; id++) {
    const value = logits_V[id]!;
    if (Number.isNaN(value) || (best.length === count && value <= logits_V[best[count - 1]!]!)) continue;
    let at = best.length;
    while (at > 0 && logits_V[best[at - 1]!]! < value) at--;
    best.splice(at, 0, id);
    if (best.length > count) best.pop();
  }
  return best;
}
