import type { MiddlewareHandler } from 'hono';
import type { AppEnv } from '../env.ts';

/** One JSON line a request when its headers are out. Health probes are left out, internal calls unless they fail: they come every second. */
export function log(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const startMs = Date.now();
    await next();
    const { status } = c.res;
    const isProbe = c.req.path.startsWith('/health');
    if (isProbe || (status < 400 && c.req.path.startsWith('/internal/'))) return;
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
