import type { FileObject, FilePurpose } from '../../shared/contract/files.ts';
import { nowMs as clockMs } from '../clock.ts';
import { type Actor, auditEntry, IF_CHANGED } from './audit.ts';
import { deleteLoose } from './loose.ts';
import { nextSeq, page } from './sequence.ts';

export type FileRow = {
  id: string;
  tenant: string;
  purpose: FilePurpose;
  filename: string;
  mime: string;
  bytes: number;
  sha256: string;
  created_at: number;
  seq: number;
  /** Several files of a tenant with equal bytes share one object. */
  object_key: string;
  expires_at: number | null;
};

export type NewFile = Omit<FileRow, 'seq'>;

/** Where a file's bytes are in the object store. */
export function fileKey(file: Pick<FileRow, 'object_key'>): string {
  return file.object_key;
}

/** What a key of a new object of the tenant begins with. */
export function filePrefix(tenant: string): string {
  return `blobs/${tenant}/`;
}

/** Work that may still read a file, and datasets that name it: it is not deleted until then. */
const IN_USE = `(EXISTS (SELECT 1 FROM work_files w WHERE w.file_id = files.id
    AND (EXISTS (SELECT 1 FROM jobs WHERE id = w.work_id AND finished_at IS NULL) OR EXISTS (SELECT 1 FROM tasks WHERE id = w.work_id AND finished_at IS NULL)))
  OR EXISTS (SELECT 1 FROM batches WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling') AND input_file_id = files.id)
  OR EXISTS (SELECT 1 FROM dataset_files WHERE file_id = files.id))`;

/**
 * The row of a file whose bytes lie at `object_key`, loose. Where the tenant has a file with equal bytes, the new one shares its object, and the loose
 * one stays loose.
 * @param guard SQL that is true only if the change which makes the file was made in the same transaction
 */
export function insertFile(db: D1Database, file: NewFile, guard = 'TRUE'): D1PreparedStatement[] {
  return [
    db
      .prepare(
        `INSERT INTO files (id, tenant, purpose, filename, mime, bytes, sha256, created_at, expires_at, object_key, seq)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9,
           COALESCE((SELECT object_key FROM files WHERE tenant = ?2 AND sha256 = ?7 LIMIT 1), ?10), ${nextSeq('files')}
         WHERE ${guard} RETURNING *`,
      )
      .bind(
        file.id,
        file.tenant,
        file.purpose,
        file.filename,
        file.mime,
        file.bytes,
        file.sha256,
        file.created_at,
        file.expires_at,
        file.object_key,
      ),
    db
      .prepare('DELETE FROM loose_objects WHERE key = ?1 AND EXISTS (SELECT 1 FROM files WHERE object_key = ?1)')
      .bind(file.object_key),
  ];
}

/** Entry of the audit log for a file that `insertFile` makes. */
export function auditFile(db: D1Database, actor: Actor, file: NewFile, guard = 'TRUE'): D1PreparedStatement {
  const data = { purpose: file.purpose, bytes: file.bytes, sha256: file.sha256 };
  return auditEntry(db, actor, { action: 'file.created', object: file.id, data }, guard);
}

export function getFile(db: D1Database, tenant: string, id: string): Promise<FileRow | null> {
  return db.prepare('SELECT * FROM files WHERE id = ? AND tenant = ?').bind(id, tenant).first<FileRow>();
}

/** Whoever's it is: for backends only. */
export function findFile(db: D1Database, id: string): Promise<FileRow | null> {
  return db.prepare('SELECT * FROM files WHERE id = ?').bind(id).first<FileRow>();
}

/** Several files at once, in no order; unknown ids, and those of others, are absent. */
export async function getFiles(db: D1Database, tenant: string, ids: readonly string[]): Promise<FileRow[]> {
  if (ids.length === 0) return [];
  const { results } = await db
    .prepare('SELECT * FROM files WHERE tenant = ? AND id IN (SELECT value FROM json_each(?))')
    .bind(tenant, JSON.stringify(ids))
    .all<FileRow>();
  return results;
}

/** Files by what they contain, lower-case hex of SHA-256; several rows may have the same bytes. */
export async function getFilesByDigest(db: D1Database, tenant: string, digests: readonly string[]): Promise<FileRow[]> {
  const { results } = await db
    .prepare('SELECT * FROM files WHERE tenant = ? AND sha256 IN (SELECT value FROM json_each(?))')
    .bind(tenant, JSON.stringify(digests))
    .all<FileRow>();
  return results;
}

export async function listFiles(
  db: D1Database,
  tenant: string,
  query: { limit: number; after: string | null; purpose: string | null; order: 'asc' | 'desc' },
) {
  const before = query.order === 'desc' ? '<' : '>';
  const { results } = await db
    .prepare(
      `SELECT * FROM files
       WHERE tenant = ?4 AND (?1 IS NULL OR purpose = ?1)
         AND (?2 IS NULL OR seq ${before} (SELECT seq FROM files WHERE id = ?2 AND tenant = ?4))
       ORDER BY seq ${query.order} LIMIT ?3`,
    )
    .bind(query.purpose, query.after, query.limit + 1, tenant)
    .all<FileRow>();
  return page(results, query.limit, showFile);
}

/** Deletes a file, and its bytes with the last file that has them. @returns false where something that has not ended may still read it */
export async function deleteFile(
  store: { db: D1Database; blobs: R2Bucket },
  actor: Actor,
  file: Pick<FileRow, 'id' | 'object_key'>,
): Promise<boolean> {
  const { db } = store;
  const [gone, , loose] = await db.batch<{ key: string }>([
    db.prepare(`DELETE FROM files WHERE id = ? AND tenant = ? AND NOT ${IN_USE}`).bind(file.id, actor.tenant),
    auditEntry(db, actor, { action: 'file.deleted', object: file.id }, IF_CHANGED),
    db
      .prepare(
        `INSERT INTO loose_objects (key, due_at) SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM files WHERE object_key = ?1)
           AND NOT EXISTS (SELECT 1 FROM pinned_images WHERE object_key = ?1)
         ON CONFLICT (key) DO UPDATE SET due_at = ?2 RETURNING key`,
      )
      .bind(file.object_key, clockMs()),
  ]);
  const keys = loose?.results.map(({ key }) => key) ?? [];
  // What is not deleted now is deleted by the sweeper.
  if (keys.length > 0) await deleteLoose(store, keys).catch(() => {});
  return (gone?.meta.changes ?? 0) > 0;
}

/** Files whose time is over and that nothing reads any more. */
export async function expiredFiles(db: D1Database, nowMs: number, limit: number): Promise<FileRow[]> {
  const { results } = await db
    .prepare(`SELECT * FROM files WHERE expires_at <= ? AND NOT ${IN_USE} ORDER BY expires_at LIMIT ?`)
    .bind(nowMs, limit)
    .all<FileRow>();
  return results;
}

export function showFile(row: NewFile): FileObject {
  return {
    id: row.id,
    object: 'file',
    bytes: row.bytes,
    created_at: Math.floor(row.created_at / 1000),
    ...(row.expires_at === null ? {} : { expires_at: Math.floor(row.expires_at / 1000) }),
    filename: row.filename,
    purpose: row.purpose,
    status: 'processed',
    sha256: row.sha256,
  };
}
