import type { FilePurpose } from '../../shared/contract/files.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { Upload, UploadStatus } from '../../shared/contract/uploads.ts';
import { type Actor, auditEntry, IF_CHANGED } from './audit.ts';
import { type FileRow, showFile } from './files.ts';
import { nextSeq } from './sequence.ts';

const U = LIMITS.uploads;

export type UploadRow = {
  id: string;
  seq: number;
  tenant: string;
  filename: string;
  purpose: FilePurpose;
  mime: string;
  bytes: number;
  expires_after_s: number | null;
  status: UploadStatus;
  created_at: number;
  expires_at: number;
  claim: string | null;
  claimed_until: number | null;
  file_id: string | null;
};

export type PartRow = { id: string; upload_id: string; object_key: string; bytes: number; created_at: number };

export async function insertUpload(
  db: D1Database,
  actor: Actor,
  upload: Pick<
    UploadRow,
    'id' | 'filename' | 'purpose' | 'mime' | 'bytes' | 'expires_after_s' | 'created_at' | 'expires_at'
  >,
): Promise<UploadRow> {
  const [made] = await db.batch<UploadRow>([
    db
      .prepare(
        `INSERT INTO uploads (id, seq, tenant, filename, purpose, mime, bytes, expires_after_s, status, created_at, expires_at)
         VALUES (?, ${nextSeq('uploads')}, ?, ?, ?, ?, ?, ?, 'pending', ?, ?) RETURNING *`,
      )
      .bind(
        upload.id,
        actor.tenant,
        upload.filename,
        upload.purpose,
        upload.mime,
        upload.bytes,
        upload.expires_after_s,
        upload.created_at,
        upload.expires_at,
      ),
    auditEntry(db, actor, { action: 'upload.created', object: upload.id, data: { bytes: upload.bytes } }),
  ]);
  const row = made?.results[0];
  if (row === undefined) throw new Error(`upload ${upload.id} was not written`);
  return row;
}

export function getUpload(db: D1Database, tenant: string, id: string): Promise<UploadRow | null> {
  return db.prepare('SELECT * FROM uploads WHERE id = ? AND tenant = ?').bind(id, tenant).first<UploadRow>();
}

/** @returns false where the upload is not open any more, has too many parts, or twice the bytes that were announced */
export async function insertPart(db: D1Database, part: PartRow, nowMs: number): Promise<boolean> {
  const [made] = await db.batch([
    db
      .prepare(
        `INSERT INTO upload_parts (id, upload_id, object_key, bytes, created_at) SELECT ?1, ?2, ?3, ?4, ?5
         WHERE EXISTS (SELECT 1 FROM uploads WHERE id = ?2 AND status = 'pending' AND expires_at > ?6
             AND (SELECT COALESCE(SUM(bytes), 0) FROM upload_parts WHERE upload_id = ?2) + ?4 <= 2 * bytes)
           AND (SELECT COUNT(*) FROM upload_parts WHERE upload_id = ?2) < ?7`,
      )
      .bind(part.id, part.upload_id, part.object_key, part.bytes, part.created_at, nowMs, U.maxParts),
    db
      .prepare('DELETE FROM loose_objects WHERE key = ?1 AND EXISTS (SELECT 1 FROM upload_parts WHERE object_key = ?1)')
      .bind(part.object_key),
  ]);
  return (made?.meta.changes ?? 0) > 0;
}

/** Bytes of all parts so far, and how many. */
export async function sumParts(db: D1Database, uploadId: string): Promise<{ parts: number; bytes: number }> {
  const row = await db
    .prepare('SELECT COUNT(*) AS parts, COALESCE(SUM(bytes), 0) AS bytes FROM upload_parts WHERE upload_id = ?')
    .bind(uploadId)
    .first<{ parts: number; bytes: number }>();
  return row ?? { parts: 0, bytes: 0 };
}

export async function getParts(
  db: D1Database,
  uploadId: string,
  ids: readonly string[],
): Promise<Map<string, PartRow>> {
  const { results } = await db
    .prepare('SELECT * FROM upload_parts WHERE upload_id = ? AND id IN (SELECT value FROM json_each(?))')
    .bind(uploadId, JSON.stringify(ids))
    .all<PartRow>();
  return new Map(results.map((part) => [part.id, part]));
}

