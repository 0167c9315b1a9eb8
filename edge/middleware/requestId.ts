import type { MiddlewareHandler } from 'hono';
import { newId } from '../../shared/wire/ids.ts';
import type { AppEnv } from '../env.ts';

/** Takes a well-formed `x-request-id` or makes one, and answers with it; the official clients show it on every result and error. */
export function requestId(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const given = c.req.header('x-request-id');
    const id = given !== undefined && /^[\w.-]{1,128}$/.test(given) ? given : newId('req_');
    c.set('requestId', id);
    await next();
    c.res.headers.set('x-request-id', id);
  };
}
