import type { FileObject, FilePurpose } from '../../shared/contract/files.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { newId } from '../../shared/wire/ids.ts';
import { sha256Hex } from '../../shared/wire/signature.ts';
import { type Actor, auditEntry, IF_CHANGED } from './audit.ts';
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
};

/** Where a file's bytes are in the object store. */
export function fileKey(id: string): string {
  return `files/${id}`;
}

function insertFile(db: D1Database, file: Omit<FileRow, 'seq'>): D1PreparedStatement {
  return db
    .prepare(
      `INSERT INTO files (id, tenant, purpose, filename, mime, bytes, sha256, created_at, seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ${nextSeq('files')})`,
    )
    .bind(file.id, file.tenant, file.purpose, file.filename, file.mime, file.bytes, file.sha256, file.created_at);
}

/** Bytes first, row second: a file that is listed can be read. @param actor whose file it becomes, and who is to be named in the audit log */
export async function storeFile(
  store: { db: D1Database; blobs: R2Bucket },
  actor: Actor,
  file: { purpose: FilePurpose; filename: string; mime: string; bytes: Uint8Array },
): Promise<Omit<FileRow, 'seq'>> {
  const id = newId('file-');
  const sha256 = await sha256Hex(file.bytes);
  await store.blobs.put(fileKey(id), file.bytes, { sha256 });
  const row = {
    id,
    tenant: actor.tenant,
    purpose: file.purpose,
    filename: file.filename.slice(0, LIMITS.files.maxNameChars),
    mime: file.mime,
    bytes: file.bytes.byteLength,
    sha256,
    created_at: Date.now(),
  };
  await store.db.batch([
    insertFile(store.db, row),
    auditEntry(store.db, actor, {
      action: 'file.created',
      object: id,
      data: { purpose: row.purpose, bytes: row.bytes, sha256 },
    }),
  ]);
  return row;
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

/** Deletes the row unless a job that may still read the file names it. */
export async function deleteFile(db: D1Database, actor: Actor, id: string): Promise<boolean> {
  const [gone] = await db.batch([
    db
      .prepare(
        `DELETE FROM files WHERE id = ?1 AND tenant = ?2 AND NOT EXISTS (
           SELECT 1 FROM jobs WHERE status IN ('validating_files', 'queued', 'running') AND (training_file = ?1 OR validation_file = ?1))`,
      )
      .bind(id, actor.tenant),
    auditEntry(db, actor, { action: 'file.deleted', object: id }, IF_CHANGED),
  ]);
  return (gone?.meta.changes ?? 0) > 0;
}

export function showFile(row: Omit<FileRow, 'seq'>): FileObject {
  return {
    id: row.id,
    object: 'file',
    bytes: row.bytes,
    created_at: Math.floor(row.created_at / 1000),
    filename: row.filename,
    purpose: row.purpose,
    status: 'processed',
    sha256: row.sha256,
  };
}
