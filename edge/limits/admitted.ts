/** Limits in the request's way: what a route costs, and the headers and slots of its answer. */
import type { Context, MiddlewareHandler } from 'hono';
import type { AppEnv } from '../env.ts';
import { meteredOf } from '../usage/record.ts';
import { admit, chargeRefused, releasedAtEnd } from './admit.ts';
import { bodyBytes, costOfRequest, type Priced } from './cost.ts';
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
  const bytes = bodyBytes(c.req.raw.headers);
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
    if (SELF_ADMITTED.has(path)) {
      await next();
      const isRefusal = c.res.status >= 400 && c.res.status < 500;
      if (isRefusal && c.get('admission') === undefined) chargeRefused(c.env, c.executionCtx, c.get('caller'));
    } else {
      const bytes = bodyBytes(c.req.raw.headers);
      await admitted(c, { requests: 1, images: 0, imageTokens: 0, bytes }, async () => {
        await next();
        return c.res;
      }).then((response) => {
        if (response !== c.res) c.res = response;
      });
    }
    for (const [name, value] of Object.entries(c.get('admission')?.headers ?? {})) c.res.headers.set(name, value);
  };
}