export async function partKeys(db: D1Database, uploadId: string): Promise<string[]> {
  const { results } = await db
    .prepare('SELECT object_key FROM upload_parts WHERE upload_id = ?')
    .bind(uploadId)
    .all<{ object_key: string }>();
  return results.map(({ object_key }) => object_key);
}

/** One at a time puts the parts together. @returns the claim, or null where another one is at it or the upload is not open any more */
export async function claimUpload(db: D1Database, id: string, nowMs: number): Promise<string | null> {
  const claim = crypto.randomUUID();
  const { meta } = await db
    .prepare(
      `UPDATE uploads SET claim = ?2, claimed_until = ?3
       WHERE id = ?1 AND status = 'pending' AND expires_at > ?4 AND (claimed_until IS NULL OR claimed_until <= ?4)`,
    )
    .bind(id, claim, nowMs + U.completeMs, nowMs)
    .run();
  return meta.changes > 0 ? claim : null;
}

export async function releaseUpload(db: D1Database, id: string, claim: string): Promise<void> {
  await db.prepare('UPDATE uploads SET claimed_until = NULL WHERE id = ? AND claim = ?').bind(id, claim).run();
}

/** SQL that is true while the claim holds. */
export function claimHolds(id: string, claim: string): string {
  const quoted = (text: string) => `'${text.replaceAll("'", "''")}'`;
  return `EXISTS (SELECT 1 FROM uploads WHERE id = ${quoted(id)} AND claim = ${quoted(claim)} AND status = 'pending')`;
}

/** The upload has become a file; its parts are loose from now on. To be put behind what `claimHolds` guards. */
export function completeUpload(
  db: D1Database,
  id: string,
  claim: string,
  fileId: string,
  nowMs: number,
): D1PreparedStatement[] {
  return [
    db
      .prepare(
        `UPDATE uploads SET status = 'completed', file_id = ?3, claimed_until = NULL WHERE id = ?1 AND claim = ?2 AND status = 'pending'`,
      )
      .bind(id, claim, fileId),
    ...loosenParts(db, id, nowMs),
  ];
}

/** Ends an upload that is still open. @returns whether it was */
export async function endUpload(
  db: D1Database,
  actor: Actor,
  id: string,
  to: 'cancelled' | 'expired',
  nowMs: number,
): Promise<boolean> {
  const [ended] = await db.batch([
    // Whoever is putting the parts together is left to it.
    db
      .prepare(
        `UPDATE uploads SET status = ?2 WHERE id = ?1 AND status = 'pending' AND (claimed_until IS NULL OR claimed_until <= ?3)`,
      )
      .bind(id, to, nowMs),
    auditEntry(db, actor, { action: `upload.${to}`, object: id }, IF_CHANGED),
    ...loosenParts(db, id, nowMs),
  ]);
  return (ended?.meta.changes ?? 0) > 0;
}

/** Parts of an upload that is over belong to nobody any more. */
function loosenParts(db: D1Database, id: string, nowMs: number): D1PreparedStatement[] {
  const isOver = `EXISTS (SELECT 1 FROM uploads WHERE id = ?1 AND status <> 'pending')`;
  return [
    db
      .prepare(
        `INSERT INTO loose_objects (key, due_at) SELECT object_key, ?2 FROM upload_parts WHERE upload_id = ?1 AND ${isOver}
         ON CONFLICT (key) DO UPDATE SET due_at = ?2`,
      )
      .bind(id, nowMs),
    db.prepare(`DELETE FROM upload_parts WHERE upload_id = ?1 AND ${isOver}`).bind(id),
  ];
}

/** Open uploads whose time is over. */
export async function expiredUploads(db: D1Database, nowMs: number, limit: number): Promise<UploadRow[]> {
  const { results } = await db
    .prepare(
      `SELECT * FROM uploads WHERE status = 'pending' AND expires_at <= ?1 AND (claimed_until IS NULL OR claimed_until <= ?1) LIMIT ?2`,
    )
    .bind(nowMs, limit)
    .all<UploadRow>();
  return results;
}

/** @param file what it has become, while that exists */
export function showUpload(row: UploadRow, file: FileRow | null, nowMs: number): Upload {
  return {
    id: row.id,
    object: 'upload',
    bytes: row.bytes,
    created_at: Math.floor(row.created_at / 1000),
    expires_at: Math.floor(row.expires_at / 1000),
    filename: row.filename,
    purpose: row.purpose,
    status: row.status === 'pending' && row.expires_at <= nowMs ? 'expired' : row.status,
    file: file === null ? null : showFile(file),
  };
}
