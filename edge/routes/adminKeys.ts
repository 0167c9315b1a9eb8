/** API keys, for the installation's operator: keys with the scope `admin`. A secret is in the one answer that makes it. */
import type { Context } from 'hono';
import { ApiError, describe, errorMessage, type Violation, violation } from '../../shared/contract/errors.ts';
import {
  CreateKeyRequest,
  DEFAULT_SCOPES,
  DEFAULT_TENANT,
  type KeyLimitsInput,
  RotateKeyRequest,
  type Scope,
  UpdateKeyRequest,
} from '../../shared/contract/keys.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { newId } from '../../shared/wire/ids.ts';
import { newApiKey } from '../../shared/wire/key.ts';
import { sha256Hex } from '../../shared/wire/signature.ts';
import { type AppEnv, actorOf } from '../env.ts';
import { readJson } from '../middleware/body.ts';
import {
  countLiveKeys,
  createKey,
  getKey,
  type KeyRow,
  listKeys,
  type NewKey,
  revokeKey,
  rotateKey,
  secondsToMs,
  showKey,
  updateKey,
} from '../store/keys.ts';
import { existingTenant } from './adminTenants.ts';
import { listQuery } from './query.ts';

/** `POST /v1/admin/keys`. */
export async function createKeyRoute(c: Context<AppEnv>): Promise<Response> {
  const body = await readJson(c, CreateKeyRequest);
  const nowMs = Date.now();
  const tenant = await existingTenant(c, body.tenant ?? DEFAULT_TENANT, 'tenant');
  const scopes = [...new Set(body.scopes ?? DEFAULT_SCOPES)];
  const wrong = [...checkScopes(scopes, tenant.id), ...checkExpiry(body.expires_at, nowMs)];
  const count = await countLiveKeys(c.env.DB, tenant.id, nowMs);
  if (count >= LIMITS.keys.maxPerTenant) {
    wrong.push(
      violation('invalid_value', 'tenant', {
        expected: `at most ${LIMITS.keys.maxPerTenant} keys that are live`,
        received: count + 1,
        remedy: 'Revoke one first.',
      }),
    );
  }
  if (wrong.length > 0) throw ApiError.from(wrong);
  const { secret, key } = await drawKey({
    tenant: tenant.id,
    name: body.name,
    scopes,
    limits: body.limits ?? {},
    expiresAtMs: secondsToMs(body.expires_at ?? null),
    nowMs,
  });
  await createKey(c.env.DB, actorOf(c), key);
  return c.json({ ...(await shown(c, key.id)), secret });
}

/** `GET /v1/admin/keys`; `tenant` narrows it. */
export async function listKeysRoute(c: Context<AppEnv>): Promise<Response> {
  const tenant = c.req.query('tenant') ?? null;
  return c.json(await listKeys(c.env.DB, { ...listQuery(c), tenant }, Date.now()));
}

/** `GET /v1/admin/keys/{id}`. */
export async function retrieveKey(c: Context<AppEnv>): Promise<Response> {
  return c.json(await shown(c));
}

/** `POST /v1/admin/keys/{id}`. In force after a few seconds, as isolates come to ask again. */
export async function updateKeyRoute(c: Context<AppEnv>): Promise<Response> {
  const key = await existingKey(c);
  const change = await readJson(c, UpdateKeyRequest);
  const wrong = [...checkScopes(change.scopes ?? [], key.tenant), ...checkExpiry(change.expires_at, Date.now())];
  if (wrong.length > 0) throw ApiError.from(wrong);
  if (!(await updateKey(c.env.DB, actorOf(c), key, change))) throw isRevoked(key);
  return c.json(await shown(c));
}

/** `POST /v1/admin/keys/{id}/rotate`: a successor with the same rights; the old secret works until the overlap is over. */
export async function rotateKeyRoute(c: Context<AppEnv>): Promise<Response> {
  const old = await existingKey(c);
  const { overlap_s = LIMITS.keys.defaultOverlapS } = await readJson(c, RotateKeyRequest);
  const nowMs = Date.now();
  const { secret, key } = await drawKey({
    tenant: old.tenant,
    name: old.name,
    scopes: JSON.parse(old.scopes) as Scope[],
    limits: JSON.parse(old.limits) as KeyLimitsInput,
    expiresAtMs: old.expires_at,
    nowMs,
  });
  if (!(await rotateKey(c.env.DB, actorOf(c), old, key, nowMs + overlap_s * 1000))) {
    if (old.revoked_at !== null) throw isRevoked(old);
    throw new ApiError('invalid_state', `Key ${old.id} was rotated already. Rotate its successor.`, { param: 'id' });
  }
  return c.json({ ...(await shown(c, key.id)), secret });
}

/** `POST /v1/admin/keys/{id}/revoke`: at once for new isolates, within 3 s for those that know the key. */
export async function revokeKeyRoute(c: Context<AppEnv>): Promise<Response> {
  const key = await existingKey(c);
  await revokeKey(c.env.DB, actorOf(c), key, Date.now());
  return c.json(await shown(c));
}

async function drawKey(of: {
  tenant: string;
  name: string;
  scopes: readonly Scope[];
  limits: KeyLimitsInput;
  expiresAtMs: number | null;
  nowMs: number;
}): Promise<{ secret: string; key: NewKey }> {
  const secret = newApiKey();
  const key = {
    hash: await sha256Hex(secret),
    id: newId('key_'),
    tenant: of.tenant,
    name: of.name,
    last4: secret.slice(-4),
    scopes: of.scopes,
    limits: of.limits,
    created_at: of.nowMs,
    expires_at: of.expiresAtMs,
  };
  return { secret, key };
}

/** Administration is of the whole installation, so it is not for a tenant's keys. */
function checkScopes(scopes: readonly Scope[], tenant: string): Violation[] {
  if (!scopes.includes('admin') || tenant === DEFAULT_TENANT) return [];
  return [
    violation('invalid_value', 'scopes', {
      expected: 'no "admin" for keys of other tenants than the default one',
      received: '"admin"',
    }),
  ];
}

function checkExpiry(expiresAtS: number | null | undefined, nowMs: number): Violation[] {
  if (expiresAtS == null || expiresAtS * 1000 > nowMs) return [];
  return [violation('invalid_value', 'expires_at', { expected: 'Unix seconds in the future', received: expiresAtS })];
}

async function shown(c: Context<AppEnv>, id?: string) {
  return showKey(await existingKey(c, id), Date.now());
}

async function existingKey(c: Context<AppEnv>, id: string = c.req.param('id') ?? ''): Promise<KeyRow> {
  const key = await getKey(c.env.DB, id);
  if (key !== null) return key;
  throw new ApiError(
    'key_not_found',
    errorMessage('id', {
      expected: 'the id of an API key',
      received: describe(id),
      remedy: 'GET /v1/admin/keys lists them.',
    }),
    { param: 'id' },
  );
}

function isRevoked(key: KeyRow): ApiError {
  return new ApiError('invalid_state', `Key ${key.id} is revoked, which is final. Create another.`, { param: 'id' });
}
