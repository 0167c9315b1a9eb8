import type { Picture } from '../models/family.ts';
import { RequestSampler } from './request-sampler.ts';
import type { SamplingParams } from './sampler.ts';
import type { ScheduledRequest } from './scheduler.ts';

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
  readonly tokenIds: Int32Array;
  readonly images: readonly ImageSlot[];
  /** ≥ 1, admitted by `admission.ts`. */
  readonly maxNewTokens: number;
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
  stage: ScheduledRequest['stage'];
  prefilledTokens: number;
  /** By image; `null` once encoded, since pixels are many times the size of features. */
  readonly pictures: (Picture | null)[];
  /** Features by image, in order; shorter than `request.images` while encoding. */
  features: Float32Array[];
  generatedTokens: number;
  lastToken: number;
  /** Made on arrival, kept through preemption: it counts the tokens it has drawn. */
  readonly sampler: RequestSampler;
  cancelled: boolean;
}

/** A request that has just arrived. */
export function newLive(request: EngineRequest, arrival: number): Live {
  return {
    request: { ...request, images: request.images.map((slot) => ({ ...slot, picture: null })) },
    pictures: request.images.map(({ picture }) => picture),
    arrival,
    stage: 'waiting',
    prefilledTokens: 0,
    features: [],
    generatedTokens: 0,
    lastToken: -1,
    sampler: new RequestSampler(request),
    cancelled: false,
  };
}

/** What the scheduler sees of it. */
export function scheduled(live: Live): ScheduledRequest {
  const { request } = live;
  return {
    id: request.id,
    arrival: live.arrival,
    stage: live.stage,
    promptTokens: request.tokenIds.length,
    prefilledTokens: live.prefilledTokens,
    maxNewTokens: request.maxNewTokens,
    pendingImages: live.stage === 'decode' ? 0 : request.images.length - live.features.length,
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
    const features = live.features[index]!;
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
