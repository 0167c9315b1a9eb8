import type { Picture } from '../models/family.ts';
import type { PromptSymbols } from './kv/prompt-symbols.ts';
import { RequestSampler } from './request-sampler.ts';
import type { SamplingParams } from './sampler.ts';
import type { Priority, ScheduledRequest } from './scheduler/types.ts';

/** A picture's place in the prompt; recorded while tokenizing, never searched for. */
export interface ImageSlot {
  /** First position and number of positions. */
  readonly start: number;
  readonly tokens: number;
  /** Names the features: digest of the pixels, recipe, model. Equal keys mean equal features. */
  readonly key: string;
  /** `null` when the caller knows that the features are cached (pinned by the call `hold`). */
  readonly picture: Picture | null;
}

export interface EngineRequest {
  readonly id: string;
  /** Requests of another scope (model, adapter, tenant) share no cached work with this one. From `feature-key.ts`. */
  readonly cacheScope: string;
  /** Adapter of the model's runner that answers; `null` = the model itself. */
  readonly adapter: string | null;
  readonly priority: Priority;
  readonly tokenIds: Int32Array;
  readonly images: readonly ImageSlot[];
  /** Admitted by `admission.ts`; 0 only where `readFrom` is given. */
  readonly maxNewTokens: number;
  /**
   * Tokens of the prompt from this position on (≥ 1) are what one wants to know the probability of: their log-probabilities come
   * as an event `read` when the prompt is done. `null` = none.
   */
  readonly readFrom: number | null;
  readonly sampling: SamplingParams;
  /** Token ids that end the answer; they are not part of it. */
  readonly stopIds: readonly number[];
  /** Alternatives to report per token; -1 = no log-probabilities. */
  readonly topLogprobs: number;
  readonly deadlineAtMs: number | null;
}

/** A request between its arrival and its end. */
export interface Live {
  /** Without its pictures, which are in `pictures`. */
  readonly request: EngineRequest;
  readonly arrival: number;
  readonly arrivedAtMs: number;
  stage: ScheduledRequest['stage'];
  /** Of the arena that its row is in, while it has one. */
  class: number;
  /** Prompt and generated tokens, `count` of them, with room for the longest answer. */
  readonly tokens: Int32Array;
  count: number;
  /** Positions whose keys and values are in its row. */
  held: number;
  /** Positions that came from the prefix tree when it was first admitted; `null` before. */
  cachedTokens: number | null;
  /** Another row that is computing the first `length` positions, which are this one's too. */
  sharing: { readonly with: Live; readonly length: number } | null;
  /** By image; `null` once encoded, since pixels are many times the size of features. */
  readonly pictures: (Picture | null)[];
  /** By image; `null` where they are not computed, or not needed because a prefix covers them. */
  readonly features: (Float32Array | null)[];
  /** Log-probabilities of the tokens from `readFrom` on, as far as the prompt has been read. */
  readonly reads: number[];
  /** Made on arrival, kept through preemption: it counts the tokens it has drawn. */
  readonly sampler: RequestSampler;
  cancelled: boolean;
}

/** A request that has just arrived. */
export function newLive(request: EngineRequest, arrival: number, nowMs: number): Live {
  const prompt = request.tokenIds;
  const tokens = new Int32Array(prompt.length + request.maxNewTokens);
  tokens.set(prompt);
  return {
    request: { ...request, images: request.images.map((slot) => ({ ...slot, picture: null })) },
    pictures: request.images.map(({ picture }) => picture),
    arrival,
    arrivedAtMs: nowMs,
    stage: 'waiting',
    class: 0,
    tokens,
    count: prompt.length,
    held: 0,
    cachedTokens: null,
    sharing: null,
    features: request.images.map(() => null),
    reads: [],
    sampler: new RequestSampler(request),
    cancelled: false,
  };
}

/** Tokens of the answer so far. */
export function generatedTokens({ count, request }: Live): number {
  return count - request.tokenIds.length;
}

/** The first `length` positions as the prefix tree compares them. */
export function symbolsOf({ tokens, count, request }: Live, length = count): PromptSymbols {
  return { tokenIds: tokens.subarray(0, length), images: request.images };
}

/** Images that the rest of the prompt needs and whose features are not there yet, by index. */
export function pendingImages({ request, features, held }: Live): number[] {
  return request.images.flatMap(({ start, tokens }, index) =>
    features[index] === null && start + tokens > held ? [index] : [],
  );
}

/** A row that would be ahead by fewer positions is not worth waiting for. */
const WORTH_WAITING = 32;

/** What the scheduler sees of it. */
export function scheduled(live: Live): ScheduledRequest {
  const { request, sharing, held } = live;
  const isShared =
    sharing !== null && sharing.with.stage === 'prefill' && sharing.with.held < sharing.length
      ? sharing.length - held >= WORTH_WAITING
      : false;
  return {
    id: request.id,
    arrival: live.arrival,
    priority: request.priority,
    stage: live.stage,
    targetTokens: live.count,
    heldTokens: held,
    maxTokens: request.tokenIds.length + Math.max(1, request.maxNewTokens),
    pendingImages: live.stage === 'decode' ? 0 : pendingImages(live).length,
    sharesWith: isShared ? sharing!.with.request.id : null,
    waitingSinceMs: live.arrivedAtMs,
    cancelled: live.cancelled,
    deadlineAtMs: request.deadlineAtMs,
  };
}

/** The feature rows that fall into prompt positions from … to-1, cut where a chunk border falls inside a picture. */
export function imageRows(live: Live, from: number, to: number): { at: number; features: Float32Array }[] {
  const pieces: { at: number; features: Float32Array }[] = [];
  for (const [index, slot] of live.request.images.entries()) {
    const first = Math.max(slot.start, from);
    const end = Math.min(slot.start + slot.tokens, to);
    if (first >= end) continue;
    const features = live.features[index];
    if (features == null)
      throw new Error(
        `internal: image ${index + 1} of ${live.request.images.length} was not encoded before its prompt`,
      );
    const width = features.length / slot.tokens;
    if (!Number.isInteger(width))
      throw new Error(
        `image ${index + 1} of ${live.request.images.length} has ${features.length} feature values, which do not fill its ${slot.tokens} tokens`,
      );
    pieces.push({
      at: first - from,
      features: features.subarray((first - slot.start) * width, (end - slot.start) * width),
    });
  }
  return pieces;
}
