/** Pictures that training data names, kept as they were when first read. */
import { LIMITS } from '../../shared/contract/limits.ts';

export type PinRow = {
  tenant: string;
  /** Of the data that names the picture. */
  scope: string;
  /** SHA-256 of the reference, hex. */
  digest: string;
  reference: string;
  object_key: string;
  bytes: number;
  sha256: string;
  pinned_at: number;
};

export function getPin(db: D1Database, tenant: string, scope: string, digest: string): Promise<PinRow | null> {
  return db
    .prepare('SELECT * FROM pinned_images WHERE tenant = ? AND scope = ? AND digest = ?')
    .bind(tenant, scope, digest)
    .first<PinRow>();
}

/** Writes down that a job or task reads pictures of this scope. */
export function addReader(db: D1Database, tenant: string, scope: string, workId: string): D1PreparedStatement {
  return db
    .prepare('INSERT OR IGNORE INTO pin_readers (tenant, scope, work_id) VALUES (?, ?, ?)')
    .bind(tenant, scope, workId);
}

/** An object that has these bytes already, of a file or of another pin of the tenant. */
export async function objectOf(db: D1Database, tenant: string, sha256: string): Promise<string | null> {
  const row = await db
    .prepare(
      `SELECT object_key FROM files WHERE tenant = ?1 AND sha256 = ?2
       UNION ALL SELECT object_key FROM pinned_images WHERE tenant = ?1 AND sha256 = ?2 LIMIT 1`,
    )
    .bind(tenant, sha256)
    .first<{ object_key: string }>();
  return row?.object_key ?? null;
}

/**
 * Pins a picture, unless somebody was quicker.
 * @param isStaged whether the object was just written for it and is loose; else some row must still name it, or nothing is pinned
 * @returns the row that counts; null where the object has lost its last owner meanwhile
 */
export async function insertPin(db: D1Database, pin: PinRow, isStaged: boolean): Promise<PinRow | null> {
  const isThere = isStaged
    ? 'EXISTS (SELECT 1 FROM loose_objects WHERE key = ?5)'
    : '(EXISTS (SELECT 1 FROM files WHERE object_key = ?5) OR EXISTS (SELECT 1 FROM pinned_images WHERE object_key = ?5))';
  const results = await db.batch<PinRow>([
    db
      .prepare(
        `INSERT INTO pinned_images (scope, digest, tenant, reference, object_key, bytes, sha256, pinned_at)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE ${isThere} ON CONFLICT DO NOTHING`,
      )
      .bind(pin.scope, pin.digest, pin.tenant, pin.reference, pin.object_key, pin.bytes, pin.sha256, pin.pinned_at),
    db
      .prepare(
        'DELETE FROM loose_objects WHERE key = ?1 AND EXISTS (SELECT 1 FROM pinned_images WHERE object_key = ?1)',
      )
      .bind(pin.object_key),
    db
      .prepare('SELECT * FROM pinned_images WHERE tenant = ? AND scope = ? AND digest = ?')
      .bind(pin.tenant, pin.scope, pin.digest),
  ]);
  return results[2]?.results[0] ?? null;
}

const SWEEP_PINS = 500;

/** Unfinished work still reads them. */
const IN_USE = `EXISTS (SELECT 1 FROM pin_readers r WHERE r.tenant = p.tenant AND r.scope = p.scope
  AND (EXISTS (SELECT 1 FROM tasks WHERE id = r.work_id AND finished_at IS NULL) OR EXISTS (SELECT 1 FROM jobs WHERE id = r.work_id AND finished_at IS NULL)))`;

/**
 * Forgets pins that are old and that nothing unfinished reads; objects that lose their last owner so become loose.
 * @returns whether there may be more
 */
export async function sweepPins(db: D1Database, atMs: number): Promise<boolean> {
  const { results } = await db
    .prepare(
      `SELECT tenant, scope, digest, object_key FROM pinned_images p WHERE pinned_at <= ? AND NOT ${IN_USE} ORDER BY pinned_at LIMIT ?`,
    )
    .bind(atMs - LIMITS.dataset.pinsKeptMs, SWEEP_PINS)
    .all<Pick<PinRow, 'tenant' | 'scope' | 'digest' | 'object_key'>>();
  if (results.length === 0) return false;
  await db.batch([
    db
      .prepare(
        `DELETE FROM pinned_images WHERE (tenant, scope, digest)
           IN (SELECT value ->> 'tenant', value ->> 'scope', value ->> 'digest' FROM json_each(?))`,
      )
      .bind(JSON.stringify(results)),
    db
      .prepare(
        `INSERT INTO loose_objects (key, due_at) SELECT DISTINCT value ->> 'object_key', ?2 FROM json_each(?1)
         WHERE NOT EXISTS (SELECT 1 FROM files WHERE object_key = value ->> 'object_key')
           AND NOT EXISTS (SELECT 1 FROM pinned_images WHERE object_key = value ->> 'object_key')
         ON CONFLICT (key) DO UPDATE SET due_at = ?2`,
      )
      .bind(JSON.stringify(results), atMs),
    db.prepare(
      `DELETE FROM pin_readers WHERE NOT EXISTS
         (SELECT 1 FROM pinned_images p WHERE p.tenant = pin_readers.tenant AND p.scope = pin_readers.scope)`,
    ),
  ]);
  return results.length === SWEEP_PINS;
}
