import type { Context } from 'hono';
import { ChatRequest, UNSUPPORTED_CHAT_FIELDS } from '../../shared/contract/chat.ts';
import { newId } from '../../shared/wire/ids.ts';
import { collect, type Identity, stream } from '../chat/answer.ts';
import { buildPrompt } from '../chat/prompt.ts';
import type { AppEnv } from '../env.ts';
import { generate } from '../fleet/forward.ts';
import { resolveModel } from '../fleet/models.ts';
import { readJson } from '../middleware/body.ts';

const SILENCE_SLACK_MS = 5_000;

/** `POST /v1/chat/completions`. */
export async function createChatCompletion(c: Context<AppEnv>): Promise<Response> {
  const chat = await readJson(c, ChatRequest, { unsupported: UNSUPPORTED_CHAT_FIELDS });
  const model = await resolveModel(c.env, chat.model);
  const who = { requestId: c.get('requestId'), tenant: c.get('tenant') };
  const { request, blobs } = await buildPrompt(chat, model, { db: c.env.DB, blobs: c.env.BLOBS }, who);
  const aborter = new AbortController();
  c.req.raw.signal.addEventListener('abort', () => aborter.abort());
  // The backend keeps the deadline; this is for one that has stopped answering at all.
  const signal = AbortSignal.any([aborter.signal, AbortSignal.timeout(request.deadlineMs + SILENCE_SLACK_MS)]);
  const events = await generate(c.env, model.card.id, request, blobs, signal);
  const identity: Identity = {
    id: newId('chatcmpl-'),
    created: Math.floor(Date.now() / 1000),
    model: model.id,
    fingerprint: `fp_${model.card.digest.replace(/^sha256:/, '').slice(0, 12)}`,
  };
  if (chat.stream !== true) return c.json(await collect(events, identity, request));
  const includeUsage = chat.stream_options?.include_usage === true;
  return new Response(stream(events, identity, request, { includeUsage, abort: () => aborter.abort() }), {
    headers: { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' },
  });
}
