/** What is known of one request when it is over: filled in on its way, told once in its log line and in the metrics. */
import type { GenerateEvent } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import { metrics } from './metrics.ts';

/** Zero and null mean: does not apply. Times are milliseconds. */
export type RequestFacts = {
  readonly startMs: number;
  /** What is passed on to backends; null where nobody traces. */
  traceparent: string | null;
  /** As served: the base's id for tuned models, so that it can be a label. */
  model: string | null;
  stream: boolean;
  /** Pictures as sent, equal ones counted each; their bytes are counted once. */
  images: number;
  imageBytes: number;
  imagePixels: number;
  imageTokens: number;
  /** Where the features of each picture came from, in reading order, as far as the backend says. */
  imageSources: readonly string[];
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
  /** From its arrival until nothing about its content could be refused any more. */
  validateMs: number | null;
  /** Held at the door for want of room. */
  queueMs: number | null;
  firstTokenMs: number | null;
  backend: string | null;
  attempts: number;
  finishReason: string | null;
  /** Error code, also of an error inside a stream. */
  code: string | null;
  /** The client hung up before the end. */
  aborted: boolean;
  /** An answer that is not over when its headers are out; `observe` calls `onEnd` when it is. */
  pending: boolean;
  onEnd: (() => void) | null;
};

export function newFacts(): RequestFacts {
  return {
    startMs: Date.now(),
    traceparent: null,
    model: null,
    stream: false,
    images: 0,
    imageBytes: 0,
    imagePixels: 0,
    imageTokens: 0,
    imageSources: [],
    promptTokens: 0,
    cachedTokens: 0,
    completionTokens: 0,
    validateMs: null,
    queueMs: null,
    firstTokenMs: null,
    backend: null,
    attempts: 0,
    finishReason: null,
    code: null,
    aborted: false,
    pending: false,
    onEnd: null,
  };
}

/** The same events; what they say is written into `facts`, and its end, by whatever way, is told by `onEnd`. */
export async function* observe(
  events: AsyncIterable<GenerateEvent>,
  facts: RequestFacts,
): AsyncGenerator<GenerateEvent, void, undefined> {
  facts.pending = true;
  let ended = false;
  try {
    for await (const event of events) {
      switch (event.type) {
        case 'started':
          facts.promptTokens = event.promptTokens;
          facts.imageTokens = event.imageTokens.reduce((sum, tokens) => sum + tokens, 0);
          facts.imageSources = event.imageCache ?? [];
          // It may come again: another backend has begun anew.
          facts.completionTokens = 0;
          for (const source of event.imageCache ?? []) metrics.imageCache.inc(1, source);
          break;
        case 'delta':
          facts.firstTokenMs ??= Date.now() - facts.startMs;
          // About one token each; exact once it is over.
          facts.completionTokens++;
          break;
        case 'choice':
          break;
        case 'finished':
          ended = true;
          facts.finishReason = event.finishReason;
          facts.promptTokens = event.usage.promptTokens;
          facts.completionTokens = event.usage.completionTokens;
          facts.cachedTokens = event.usage.cachedTokens;
          break;
        case 'error':
          ended = true;
          facts.code = event.error.code;
          break;
        default:
          event satisfies never;
      }
      yield event;
    }
    // An end without its event is an error too, which whoever reads this makes of it.
    if (!ended) facts.code = 'backend_failed';
    ended = true;
  } catch (error) {
    ended = true;
    facts.code = error instanceof ApiError ? error.code : 'backend_failed';
    throw error;
  } finally {
    facts.aborted = !ended;
    facts.pending = false;
    facts.onEnd?.();
  }
}

/** Counts a request that is over. @param route its pattern in the route table */
export function countRequest(facts: RequestFacts, method: string, route: string, status: number): void {
  metrics.requests.inc(1, method, route, `${Math.floor(status / 100)}xx`);
  metrics.requestDuration.observe((Date.now() - facts.startMs) / 1000, route);
  if (facts.code !== null) metrics.rejections.inc(1, facts.code);
  if (facts.aborted) metrics.aborts.inc(1);
  const { model } = facts;
  if (model === null) return;
  if (facts.queueMs !== null) metrics.queueWait.observe(facts.queueMs / 1000, model);
  if (facts.firstTokenMs !== null) metrics.timeToFirstToken.observe(facts.firstTokenMs / 1000, model);
  metrics.requestImages.observe(facts.images, model);
  if (facts.images > 0) {
    metrics.requestImageBytes.observe(facts.imageBytes, model);
    if (facts.imagePixels > 0) metrics.requestImagePixels.observe(facts.imagePixels, model);
    metrics.requestImageTokens.observe(facts.imageTokens, model);
  }
  if (facts.finishReason === null) return;
  metrics.answers.inc(1, model, facts.finishReason);
  metrics.images.inc(facts.images, model);
  metrics.requestPromptTokens.observe(facts.promptTokens, model);
  metrics.requestGenerationTokens.observe(facts.completionTokens, model);
  metrics.promptTokens.inc(facts.promptTokens, model);
  metrics.cachedTokens.inc(facts.cachedTokens, model);
  metrics.generationTokens.inc(facts.completionTokens, model);
}
