import type { Context } from 'hono';
import { ChatRequest, UNSUPPORTED_CHAT_FIELDS } from '../../shared/contract/chat.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type AskOptions, beginChat, type ValidChat } from '../chat/complete.ts';
import { buildPrompt } from '../chat/prompt.ts';
import { wholeResponse } from '../chat/whole.ts';
import type { AppEnv } from '../env.ts';
import { resolveModel } from '../fleet/models.ts';
import { readJson } from '../middleware/body.ts';

/** `POST /v1/chat/completions`. */
export async function createChatCompletion(c: Context<AppEnv>): Promise<Response> {
  const chat = await readJson(c, ChatRequest, { unsupported: UNSUPPORTED_CHAT_FIELDS });
  const who = { requestId: c.get('requestId'), tenant: c.get('tenant') };
  const model = await resolveModel(c.env, who.tenant, chat.model);
  const prompt = await buildPrompt(chat, model, { db: c.env.DB, blobs: c.env.BLOBS, tenant: who.tenant }, who);
  const valid: ValidChat = {
    chat,
    model,
    request: { ...prompt.request, deadlineMs: deadlineMs(c) },
    blobs: prompt.blobs,
  };
  const options = askOptions(c);
  const whole = chat.stream !== true;
  const begun = await beginChat(c.env, valid, { ...options, whole });
  if (whole) return await wholeResponse(begun.whole(), () => options.abort.abort(), {});
  return new Response(begun.stream(), {
    headers: { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' },
  });
}

/** What an answer needs to know of the HTTP request that asked for it. */
export function askOptions(c: Context<AppEnv>): AskOptions {
  const abort = new AbortController();
  c.req.raw.signal.addEventListener('abort', () => abort.abort());
  const waitUntil = (work: Promise<unknown>) => c.executionCtx.waitUntil(work);
  return { priority: 'interactive', abort, waitUntil, facts: c.get('facts') };
}

/** The official clients say how long they wait: nobody computes for a client that has given up. */
export function deadlineMs(c: Context<AppEnv>): number {
  const told = Number(c.req.header('x-stainless-timeout') ?? Number.NaN) * 1000;
  return told >= 1 ? Math.ceil(Math.min(told, LIMITS.request.deadlineMs)) : LIMITS.request.deadlineMs;
}
