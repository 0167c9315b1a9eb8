import type { MiddlewareHandler } from 'hono';
import type { AppEnv } from '../env.ts';

/** One JSON line a request when its headers are out. Internal heartbeats are left out unless they fail: they come every two seconds. */
export function log(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const startMs = Date.now();
    await next();
    const { status } = c.res;
    if (status < 400 && /^\/(internal|health)\b/.test(c.req.path)) return;
    console.log(
      JSON.stringify({
        level: status >= 500 ? 'error' : 'info',
        event: 'request',
        request_id: c.get('requestId'),
        key_id: c.get('keyId'),
        method: c.req.method,
        path: c.req.path,
        status,
        ms: Date.now() - startMs,
      }),
    );
  };
}
