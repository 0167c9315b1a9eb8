import { chooseWhere } from './draw-where.ts';
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
    const { maxNewTokens } = this.#request;
    const left = maxNewTokens - this.#drawn - 1;
    let drawn = this.#drawFrom(logits_V, place, Number.POSITIVE_INFINITY);
    if (drawn === null) throw new Error('internal: the constraint allows no token although its text is not complete');
    // Near the token limit only tokens that leave room for an end are drawn from, so that the answer is whole; unless there was
    // never enough room. One token is kept for the end itself.
    if (place.distance <= left && !leavesRoom(drawn.after, left - 1))
      drawn = this.#drawFrom(logits_V, place, left - 1) ?? drawn;
    this.#place = drawn.after ?? place;
    return drawn.id;
  }

  /**
   * Draws among the tokens that fit at a place and leave room for an end within `budget` one-byte tokens.
   * @returns the token and the place after it, `null` for one that ends the answer; or `null` when there is no such token
   */
  #drawFrom(
    logits_V: Float32Array,
    place: Place,
    budget: number,
  ): { readonly id: number; readonly after: Place | null } | null {
    const { stopIds, sampling } = this.#request;
    const { trie } = sampling.constraint!;
    const matcher = this.#matcher!;
    const ends = place.canEnd ? stopIds : [];
    const afterOf = (id: number) => {
      if (id >= trie.vocabulary) return null;
      const bytes = tokenText(trie, id);
      return bytes.length === 0 ? null : matcher.after(place, bytes);
    };
    const known = budget === Number.POSITIVE_INFINITY ? matcher.quickMask(place) : null;
    if (known === null || known.ids === null) {
      const id = chooseWhere(logits_V, sampling, this.#drawn, (candidate) => {
        if (ends.includes(candidate)) return true;
        if (known !== null && !isIn(known, candidate)) return false;
        const after = afterOf(candidate);
        return after !== null && leavesRoom(after, budget);
      });
      if (id !== null) return { id, after: ends.includes(id) ? null : afterOf(id) };
    }
    const mask =
      budget === Number.POSITIVE_INFINITY ? (known ?? matcher.mask(place)) : matcher.maskWithin(place, budget);
    if (mask.count + ends.length === 0) return null;
    const id = this.#drawAmong(logits_V, mask, ends);
    if (ends.includes(id)) return { id, after: null };
    const after = afterOf(id);
    // Only where a place of too many readings kept the nearest ones: a mask is made reading by reading.
    if (after === null) return this.#drawFrom(logits_V, place, Number.MAX_VALUE);
    return { id, after };
  }

  #drawAmong(logits_V: Float32Array, mask: TokenMask, ends: readonly number[]): number {
    const { sampling } = this.#request;
    if (mask.ids !== null)
      return choose(logits_V, sampling, this.#drawn, ends.length === 0 ? mask.ids : [...mask.ids, ...ends]);
    const masked = logits_V === scratch || logits_V.buffer === scratch.buffer ? logits_V.slice() : copyOf(logits_V);
    for (let id = 0; id < masked.length; id++) if (!isIn(mask, id)) masked[id] = Number.NEGATIVE_INFINITY;
    for (const id of ends) masked[id] = logits_V[id]!;
    return choose(masked, sampling, this.#drawn);
  }
}

/** Whether the answer can end within `budget` one-byte tokens, or has. `null`: it has. */
function leavesRoom(after: Place | null, budget: number): boolean {
  return after === null || after.isComplete || after.distance <= budget;
}

function isIn({ bits }: TokenMask & { readonly ids: null }, id: number): boolean {
  return ((bits[id >>> 5] ?? 0) & (1 << (id & 31))) !== 0;
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
