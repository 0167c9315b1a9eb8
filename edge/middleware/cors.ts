/** Which web pages may call: none by default, since API keys do not belong into pages of strangers. */
import type { MiddlewareHandler } from 'hono';
import { parseOrigins } from '../../shared/wire/origins.ts';
import type { AppEnv } from '../env.ts';

const METHODS = 'GET, POST, PUT, PATCH, DELETE';
const MAX_AGE_S = '7200';
/** What pages may send: ours, OpenAI's, and whatever its client says of itself. */
const SENDABLE =
  /^(accept|authorization|content-type|idempotency-key|last-event-id|openai-[a-z-]+|range|traceparent|tracestate|x-request-id|x-stainless-[a-z-]+)$/;
/** What pages may read of an answer. */
export const EXPOSED = [
  'content-disposition',
  'content-range',
  'idempotent-replayed',
  'openai-processing-ms',
  'retry-after',
  'retry-after-ms',
  'server-timing',
  'traceparent',
  'x-image-cache',
  'x-ratelimit-limit-images',
  'x-ratelimit-limit-requests',
  'x-ratelimit-limit-tokens',
  'x-ratelimit-remaining-images',
  'x-ratelimit-remaining-requests',
  'x-ratelimit-remaining-tokens',
  'x-ratelimit-reset-images',
  'x-ratelimit-reset-requests',
  'x-ratelimit-reset-tokens',
  'x-request-id',
  'x-should-retry',
] as const;

let parsed: { text: string; origins: ReturnType<typeof parseOrigins> } = { text: '', origins: null };

/** Preflights are answered without a key; other answers say whether the page may read them. The inner routes know no pages. */
export function cors(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const text = c.env.CORS_ORIGINS ?? '';
    if (text !== parsed.text) parsed = { text, origins: parseOrigins(text) };
    const { origins } = parsed;
    if (origins === null || c.req.path.startsWith('/internal/')) return next();
    const origin = c.req.header('origin');
    const allowed = origin !== undefined && origins.allows(origin) ? (origins.any ? '*' : origin) : null;
    if (c.req.method === 'OPTIONS' && origin !== undefined && c.req.header('access-control-request-method')) {
      return preflight(allowed, origins.any, c.req.header('access-control-request-headers') ?? '');
    }
    await next();
    if (!origins.any) c.res.headers.append('vary', 'Origin');
    if (allowed === null) return;
    c.res.headers.set('access-control-allow-origin', allowed);
    c.res.headers.set('access-control-expose-headers', EXPOSED.join(', '));
  };
}

function preflight(allowed: string | null, any: boolean, asked: string): Response {
  const headers = new Headers();
  if (!any) headers.set('vary', 'Origin, Access-Control-Request-Headers');
  if (allowed === null) return new Response(null, { status: 204, headers });
  const sendable = asked
    .toLowerCase()
    .split(',')
    .map((name) => name.trim())
    .filter((name) => SENDABLE.test(name));
  headers.set('access-control-allow-origin', allowed);
  headers.set('access-control-allow-methods', METHODS);
  if (sendable.length > 0) headers.set('access-control-allow-headers', sendable.join(', '));
  headers.set('access-control-max-age', MAX_AGE_S);
  return new Response(null, { status: 204, headers });
}
