import type { Context } from 'hono';
import { ChatRequest, UNSUPPORTED_CHAT_FIELDS } from '../../shared/contract/chat.ts';
import { type AskOptions, completeChat, streamChat, type ValidChat } from '../chat/complete.ts';
import { buildPrompt } from '../chat/prompt.ts';
import type { AppEnv } from '../env.ts';
import { resolveModel } from '../fleet/models.ts';
import { readJson } from '../middleware/body.ts';

/** `POST /v1/chat/completions`. */
export async function createChatCompletion(c: Context<AppEnv>): Promise<Response> {
  const chat = await readJson(c, ChatRequest, { unsupported: UNSUPPORTED_CHAT_FIELDS });
  const model = await resolveModel(c.env, chat.model);
  const who = { requestId: c.get('requestId'), tenant: c.get('tenant') };
  const valid: ValidChat = {
    chat,
    model,
    ...(await buildPrompt(chat, model, { db: c.env.DB, blobs: c.env.BLOBS }, who)),
  };
  const options = askOptions(c);
  if (chat.stream !== true) return c.json(await completeChat(c.env, valid, options));
  return new Response(await streamChat(c.env, valid, options), {
    headers: { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' },
  });
}

function askOptions(c: Context<AppEnv>): AskOptions {
  const abort = new AbortController();
  c.req.raw.signal.addEventListener('abort', () => abort.abort());
  return { priority: 'interactive', abort, waitUntil: (work) => c.executionCtx.waitUntil(work) };
}
