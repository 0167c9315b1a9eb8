/** From a valid conversation to its answer, whole or as a stream, whoever asked: an HTTP client or a line of a batch. */
import type { GenerateRequest, Priority } from '../../shared/contract/backend.ts';
import type { ChatCompletion, ChatRequest } from '../../shared/contract/chat.ts';
import { newId } from '../../shared/wire/ids.ts';
import type { Env } from '../env.ts';
import { type Blob, generate } from '../fleet/forward.ts';
import type { KnownModel } from '../fleet/models.ts';
import { collect, type Identity, stream } from './answer.ts';

/** What validation leaves: nothing about it can be refused any more but for want of room. */
export type ValidChat = { chat: ChatRequest; model: KnownModel; request: GenerateRequest; blobs: Blob[] };

export type AskOptions = {
  priority: Priority;
  /** Frees the backend. */
  abort: AbortController;
  /** Keeps this invocation alive until the backend's slot is given back. */
  waitUntil: (work: Promise<unknown>) => void;
};

const SILENCE_SLACK_MS = 5_000;

/** The whole answer. @throws ApiError for every way in which none comes */
export async function completeChat(env: Env, valid: ValidChat, options: AskOptions): Promise<ChatCompletion> {
  const request = { ...valid.request, priority: options.priority };
  return await collect(await ask(env, valid, request, options), identityOf(valid), request);
}

/** The answer as chunks; refusals are thrown before the first byte. */
export async function streamChat(env: Env, valid: ValidChat, options: AskOptions): Promise<ReadableStream<Uint8Array>> {
  const request = { ...valid.request, priority: options.priority };
  const events = await ask(env, valid, request, options);
  const includeUsage = valid.chat.stream_options?.include_usage === true;
  return stream(events, identityOf(valid), request, { includeUsage, abort: () => options.abort.abort() });
}

function ask(env: Env, { model, blobs }: ValidChat, request: GenerateRequest, { abort }: AskOptions) {
  // The backend keeps the deadline; this is for one that has stopped answering at all.
  const signal = AbortSignal.any([abort.signal, AbortSignal.timeout(request.deadlineMs + SILENCE_SLACK_MS)]);
  return generate(env, model.card.id, request, blobs, signal);
}

function identityOf({ model }: ValidChat): Identity {
  return {
    id: newId('chatcmpl-'),
    created: Math.floor(Date.now() / 1000),
    model: model.id,
    fingerprint: `fp_${model.card.digest.replace(/^sha256:/, '').slice(0, 12)}`,
  };
}
