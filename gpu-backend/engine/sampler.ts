/**
 * From one row of logits to one token id. Everything here is per row and deterministic: temperature 0 is greedy (first of
 * equals), above that one counter-based uniform decides, so batch mates can never change an answer. What a request remembers
 * between its tokens (penalties, constraints) is in `request-sampler.ts`.
 */
import type { Constraint } from './grammar/constraint.ts';
import { uniform } from './random.ts';

export interface SamplingParams {
  /** 0 = greedy. Range 0 … 2. */
  readonly temperature: number;
  /** Nucleus: smallest set of tokens whose probabilities sum to at least this. Range (0, 1]; 1 = off. */
  readonly topP: number;
  /** Keep the k most likely tokens; 0 = off. */
  readonly topK: number;
  /** Keep tokens at least this share as likely as the likeliest, after temperature. Range [0, 1]; default 0 = off. */
  readonly minP?: number;
  /** Any safe integer; the same seed gives the same text. */
  readonly seed: number;
  /** OpenAI's: taken off the logit of every token that the answer has. Range -2 … 2; default 0. */
  readonly presencePenalty?: number;
  /** OpenAI's: taken off once per occurrence in the answer. Range -2 … 2; default 0. */
  readonly frequencyPenalty?: number;
  /** Keskar et al. 2019, as in HF: logits of tokens in prompt or answer are divided by it, multiplied where negative. Default 1. */
  readonly repetitionPenalty?: number;
  /** Added to logits of single tokens, -100 … 100. */
  readonly logitBias?: readonly (readonly [id: number, bias: number])[];
  /** What the answer must look like. */
  readonly constraint?: Constraint;
}

export interface TokenLogprob {
  readonly id: number;
  /** Natural logarithm of the model's own probability, before temperature, penalties and truncation. */
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
  return withLogprobs(logits_V, choose(logits_V, params, counter), topLogprobs);
}

/** The token with what was asked about it, from the model's own logits. */
export function withLogprobs(logits_V: Float32Array, id: number, topLogprobs: number): SampledToken {
  if (topLogprobs < 0) return { id, logprob: Number.NaN, top: [] };
  const total = logSumExp(logits_V);
  const top = mostLikely(logits_V, topLogprobs).map((other) => ({ id: other, logprob: logits_V[other]! - total }));
  return { id, logprob: logits_V[id]! - total, top };
}

/** Less than e^-40 as likely as the likeliest token: all of a vocabulary of them would not change a rounding. */
const NEGLIGIBLE = 40;
/** Tokens that may be drawn, their ids and weights; grown to the largest vocabulary and used within one call only. */
let ids = new Int32Array(0);
let weights = new Float64Array(0);

/**
 * Draws a token: temperature, then top-k, top-p and min-p in HF's order.
 * @param among ids to choose among; `null` = all
 * @throws Error when there is no finite logit
 */
export function choose(
  logits_V: Float32Array,
  { temperature, topK, topP, minP = 0, seed }: SamplingParams,
  counter: number,
  among: ArrayLike<number> | null = null,
): number {
  const best = among === null ? argmax(logits_V) : argmaxAmong(logits_V, among);
  const most = logits_V[best] ?? Number.NaN;
  if (!(most > Number.NEGATIVE_INFINITY))
    throw new Error(`Expected finite logits, got none among ${logits_V.length}; the weights are damaged or diverged.`);
  if (temperature === 0) return best;

  const candidates = among?.length ?? logits_V.length;
  if (ids.length < candidates) {
    ids = new Int32Array(candidates);
    weights = new Float64Array(candidates);
  }
  const isTruncated = topK > 0 || topP < 1;
  // Without top-k and top-p, min-p alone is a threshold that needs no weights.
  const least = isTruncated || minP === 0 ? -NEGLIGIBLE : Math.max(-NEGLIGIBLE, Math.log(minP));
  const threshold = most + temperature * least;
  let count = 0;
  let sum = 0;
  for (let index = 0; index < candidates; index++) {
    const id = among === null ? index : among[index]!;
    const value = logits_V[id]!;
    if (!(value >= threshold)) continue;
    ids[count] = id;
    const weight = Math.exp((value - most) / temperature);
    weights[count++] = weight;
    sum += weight;
  }
  if (isTruncated) [count, sum] = truncate(count, sum, topK, topP, minP);
  let target = uniform(seed, counter) * sum;
  for (let index = 0; index < count; index++) {
    target -= weights[index]!;
    if (target < 0) return ids[index]!;
  }
  return ids[Math.max(count - 1, 0)]!; // rounding of the running sum: the last kept token
}

