import type { Context } from 'hono';
import { ApiError } from '../../shared/contract/errors.ts';
import type { AppEnv } from '../env.ts';

/** The answer to an `ApiError`, with its retry hints. */
export function errorResponse(error: ApiError): Response {
  const headers = new Headers({ 'content-type': 'application/json' });
  const { retryAfterMs } = error.options;
  if (retryAfterMs !== undefined) {
    headers.set('retry-after', String(Math.ceil(retryAfterMs / 1000)));
    headers.set('retry-after-ms', String(Math.ceil(retryAfterMs)));
  }
  // The official client repeats every 409; ours are lasting states.
  if (error.status === 409) headers.set('x-should-retry', 'false');
  if (error.status === 401) headers.set('www-authenticate', 'Bearer');
  return new Response(JSON.stringify(error.envelope()), { status: error.status, headers });
}

/** Anything that is not an `ApiError` is our fault: logged whole, answered without its text. */
export function onError(error: Error, c: Context<AppEnv>): Response {
  if (error instanceof ApiError) return errorResponse(error);
  const requestId = c.get('requestId');
  console.error(
    JSON.stringify({ level: 'error', event: 'unhandled', request_id: requestId, error: error.stack ?? String(error) }),
  );
  return errorResponse(new ApiError('server_error', `The server failed to answer. Request id: ${requestId}.`));
}

export function notFound(c: Context<AppEnv>): Response {
  return errorResponse(
    new ApiError('not_found', `${c.req.method} ${c.req.path}: no such route. /openapi.json lists the routes.`),
  );
}
