import {
  type ApiKey,
  type Caller,
  type KeyLimitsInput,
  mergeLimits,
  type Scope,
  type UpdateKeyRequest,
} from '../../shared/contract/keys.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type Actor, auditEntry, IF_CHANGED } from './audit.ts';
import { nextSeq, page } from './sequence.ts';

export type KeyRow = {
  /** SHA-256 of the key, hex: the key itself is stored nowhere. */
  hash: string;
  id: string;
  tenant: string;
  name: string;
  last4: string;
  scopes: string;
  limits: string;
  created_at: number;
  expires_at: number | null;
  revoked_at: number | null;
  last_used_at: number | null;
  rotated_to: string | null;
  seq: number;
};

/** A key that may be used, and until when. */
export type LiveKey = { caller: Caller; expiresAtMs: number | null; lastUsedAtMs: number | null };

/** The live key with this hash, or null: unknown, revoked, expired, or its tenant is disabled. */
export async function findKey(db: D1Database, hash: string, nowMs: number): Promise<LiveKey | null> {
  const row = await db
    .prepare(
      `SELECT k.id, k.tenant, k.scopes, k.limits, k.expires_at, k.last_used_at, t.limits AS tenant_limits
       FROM api_keys k JOIN tenants t ON t.id = k.tenant
       WHERE k.hash = ?1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > ?2) AND t.disabled_at IS NULL`,
    )
    .bind(hash, nowMs)
    .first<
      Pick<KeyRow, 'id' | 'tenant' | 'scopes' | 'limits' | 'expires_at' | 'last_used_at'> & { tenant_limits: string }
    >();
  if (row === null) return null;
  return {
    caller: {
      keyId: row.id,
      tenant: row.tenant,
      scopes: JSON.parse(row.scopes) as Scope[],
      limits: mergeLimits(JSON.parse(row.limits) as KeyLimitsInput, JSON.parse(row.tenant_limits) as KeyLimitsInput),
    },
    expiresAtMs: row.expires_at,
    lastUsedAtMs: row.last_used_at,
  };
}

/** Writes down that a key is in use, to the hour. */
export async function touchKey(db: D1Database, keyId: string, nowMs: number): Promise<void> {
  await db
    .prepare('UPDATE api_keys SET last_used_at = ?1 WHERE id = ?2 AND COALESCE(last_used_at, 0) <= ?1 - ?3')
    .bind(nowMs, keyId, LIMITS.keys.lastUsedEveryMs)
    .run();
}

export type NewKey = Pick<KeyRow, 'hash' | 'id' | 'tenant' | 'name' | 'last4' | 'created_at' | 'expires_at'> & {
  scopes: readonly Scope[];
  limits: KeyLimitsInput;
};

function insertKey(db: D1Database, key: NewKey, guard = 'TRUE'): D1PreparedStatement {
  return db
    .prepare(
      `INSERT INTO api_keys (hash, id, tenant, name, last4, scopes, limits, created_at, expires_at, seq)
       SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ${nextSeq('api_keys')} WHERE ${guard}`,
    )
    .bind(
      key.hash,
      key.id,
      key.tenant,
      key.name,
      key.last4,
      JSON.stringify(key.scopes),
      JSON.stringify(key.limits),
      key.created_at,
      key.expires_at,
    );
}

/** Stores a new key. */
export async function createKey(db: D1Database, actor: Actor, key: NewKey): Promise<void> {
  const data = { name: key.name, scopes: key.scopes, expires_at: msToSeconds(key.expires_at) };
  await db.batch([
    insertKey(db, key),
    auditEntry(db, actor, { action: 'key.created', object: key.id, tenant: key.tenant, data }),
  ]);
}

export function getKey(db: D1Database, id: string): Promise<KeyRow | null> {
  return db.prepare('SELECT * FROM api_keys WHERE id = ?').bind(id).first<KeyRow>();
}

/** Keys of a tenant that can still be used. */
export async function countLiveKeys(db: D1Database, tenant: string, nowMs: number): Promise<number> {
  const count = db
    .prepare(
      'SELECT COUNT(*) AS n FROM api_keys WHERE tenant = ? AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?)',
    )
    .bind(tenant, nowMs);
  return (await count.first<{ n: number }>())?.n ?? 0;
}

