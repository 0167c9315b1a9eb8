/** Image features that outlive a backend. The edge stores the bytes; what is in them, backends check when they read. */
import type { Context } from 'hono';
import { ApiError, errorMessage } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { UNSIGNED_PAYLOAD } from '../../shared/wire/signature.ts';
import type { AppEnv } from '../env.ts';
import { featuresKey } from '../store/features.ts';

/** `GET /internal/features/{tenant}/{name}`; 204 where there are none, as for every picture that is new. */
export async function getFeatures(c: Context<AppEnv>): Promise<Response> {
  const { tenant, name } = featuresPath(c);
  const object = await c.env.BLOBS.get(featuresKey(tenant, name));
  if (object === null) return c.body(null, 204);
  return new Response(object.body, {
    headers: { 'content-type': 'application/octet-stream', 'content-length': String(object.size) },
  });
}

/** `PUT` of the same path. The store refuses bytes that are not those that were signed; the newest replaces what was there. */
export async function putFeatures(c: Context<AppEnv>): Promise<Response> {
  const { tenant, name } = featuresPath(c);
  const told = c.req.header('content-length');
  const bytes = Number(told ?? Number.NaN);
  const most = LIMITS.backends.maxFeatureRecordBytes;
  if (!Number.isInteger(bytes) || bytes < 1 || bytes > most || c.req.raw.body === null) {
    throw new ApiError(
      'request_too_large',
      errorMessage('content-length', { expected: `1 to ${most} bytes`, received: told ?? 'nothing' }),
    );
  }
  const sha256 = c.req.header('x-mantis-body-sha256');
  if (sha256 === undefined || sha256 === UNSIGNED_PAYLOAD)
    throw new ApiError('invalid_signature', 'Signature: expected one that covers the body.');
  const sized = new FixedLengthStream(bytes);
  try {
    await Promise.all([
      c.req.raw.body.pipeTo(sized.writable),
      c.env.BLOBS.put(featuresKey(tenant, name), sized.readable, { sha256 }),
    ]);
  } catch (error) {
    if (!/SHA-?256 checksum/i.test(String(error))) throw error;
    throw new ApiError('digest_mismatch', `${name}: expected the bytes that were signed, received others.`);
  }
  return c.body(null, 204);
}

/** Both are parts of a key in the store, so nothing but hexadecimal digits passes. */
function featuresPath(c: Context<AppEnv>): { tenant: string; name: string } {
  const { tenant = '', name = '' } = c.req.param();
  if (!/^[0-9a-f]{32}$/.test(tenant) || !/^[0-9a-f]{64}$/.test(name))
    throw new ApiError('not_found', 'Expected /internal/features/{32 hex digits}/{64 hex digits}.');
  return { tenant, name };
}
