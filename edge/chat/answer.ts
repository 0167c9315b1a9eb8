/** From a backend's events to OpenAI's completion or its stream of chunks. */
import type {
  BackendFinishReason,
  BackendUsage,
  GenerateEvent,
  GenerateRequest,
  LogprobEntry,
} from '../../shared/contract/backend.ts';
import type { ChatChunk, ChatCompletion, FinishReason, TokenLogprob, Usage } from '../../shared/contract/chat.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import { type ImageUsage, imageUsage } from '../../shared/contract/images.ts';
import { encodeSseJson, SSE_DONE, SSE_PING } from '../../shared/wire/sse.ts';
import { backendDied } from '../fleet/failure.ts';
import { relay } from '../middleware/relay.ts';

/** What all chunks of one answer share. */
export type Identity = { id: string; created: number; model: string; fingerprint: string };

export type StartedEvent = Extract<GenerateEvent, { type: 'started' }>;

type Events = AsyncGenerator<GenerateEvent, void, undefined>;

const PING_EVERY_MS = 15_000;

/**
 * Waits for the end.
 * @param onBegin a backend has begun it, or begun it anew
 * @throws ApiError if the backend fails or goes away
 */
export async function collect(
  events: Events,
  identity: Identity,
  request: GenerateRequest,
  onBegin: () => void,
): Promise<ChatCompletion> {
  const blank = () =>
    Array.from({ length: request.sampling.choices ?? 1 }, () => ({
      content: '',
      logprobs: [] as TokenLogprob[],
      reason: null as FinishReason | null,
    }));
  let choices = blank();
  let images: ImageUsage[] = [];
  let usage: Usage | null = null;
  for await (const event of guarded(events, request)) {
    if (event.type === 'started') {
      // It may come again: another backend has begun anew.
      choices = blank();
      onBegin();
      images = imagesOf(event, request);
    }
    if (event.type === 'started' || event.type === 'error') continue;
    const choice = choices[event.index];
    if (choice === undefined) throw backendDied(request, `choice ${event.index} was not asked for`);
    if (event.type === 'delta') {
      choice.content += event.text;
      choice.logprobs.push(...(event.logprobs ?? []).map(showLogprob));
    } else {
      choice.reason = finishReason(event, request);
      if (event.type === 'finished') usage = showUsage(event.usage, images);
    }
  }
  if (usage === null) throw backendDied(request, 'no finished event');
  return {
    id: identity.id,
    object: 'chat.completion',
    created: identity.created,
    model: identity.model,
    system_fingerprint: identity.fingerprint,
    choices: choices.map(({ content, logprobs, reason }, index) => {
      if (reason === null) throw backendDied(request, `choice ${index} did not end`);
      return {
        index,
        message: { role: 'assistant', content, refusal: null },
        logprobs: request.sampling.logprobs === undefined ? null : { content: logprobs, refusal: null },
        finish_reason: reason,
      };
    }),
    usage,
  };
}

/**
 * The chunk stream as bytes. An upstream that dies becomes an error event in the stream itself, because the runtime would otherwise end it cleanly and
 * clients would take half an answer for a whole one. A client that hangs up closes the backend's connection.
 */
export function stream(
  events: Events,
  identity: Identity,
  request: GenerateRequest,
  options: { includeUsage: boolean; abort: () => void },
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  const blocks = chunkBlocks(events, identity, request, options.includeUsage);
  return relay(async (send) => {
    const pinger = setInterval(() => void send(encoder.encode(SSE_PING)).catch(() => {}), PING_EVERY_MS);
    try {
      for await (const block of blocks) await send(encoder.encode(block));
    } finally {
      clearInterval(pinger);
    }
  }, options.abort);
}

async function* chunkBlocks(
  events: Events,
  identity: Identity,
  request: GenerateRequest,
  includeUsage: boolean,
): AsyncGenerator<string, void, undefined> {
  const chunk = (choices: ChatChunk['choices'], usage: Usage | null): string => {
    const head = {
      id: identity.id,
      object: 'chat.completion.chunk' as const,
      created: identity.created,
      model: identity.model,
    };
    const body: ChatChunk = {
      ...head,
      system_fingerprint: identity.fingerprint,
      choices,
      ...(includeUsage ? { usage } : {}),
    };
    return encodeSseJson(body);
  };
  let images: ImageUsage[] = [];
  let complete = false;
  try {
    for await (const event of guarded(events, request)) {
      switch (event.type) {
        case 'started':
          images = imagesOf(event, request);
          for (let index = 0; index < (request.sampling.choices ?? 1); index++)
            yield chunk(
              [{ index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null }],
              null,
            );
          break;
        case 'delta': {
          const { index, text, logprobs: entries } = event;
          const logprobs = entries === undefined ? null : { content: entries.map(showLogprob), refusal: null };
          yield chunk([{ index, delta: { content: text }, logprobs, finish_reason: null }], null);
          break;
        }
        case 'choice':
        case 'finished': {
          const reason = finishReason(event, request);
          yield chunk([{ index: event.index, delta: {}, logprobs: null, finish_reason: reason }], null);
          if (event.type === 'choice') break;
          if (includeUsage) yield chunk([], showUsage(event.usage, images));
          complete = true;
          break;
        }
        case 'error':
          break; // thrown by `guarded`
        default:
          event satisfies never;
      }
    }
    if (!complete) throw backendDied(request, 'stream ended without a finished event');
    yield SSE_DONE;
  } catch (error) {
    const shown = error instanceof ApiError ? error : backendDied(request, error);
    yield encodeSseJson(shown.envelope());
  }
}

/** Events with failures turned into `ApiError`s. */
async function* guarded(events: Events, request: GenerateRequest): Events {
  try {
    yield* events;
  } catch (error) {
    throw error instanceof ApiError ? error : backendDied(request, error);
  }
}

function finishReason(event: { finishReason: BackendFinishReason }, request: GenerateRequest): FinishReason {
  if (event.finishReason !== 'cancelled') return event.finishReason;
  throw new ApiError('deadline_exceeded', `The answer was cut off after its deadline of ${request.deadlineMs} ms.`);
}

/** What each picture took and where its features came from, in reading order. */
export function imagesOf({ imageTokens, imageCache }: StartedEvent, { messages }: GenerateRequest): ImageUsage[] {
  const blobs = messages.flatMap(({ parts }) => parts.flatMap((part) => (part.type === 'image' ? [part.blob] : [])));
  return imageUsage(imageTokens, imageCache, blobs);
}

export function showUsage(
  { promptTokens, completionTokens, imageTokens, cachedTokens }: BackendUsage,
  images: readonly ImageUsage[] = [],
): Usage {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: {
      cached_tokens: cachedTokens,
      image_tokens: imageTokens,
      ...(images.length === 0 ? {} : { images: [...images] }),
    },
  };
}

function showLogprob({ token, logprob, bytes, top }: LogprobEntry): TokenLogprob {
  return { token, logprob, bytes, top_logprobs: top };
}
