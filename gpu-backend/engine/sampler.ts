/**
 * From one row of logits to one token id. Everything here is per row and deterministic: temperature 0 is greedy (first of
 * equals), above that counter-based random numbers decide, so batch mates can never change an answer. What a request remembers
 * between its tokens (penalties, constraints) is in `request-sampler.ts`.
 */
import { argmax, argmaxAmong, mostLikely, race, raceAmong } from './candidates.ts';
import type { Constraint } from './grammar/constraint.ts';
import { drawOf } from './random.ts';

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
/** Classes of likelihood, by eighths of a nat below the likeliest token. */
const CLASSES_PER_NAT = 8;
const CLASSES = NEGLIGIBLE * CLASSES_PER_NAT + 1;
/** Candidates of one call: ids, likelihood relative to the likeliest, class. Grown to the largest vocabulary. */
let ids = new Int32Array(0);
let weights = new Float64Array(0);
let classes = new Uint16Array(0);
const massOfClass = new Float64Array(CLASSES);

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
  const draw = drawOf(seed, counter);
  const isRace = temperature > 0 && !truncates({ topK, topP, minP });
  const best =
    among !== null ? argmaxAmong(logits_V, among) : isRace ? race(logits_V, temperature, draw) : argmax(logits_V);
  const most = logits_V[best] ?? Number.NaN;
  if (!(most > Number.NEGATIVE_INFINITY))
    throw new Error(`Expected finite logits, got none among ${logits_V.length}; the weights are damaged or diverged.`);
  if (temperature === 0 || (isRace && among === null)) return best;
  if (isRace && among !== null) return raceAmong(logits_V, temperature, draw, among);
  const from = topK > 0 && topK < (among?.length ?? logits_V.length) ? mostLikely(logits_V, topK, among) : among;
  const candidates = from?.length ?? logits_V.length;
  if (ids.length < candidates) {
    ids = new Int32Array(candidates);
    weights = new Float64Array(candidates);
    classes = new Uint16Array(candidates);
  }
  const threshold = thresholdOf(most, { temperature, topP, minP });
  let count = 0;
  let sum = 0;
  for (let index = 0; index < candidates; index++) {
    const id = from === null ? index : from[index]!;
    const value = logits_V[id]!;
    if (!(value >= threshold)) continue;
    const below = (most - value) / temperature;
    ids[count] = id;
    if (topP < 1) {
      const weight = Math.exp(-below);
      classes[count] = below * CLASSES_PER_NAT;
      weights[count] = weight;
      sum += weight;
    }
    count++;
  }
  if (topP < 1) count = nucleus(logits_V, count, topP * sum, minP);
  return raceAmong(logits_V, temperature, draw, ids, count);
}

/** Whether some tokens are left out of the draw: which ones depends on all that may be drawn. */
export function truncates({ topK, topP, minP = 0 }: Pick<SamplingParams, 'topK' | 'topP' | 'minP'>): boolean {
  return topK > 0 || topP < 1 || minP > 0;
}

/** Logits below it are not drawn. Without top-p, min-p is a threshold that needs no weights. */
export function thresholdOf(
  most: number,
  { temperature, topP, minP = 0 }: Pick<SamplingParams, 'temperature' | 'topP' | 'minP'>,
): number {
  const least = topP < 1 || minP === 0 ? NEGLIGIBLE : Math.min(NEGLIGIBLE, -Math.log(minP));
  return most - temperature * least;
}

/**
 * Keeps the likeliest candidates until they have the mass, and of those the ones that are `minP` as likely as the best. Whole classes
 * of likelihood are kept or dropped; only the one in which the mass is reached is sorted.
 * @returns their number
 */
function nucleus(logits_V: Float32Array, count: number, mass: number, minP: number): number {
  massOfClass.fill(0);
  for (let index = 0; index < count; index++) massOfClass[classes[index]!]! += weights[index]!;
  let missing = mass;
  let last = 0;
  while (last < CLASSES - 1 && massOfClass[last]! < missing) missing -= massOfClass[last++]!;
  const edge: number[] = [];
  for (let index = 0; index < count; index++) if (classes[index] === last) edge.push(index);
  edge.sort((a, b) => logits_V[ids[b]!]! - logits_V[ids[a]!]! || ids[a]! - ids[b]!);
  const dropped = new Set<number>();
  for (const index of edge) {
    if (missing <= 0 && index !== edge[0]) dropped.add(index); // the likeliest token stays, also at top-p 0
    missing -= weights[index]!;
  }
  let kept = 0;
  for (let index = 0; index < count; index++) {
    if (classes[index]! > last || weights[index]! < minP || dropped.has(index)) continue;
    ids[kept] = ids[index]!;
    weights[kept++] = weights[index]!;
  }
  return kept;
}
