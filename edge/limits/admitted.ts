/** Limits in the request's way: what a route costs, and the headers and slots of its answer. */
import type { Context, MiddlewareHandler } from 'hono';
import type { AppEnv } from '../env.ts';
import { watched } from '../middleware/fingerprint.ts';
import { meteredOf } from '../usage/record.ts';
import { admit, charge, releasedAtEnd } from './admit.ts';
import { costOfRequest, type Priced } from './cost.ts';
import type { Cost } from './limiter.ts';

/** Routes that say themselves what they cost, once they know what is in the request. */
const SELF_ADMITTED: ReadonlySet<string> = new Set(['/v1/chat/completions', '/v1/score']);

/**
 * Runs a handler's work if the caller's limits allow its cost; the slot is given back when the answer's body has ended, failed or been given up.
 * @throws ApiError `rate_limit_exceeded`
 */
async function admitted(c: Context<AppEnv>, cost: Cost, work: () => Promise<Response>): Promise<Response> {
  c.set('admission', null);
  const admission = await admit(c.env, c.executionCtx, c.get('caller'), cost);
  c.set('admission', admission);
  try {
    return admission.isHeld ? releasedAtEnd(await work(), admission.release) : await work();
  } catch (error) {
    admission.release();
    throw error;
  }
}

/** The same for a request for a model, once validation knows what is in it; what it then uses is recorded when it is over. */
export function admittedForModel(
  c: Context<AppEnv>,
  valid: Priced & Parameters<typeof meteredOf>[0],
  work: () => Promise<Response>,
): Promise<Response> {
  const bytes = c.get('bodyBytes')();
  c.set('metered', meteredOf(valid, bytes));
  const facts = c.get('facts');
  facts.validateMs = Date.now() - facts.startMs;
  return admitted(c, costOfRequest(valid, bytes), work);
}

/**
 * For everything under /v1. Requests that make or change something cost one request and their bytes, looking and deleting is free; `SELF_ADMITTED`
 * routes ask by `admitted` after validation, and what they refuse before costs one request all the same.
 */
export function rateLimits(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const { method, path } = c.req;
    const isCreating = method === 'POST' || method === 'PUT';
    if (!isCreating || path.startsWith('/v1/admin/')) return next();
    const caller = c.get('caller');
    const { isTold, bytes } = bodyBytes(c);
    c.set('bodyBytes', bytes);
    if (SELF_ADMITTED.has(path)) {
      await next();
      const isRefusal = c.res.status >= 400 && c.res.status < 500;
      if (isRefusal && c.get('admission') === undefined) {
        charge(c.env, c.executionCtx, caller, { ...ONE_REQUEST, bytes: bytes() });
      }
    } else {
      const response = await admitted(c, { ...ONE_REQUEST, bytes: isTold ? bytes() : 0 }, async () => {
        await next();
        return c.res;
      });
      if (response !== c.res) c.res = response;
      if (!isTold) charge(c.env, c.executionCtx, caller, { ...ONE_REQUEST, requests: 0, bytes: bytes() });
    }
    for (const [name, value] of Object.entries(c.get('admission')?.headers ?? {})) c.res.headers.set(name, value);
  };
}

const ONE_REQUEST: Cost = { requests: 1, images: 0, imageTokens: 0, bytes: 0 };

/** Bytes of the request's body: as told by `content-length`, or where nothing is told, as read so far. */
function bodyBytes(c: Context<AppEnv>): { isTold: boolean; bytes: () => number } {
  const { raw } = c.req;
  const told = Number(raw.headers.get('content-length') ?? Number.NaN);
  if (Number.isSafeInteger(told) && told >= 0) return { isTold: true, bytes: () => told };
  let read = 0;
  c.req.raw = watched(raw, (chunk) => {
    read += chunk.byteLength;
  });
  return { isTold: false, bytes: () => read };
}