/**
 * Keeps the most likely candidates, best first, at the front of `ids` and `weights`; gives their number and their sum. Top-p is a
 * share of what top-k leaves.
 */
function truncate(count: number, sum: number, topK: number, topP: number, minP: number): [count: number, sum: number] {
  // A heap gives the best ones one by one, as many as are kept, and never sorts the rest. They gather behind the shrinking heap.
  for (let at = (count >>> 1) - 1; at >= 0; at--) sink(at, count);
  const isCut = topK > 0 && topK < count;
  const pops = isCut ? topK : count;
  const needed = isCut ? Number.POSITIVE_INFINITY : topP * sum;
  let mass = 0;
  let popped = 0;
  while (popped < pops && (topP === 1 || mass < needed)) {
    mass += weights[0]!;
    popped++;
    swap(0, count - popped);
    sink(0, count - popped);
  }
  const bestIds = ids.slice(count - popped, count).reverse();
  const bestWeights = weights.slice(count - popped, count).reverse();
  const share = topP === 1 ? Number.POSITIVE_INFINITY : topP * (isCut ? mass : sum);
  let kept = 0;
  let total = 0;
  while (kept < popped && total < share && bestWeights[kept]! >= minP * bestWeights[0]!) {
    ids[kept] = bestIds[kept]!;
    weights[kept] = bestWeights[kept]!;
    total += bestWeights[kept++]!;
  }
  return [kept, total];
}

/** Whether candidate a goes before b: more likely, or equal with the smaller id. */
function isBefore(a: number, b: number): boolean {
  return weights[a]! > weights[b]! || (weights[a] === weights[b] && ids[a]! < ids[b]!);
}

function sink(from: number, count: number): void {
  let at = from;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= count) return;
    if (child + 1 < count && isBefore(child + 1, child)) child++;
    if (!isBefore(child, at)) return;
    swap(at, child);
    at = child;
  }
}

function swap(a: number, b: number): void {
  const [id, weight] = [ids[a]!, weights[a]!];
  ids[a] = ids[b]!;
  weights[a] = weights[b]!;
  ids[b] = id;
  weights[b] = weight;
}

function argmaxAmong(logits_V: Float32Array, among: ArrayLike<number>): number {
  let best = among[0] ?? 0;
  let bestValue = Number.NEGATIVE_INFINITY;
  for (let index = 0; index < among.length; index++) {
    const value = logits_V[among[index]!]!;
    if (value > bestValue) {
      bestValue = value;
      best = among[index]!;
    }
  }
  return best;
}

/** Ids of the `count` largest logits, best first; equals by id. A bounded insertion keeps small counts linear in the vocabulary. */
function mostLikely(logits_V: Float32Array, count: number): number[] {
  if (count <= 0) return [];
  const best: number[] = [];
  for (let id = 0; id < logits_V.length; id++) {
    const value = logits_V[id]!;
    if (Number.isNaN(value) || (best.length === count && value <= logits_V[best[count - 1]!]!)) continue;
    // Binary search for its place: after all that are as large or larger.
    let low = 0;
    let high = best.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (logits_V[best[middle]!]! >= value) low = middle + 1;
      else high = middle;
    }
    best.splice(low, 0, id);
    if (best.length > count) best.pop();
  }
  return best;
}