/** Newest first, of one tenant or (null) of all. */
export async function listKeys(
  db: D1Database,
  query: { limit: number; after: string | null; tenant: string | null },
  nowMs: number,
) {
  const { results } = await db
    .prepare(
      `SELECT * FROM api_keys WHERE (?1 IS NULL OR seq < (SELECT seq FROM api_keys WHERE id = ?1)) AND (?2 IS NULL OR tenant = ?2)
       ORDER BY seq DESC LIMIT ?3`,
    )
    .bind(query.after, query.tenant, query.limit + 1)
    .all<KeyRow>();
  return page(results, query.limit, (row) => showKey(row, nowMs));
}

/** Changes what is given. @returns whether there was such a key that is not revoked */
export async function updateKey(db: D1Database, actor: Actor, key: KeyRow, change: UpdateKeyRequest): Promise<boolean> {
  const expiresAtMs = change.expires_at === undefined ? key.expires_at : secondsToMs(change.expires_at);
  const [updated] = await db.batch([
    db
      .prepare(
        'UPDATE api_keys SET name = ?, scopes = ?, limits = ?, expires_at = ? WHERE id = ? AND revoked_at IS NULL',
      )
      .bind(
        change.name ?? key.name,
        change.scopes === undefined ? key.scopes : JSON.stringify([...new Set(change.scopes)]),
        change.limits === undefined ? key.limits : JSON.stringify(change.limits),
        expiresAtMs,
        key.id,
      ),
    auditEntry(
      db,
      actor,
      { action: 'key.updated', object: key.id, tenant: key.tenant, data: { ...change } },
      IF_CHANGED,
    ),
  ]);
  return (updated?.meta.changes ?? 0) > 0;
}

/** Ends a key for good. @returns whether it was live until now */
export async function revokeKey(db: D1Database, actor: Actor, key: KeyRow, nowMs: number): Promise<boolean> {
  const [updated] = await db.batch([
    db.prepare('UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL').bind(nowMs, key.id),
    auditEntry(db, actor, { action: 'key.revoked', object: key.id, tenant: key.tenant }, IF_CHANGED),
  ]);
  return (updated?.meta.changes ?? 0) > 0;
}

/**
 * Puts a successor in a key's place: the old one ends at `oldEndsAtMs`, or when it would have ended anyway. One of two rotations at the same time wins.
 * @returns whether this one did
 */
export async function rotateKey(
  db: D1Database,
  actor: Actor,
  old: KeyRow,
  successor: NewKey,
  oldEndsAtMs: number,
): Promise<boolean> {
  const [updated] = await db.batch([
    db
      .prepare(
        `UPDATE api_keys SET rotated_to = ?1, expires_at = MIN(COALESCE(expires_at, ?2), ?2)
         WHERE id = ?3 AND revoked_at IS NULL AND rotated_to IS NULL`,
      )
      .bind(successor.id, oldEndsAtMs, old.id),
    insertKey(db, successor, IF_CHANGED),
    auditEntry(
      db,
      actor,
      {
        action: 'key.rotated',
        object: old.id,
        tenant: old.tenant,
        data: { rotated_to: successor.id, old_expires_at: Math.floor(oldEndsAtMs / 1000) },
      },
      IF_CHANGED,
    ),
  ]);
  return (updated?.meta.changes ?? 0) > 0;
}

export const secondsToMs = (seconds: number | null): number | null => (seconds === null ? null : seconds * 1000);
const msToSeconds = (ms: number | null): number | null => (ms === null ? null : Math.floor(ms / 1000));

export function showKey(row: KeyRow, nowMs: number): ApiKey {
  const isExpired = row.expires_at !== null && row.expires_at <= nowMs;
  return {
    id: row.id,
    object: 'api_key',
    tenant: row.tenant,
    name: row.name,
    last4: row.last4,
    scopes: JSON.parse(row.scopes) as Scope[],
    limits: mergeLimits(JSON.parse(row.limits) as KeyLimitsInput),
    status: row.revoked_at !== null ? 'revoked' : isExpired ? 'expired' : 'active',
    created_at: Math.floor(row.created_at / 1000),
    expires_at: msToSeconds(row.expires_at),
    revoked_at: msToSeconds(row.revoked_at),
    last_used_at: msToSeconds(row.last_used_at),
    rotated_to: row.rotated_to,
  };
}
