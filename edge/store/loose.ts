/**
 * Objects in the store that no row owns: not yet (an upload under way), or not any more (a deletion under way). Their keys are written down before the
 * bytes are, and struck off in the transaction that gives them an owner, so whatever breaks in between is found and deleted.
 */
import { LIMITS } from '../../shared/contract/limits.ts';

/** @param uploadId of a multipart upload, null for a plain object */
export function insertLoose(
  db: D1Database,
  key: string,
  nowMs: number,
  options: { uploadId?: string; looseMs?: number } = {},
): D1PreparedStatement {
  return db
    .prepare(
      'INSERT INTO loose_objects (key, upload_id, due_at) VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE SET due_at = ?3',
    )
    .bind(key, options.uploadId ?? null, nowMs + (options.looseMs ?? LIMITS.files.looseMs));
}

export function strikeLoose(db: D1Database, keys: readonly string[]): D1PreparedStatement {
  return db
    .prepare('DELETE FROM loose_objects WHERE key IN (SELECT value FROM json_each(?))')
    .bind(JSON.stringify(keys));
}

/** Deletes objects that are written down as loose, then their notes. */
export async function deleteLoose(store: { db: D1Database; blobs: R2Bucket }, keys: readonly string[]): Promise<void> {
  for (let at = 0; at < keys.length; at += MAX_KEYS_A_CALL) {
    const some = keys.slice(at, at + MAX_KEYS_A_CALL);
    await store.blobs.delete(some);
    await strikeLoose(store.db, some).run();
  }
}

/** What the store deletes in one call. */
const MAX_KEYS_A_CALL = 1_000;
const SWEEP_KEYS = 200;

/** Deletes what has been loose for too long. @returns whether there may be more */
export async function sweepLoose(store: { db: D1Database; blobs: R2Bucket }, nowMs: number): Promise<boolean> {
  const { results } = await store.db
    .prepare('SELECT key, upload_id FROM loose_objects WHERE due_at <= ? ORDER BY due_at LIMIT ?')
    .bind(nowMs, SWEEP_KEYS)
    .all<{ key: string; upload_id: string | null }>();
  for (const { key, upload_id } of results) {
    // Ending an upload that has ended already is an error of no interest; what it may have become is deleted below.
    if (upload_id !== null)
      await store.blobs
        .resumeMultipartUpload(key, upload_id)
        .abort()
        .catch(() => {});
  }
  await deleteLoose(
    store,
    results.map(({ key }) => key),
  );
  return results.length === SWEEP_KEYS;
}
