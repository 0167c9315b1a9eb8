/** From a valid conversation to its answer, whole or as a stream, whoever asked: an HTTP client or a line of a batch. */
import type { GenerateEvent, GenerateRequest, Priority } from '../../shared/contract/backend.ts';
import type { ChatCompletion, ChatRequest } from '../../shared/contract/chat.ts';
import { IMAGE_CACHE_HEADER } from '../../shared/contract/images.ts';
import { newId } from '../../shared/wire/ids.ts';
import type { Env } from '../env.ts';
import { generate } from '../fleet/forward.ts';
import type { KnownModel } from '../fleet/models.ts';
import type { Blob } from '../images/transfer.ts';
import { observe, type RequestFacts } from '../metrics/facts.ts';
import { collect, type Identity, imagesOf, type StartedEvent, stream } from './answer.ts';

/** What validation leaves: nothing about it can be refused any more but for want of room. */
export type ValidChat = { chat: ChatRequest; model: KnownModel; request: GenerateRequest; blobs: Blob[] };

export type AskOptions = {
  priority: Priority;
  /** Frees the backend. */
  abort: AbortController;
  /** Keeps this invocation alive until the backend's place is given back. */
  waitUntil: (work: Promise<unknown>) => void;
  /** Filled in on the way. */
  facts: RequestFacts;
};

export type AnswerWatch = { onBreak(): void; onBegin(): void };

/** An answer that has begun: a backend has taken the request. */
export type BegunAnswer = {
  started: StartedEvent;
  /** To be sent with it. */
  headers: Record<string, string>;
  /**
   * The whole of it.
   * @param watch told when nobody works on it any more and when somebody has begun it anew
   * @throws ApiError where it breaks and nobody else can give it
   */
  whole(watch?: AnswerWatch): Promise<ChatCompletion>;
  /** As OpenAI's chunks; what goes wrong becomes an event in it. */
  stream(): ReadableStream<Uint8Array>;
};

/** The whole answer. @throws ApiError for every way in which none comes */
export async function completeChat(env: Env, valid: ValidChat, options: AskOptions): Promise<ChatCompletion> {
  return await (await beginChat(env, valid, { ...options, whole: true })).whole();
}

/**
 * Waits for a backend and its first event.
 * @param options.whole nothing of the answer will be passed on before its end, so that another backend may begin it anew
 * @throws ApiError for every way in which no answer begins
 */
export async function beginChat(
  env: Env,
  valid: ValidChat,
  { whole, ...options }: AskOptions & { whole: boolean },
): Promise<BegunAnswer> {
  const { model, blobs, chat } = valid;
  // What lives as long as the answer must not hold on to the pictures.
  const includeUsage = chat.stream_options?.include_usage === true;
  const request = { ...valid.request, priority: options.priority };
  const { facts, abort } = options;
  facts.model = model.card.id;
  facts.stream = !whole;
  let watched: AnswerWatch | null = null;
  const onBreak = () => watched?.onBreak();
  const events = observe(
    await generate(env, request, blobs, { ...options, base: model.card.id, cost: costOf(valid), whole, onBreak }),
    facts,
  );
  const first = await events.next();
  if (first.done === true || first.value.type !== 'started')
    throw new Error('beginChat: expected a started event first');
  const started = first.value;
  const all = resumed(started, events);
  const identity = identityOf(model);
  const images = imagesOf(started, request);
  return {
    started,
    headers: images.length === 0 ? {} : { [IMAGE_CACHE_HEADER]: images.map(({ cache }) => cache).join(', ') },
    whole(watch) {
      watched = watch ?? null;
      return collect(all, identity, request, () => watch?.onBegin());
    },
    stream: () =>
      stream(all, identity, request, {
        includeUsage,
        abort: () => abort.abort(),
      }),
  };
}

async function* resumed(
  first: GenerateEvent,
  rest: AsyncGenerator<GenerateEvent, void, undefined>,
): AsyncGenerator<GenerateEvent, void, undefined> {
  try {
    yield first;
    yield* rest;
  } finally {
    await rest.return();
  }
}

/** Decoder positions, about: pictures as the card says, four characters of text a token, and an answer of middle length. */
export function costOf({ model, request }: Pick<ValidChat, 'model' | 'request'>): number {
  let images = 0;
  let chars = 0;
  for (const { parts } of request.messages)
    for (const part of parts) {
      if (part.type === 'image') images++;
      else chars += part.text.length;
    }
  const answer = Math.min(request.sampling.maxTokens ?? 128, 128) * (request.sampling.choices ?? 1);
  return images * model.card.tokensPerImage + Math.ceil(chars / 4) + answer;
}

/** Weights that answer alike have the same fingerprint: those of the base, or those laid over it. */
function identityOf({ id, card, adapter }: KnownModel): Identity {
  const weights = adapter?.files[0]?.sha256 ?? card.digest.replace(/^sha256:/, '');
  return {
    id: newId('chatcmpl-'),
    created: Math.floor(Date.now() / 1000),
    model: id,
    fingerprint: `fp_${weights.slice(0, 12)}`,
  };
}
