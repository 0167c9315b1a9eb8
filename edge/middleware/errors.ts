import type { Context } from 'hono';
import { ApiError } from '../../shared/contract/errors.ts';
import type { AppEnv } from '../env.ts';

/** The answer to an `ApiError`, with its retry hints. */
export function errorResponse(error: ApiError): Response {
  const headers = new Headers({ 'content-type': 'application/json', ...error.options.headers });
  const { retryAfterMs } = error.options;
  if (retryAfterMs !== undefined) {
    headers.set('retry-after', String(Math.ceil(retryAfterMs / 1000)));
    headers.set('retry-after-ms', String(Math.ceil(retryAfterMs)));
  }
  headers.set('x-should-retry', String(shouldRetry(error)));
  if (error.status === 401) headers.set('www-authenticate', 'Bearer');
  return new Response(JSON.stringify(error.envelope()), { status: error.status, headers });
}

/**
 * What `x-should-retry` says, which the official clients obey before anything else: the same request may succeed later where we were at fault or too
 * busy, and never where it is at fault itself. Of the 409s only a first request that still runs passes; the others are lasting states.
 */
export function shouldRetry(error: ApiError): boolean {
  const { status, options } = error;
  return options.shouldRetry ?? (status >= 500 || status === 429 || status === 408);
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

/** Methods that the route table has for a path: `/v1/files/:id` matches one segment, `:id{.+}` any number. */
export function methodsFor(
  path: string,
  routes: readonly { readonly method: string; readonly path: string }[],
): string[] {
  const matches = (pattern: string): boolean => {
    const source = pattern
      .split('/')
      .map((part) => (part.startsWith(':') ? (part.endsWith('{.+}') ? '.+' : '[^/]+') : part.replace(/[.]/g, '\\.')))
      .join('/');
    return new RegExp(`^${source}$`).test(path);
  };
  const methods = routes
    .filter(({ method, path: pattern }) => method !== 'ALL' && matches(pattern))
    .map((r) => r.method);
  return [...new Set(methods)].sort();
}

/** 405 with `allow` for a known path with another method, 404 for an unknown path. */
export function notFound(routes: readonly { readonly method: string; readonly path: string }[]) {
  return (c: Context<AppEnv>): Response => {
    const allowed = methodsFor(c.req.path, routes);
    if (allowed.length === 0)
      return errorResponse(
        new ApiError('not_found', `${c.req.method} ${c.req.path}: no such route. /openapi.json lists the routes.`),
      );
    const methods = allowed.join(', ');
    const response = errorResponse(
      new ApiError(
        'method_not_allowed',
        `${c.req.method} ${c.req.path}: expected ${methods}. /openapi.json lists the routes.`,
      ),
    );
    response.headers.set('allow', methods);
    return response;
  };
}
