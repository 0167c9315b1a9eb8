import type { Context } from 'hono';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type AskOptions, beginChat } from '../chat/complete.ts';
import { validateChat } from '../chat/validate.ts';
import { wholeResponse } from '../chat/whole.ts';
import type { AppEnv } from '../env.ts';
import { admittedForModel } from '../limits/admitted.ts';
import { readJsonValue } from '../middleware/body.ts';

/** `POST /v1/chat/completions`. */
export async function createChatCompletion(c: Context<AppEnv>): Promise<Response> {
  const who = { requestId: c.get('requestId'), tenant: c.get('tenant') };
  const valid = await validateChat(c.env, who, await readJsonValue(c), who);
  valid.request.deadlineMs = deadlineMs(c);
  return await admittedForModel(c, valid, async () => {
    const options = askOptions(c);
    const whole = valid.chat.stream !== true;
    const begun = await beginChat(c.env, valid, { ...options, whole });
    if (whole) return await wholeResponse(begun, () => options.abort.abort());
    return new Response(begun.stream(), {
      headers: { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache', ...begun.headers },
    });
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
