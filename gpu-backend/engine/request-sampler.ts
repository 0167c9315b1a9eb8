import type { Constraint } from './grammar/constraint.ts';
import { GrammarMatcher } from './grammar/matcher.ts';
import type { Place } from './grammar/place.ts';
import type { TokenMask } from './grammar/token-mask.ts';
import { tokenText } from './grammar/token-trie.ts';
import type { EngineRequest } from './live-request.ts';
import { choose, type SampledToken, withLogprobs } from './sampler.ts';

/** Matchers kept: what they have learnt of their grammars (places, masks) serves the requests to come. */
const MAX_MATCHERS = 16;
const matchers = new Map<string, GrammarMatcher>();
/** Adjusted logits of one call. */
let scratch = new Float32Array(0);

/**
 * Chooses the tokens of one request. All state of sampling lives here: the engine keeps the object from arrival to end, also
 * while the request is preempted, and calls `next` once per generated token, in order. What it draws depends on the request and
 * on how many tokens it has drawn, never on batch mates.
 */
export class RequestSampler {
  readonly #request: Pick<EngineRequest, 'sampling' | 'topLogprobs' | 'maxNewTokens' | 'stopIds'>;
  /** Tokens of prompt and answer; only kept where a repetition penalty asks. */
  readonly #seen: Set<number> | null;
  /** Occurrences in the answer; only counted where a penalty asks. */
  readonly #counts: Map<number, number> | null;
  readonly #matcher: GrammarMatcher | null;
  /** Where the answer stands in its constraint. */
  #place: Place | null;
  #drawn = 0;

  constructor(request: Pick<EngineRequest, 'tokenIds' | 'sampling' | 'topLogprobs' | 'maxNewTokens' | 'stopIds'>) {
    const { presencePenalty = 0, frequencyPenalty = 0, repetitionPenalty = 1, constraint } = request.sampling;
    this.#request = request;
    this.#seen = repetitionPenalty === 1 ? null : new Set(request.tokenIds);
    this.#counts = presencePenalty === 0 && frequencyPenalty === 0 ? null : new Map();
    this.#matcher = constraint === undefined ? null : matcherOf(constraint);
    this.#place = this.#matcher?.start ?? null;
  }

  /** True when nothing may follow the token drawn last (a constraint is complete): the answer ends with reason `stop`. */
  get finished(): boolean {
    return this.#place?.isComplete ?? false;
  }

  /**
   * The next token from the model's logits after the token drawn last. `logits_V` is only read.
   * @throws Error when the logits are not finite
   */
  next(logits_V: Float32Array): SampledToken {
    const adjusted = this.#adjusted(logits_V);
    const id =
      this.#place === null
        ? choose(adjusted, this.#request.sampling, this.#drawn)
        : this.#constrained(adjusted, this.#place);
    this.#drawn++;
    this.#seen?.add(id);
    this.#counts?.set(id, (this.#counts.get(id) ?? 0) + 1);
    return withLogprobs(logits_V, id, this.#request.topLogprobs);
  }

  /** Logits with penalties and biases, in HF's order: repetition, presence and frequency, bias. The model's own where there are none. */
  #adjusted(logits_V: Float32Array): Float32Array {
    const { presencePenalty = 0, frequencyPenalty = 0, repetitionPenalty = 1, logitBias = [] } = this.#request.sampling;
    if (this.#seen === null && this.#counts === null && logitBias.length === 0) return logits_V;
    const adjusted = copyOf(logits_V);
    const V = adjusted.length;
    for (const id of this.#seen ?? []) {
      if (id >= V) continue;
      const value = adjusted[id]!;
      adjusted[id] = value > 0 ? value / repetitionPenalty : value * repetitionPenalty;
    }
    for (const [id, count] of this.#counts ?? []) adjusted[id]! -= presencePenalty + frequencyPenalty * count;
    for (const [id, bias] of logitBias) if (id < V) adjusted[id]! += bias;
    return adjusted;
  }

  /** Draws among the tokens that the constraint allows, and moves on in it. */
  #constrained(logits_V: Float32Array, place: Place): number {
    const { stopIds, maxNewTokens } = this.#request;
    const matcher = this.#matcher!;
    const { trie } = this.#request.sampling.constraint!;
    const left = maxNewTokens - this.#drawn - 1;
    const ends = place.canEnd ? stopIds : [];
    let id = this.#drawAmong(logits_V, matcher.mask(place), ends);
    if (ends.includes(id)) return id;
    let after = matcher.after(place, tokenText(trie, id))!;
    // Near the token limit only tokens that leave room for an end are drawn from, so that the answer is whole; unless there was
    // never enough room. One token is kept for the end itself.
    if (place.distance <= left && after.distance > left - 1 && !after.isComplete) {
      const closing = matcher.maskWithin(place, left - 1);
      if (closing.count + ends.length > 0) {
        id = this.#drawAmong(logits_V, closing, ends);
        if (ends.includes(id)) return id;
        after = matcher.after(place, tokenText(trie, id))!;
      }
    }
    this.#place = after;
    return id;
  }

  #drawAmong(logits_V: Float32Array, { bits, count, ids }: TokenMask, ends: readonly number[]): number {
    const { sampling } = this.#request;
    if (count + ends.length === 0)
      throw new Error('internal: the constraint allows no token although its text is not complete');
    if (ids !== null) return choose(logits_V, sampling, this.#drawn, ends.length === 0 ? ids : [...ids, ...ends]);
    const masked = logits_V === scratch || logits_V.buffer === scratch.buffer ? logits_V.slice() : copyOf(logits_V);
    for (let id = 0; id < masked.length; id++)
      if (((bits[id >>> 5] ?? 0) & (1 << (id & 31))) === 0) masked[id] = Number.NEGATIVE_INFINITY;
    for (const id of ends) masked[id] = logits_V[id]!;
    return choose(masked, sampling, this.#drawn);
  }
}

function copyOf(logits_V: Float32Array): Float32Array {
  if (scratch.length < logits_V.length) scratch = new Float32Array(logits_V.length);
  const copy = scratch.subarray(0, logits_V.length);
  copy.set(logits_V);
  return copy;
}

function matcherOf(constraint: Constraint): GrammarMatcher {
  const { key, grammar, trie, skipsFirstSpace } = constraint;
  const matcher = matchers.get(key) ?? new GrammarMatcher(grammar, trie, skipsFirstSpace);
  matchers.delete(key);
  matchers.set(key, matcher);
  const oldest = matchers.keys().next();
  if (matchers.size > MAX_MATCHERS && oldest.done !== true) matchers.delete(oldest.value);
  return matcher;
}
