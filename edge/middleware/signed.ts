import type { Context, MiddlewareHandler } from 'hono';
import { ApiError } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { bodyMatches, UNSIGNED_PAYLOAD, verifyHeaders } from '../../shared/wire/signature.ts';
import { type AppEnv, nonces } from '../env.ts';
import { parseJson, readBody, type Schema } from './body.ts';

/** Only calls signed with the shared backend secret pass, each once. The body's digest is checked by whoever reads the body (`readSignedJson`, blob store). */
export function signed(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    await checkSignature(c);
    await next();
  };
}

/** @returns the signed body digest: lower-case hex SHA-256 or `UNSIGNED_PAYLOAD`. */
export async function checkSignature(c: Context<AppEnv>): Promise<string> {
  const url = new URL(c.req.url);
  const verdict = await verifyHeaders({
    secret: c.env.BACKEND_SECRET,
    audience: '',
    method: c.req.method,
    target: url.pathname + url.search,
    header: (name) => c.req.raw.headers.get(name),
    nowS: Date.now() / 1000,
    toleranceS: LIMITS.backends.signatureToleranceS,
  });
  if (!verdict.ok) throw new ApiError('invalid_signature', `Signature: ${verdict.reason}.`);
  if (!(await nonces(c.env).take(verdict.nonce, verdict.timestampS)))
    throw new ApiError(
      'invalid_signature',
      'Signature: expected a nonce that was not used before. Sign each call anew.',
    );
  return verdict.bodyDigest;
}

/** A JSON body whose bytes are those that were signed. */
export async function readSignedJson<T>(c: Context<AppEnv>, schema: Schema<T>): Promise<T> {
  const body = await readBody(c.req.raw, LIMITS.request.maxJsonBytes);
  const digest = c.req.header('x-mantis-body-sha256') ?? UNSIGNED_PAYLOAD;
  if (!(await bodyMatches(digest, body)))
    throw new ApiError('invalid_signature', 'Signature: the body is not the one that was signed.');
  return parseJson(body, schema);
}
