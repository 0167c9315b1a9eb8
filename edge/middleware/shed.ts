import type { MiddlewareHandler } from 'hono';
import type { AppEnv } from '../env.ts';
import { overloadedFor } from '../fleet/failure.ts';
import { throttle } from '../fleet/throttle.ts';

/** In front of routes that want a backend: while there is no room, most are turned away before their body is read. @throws ApiError `overloaded` */
export function shed(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const retryAfterMs = throttle.refuses(Date.now(), Math.random());
    if (retryAfterMs !== null) throw overloadedFor(retryAfterMs);
    await next();
    if (c.res.status < 500 && c.get('facts').attempts === 0) throttle.withdrew(Date.now());
  };
}
