import type { MiddlewareHandler } from 'hono';
import { ApiError } from '../../shared/contract/errors.ts';
import { sha256Hex } from '../../shared/wire/signature.ts';
import type { AppEnv } from '../env.ts';
import { findKey } from '../store/keys.ts';

/** A revoked key dies within this time in every isolate. */
const CACHE_MS = 5_000;
const MAX_CACHED = 10_000;
const cache = new Map<string, { keyId: string | null; tenant: string; untilMs: number }>();

/**
 * `Authorization: Bearer mk_…` against the stored hashes. The answer, unknown keys included, is kept in the isolate for `CACHE_MS`, so that the hot
 * path touches no database.
 */
export function apiKey(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const header = c.req.header('authorization') ?? '';
    const key = /^Bearer ([\x21-\x7e]{1,512})$/i.exec(header)?.[1];
    if (key === undefined) {
      throw new ApiError(
        'invalid_api_key',
        `Authorization: expected "Bearer <API key>", received ${header === '' ? 'nothing' : 'something else'}.`,
      );
    }
    const hash = await sha256Hex(key);
    const nowMs = Date.now();
    let entry = cache.get(hash);
    if (entry === undefined || entry.untilMs < nowMs) {
      if (cache.size >= MAX_CACHED) cache.clear();
      entry = { keyId: await findKey(c.env.DB, hash), tenant: await tenantOf(hash), untilMs: nowMs + CACHE_MS };
      cache.set(hash, entry);
    }
    if (entry.keyId === null) {
      throw new ApiError(
        'invalid_api_key',
        'Authorization: expected a valid API key, received an unknown or revoked one. The first start prints one; MANTIS_API_KEY sets it.',
      );
    }
    c.set('keyId', entry.keyId);
    c.set('tenant', entry.tenant);
    await next();
  };
}

/** Stays the same as long as the key does, and says nothing about it: backends name caches and stored objects by it. */
async function tenantOf(keyHash: string): Promise<string> {
  return (await sha256Hex(`tenant ${keyHash}`)).slice(0, 32);
}
