import type { Dataset, Subset } from '../../shared/contract/datasets.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type Actor, auditEntry, IF_CHANGED } from './audit.ts';
import { nextSeq, page } from './sequence.ts';

export type DatasetRow = {
  id: string;
  seq: number;
  tenant: string;
  name: string;
  created_at: number;
  updated_at: number;
  version: number;
  digest: string;
  subsets: string;
  balancing: number;
  bytes: number;
  examples: number | null;
  metadata: string | null;
  revision: string;
};

/** What a change writes; `subsets` as JSON. */
export type DatasetContent = Pick<
  DatasetRow,
  'name' | 'version' | 'digest' | 'subsets' | 'balancing' | 'bytes' | 'examples' | 'metadata'
>;

/** True while the tenant still has all files of the JSON array bound at `?n`. */
const haveFiles = (ids: string, tenant: string): string =>
  `NOT EXISTS (SELECT 1 FROM json_each(${ids}) WHERE value NOT IN (SELECT id FROM files WHERE tenant = ${tenant}))`;

const fileIds = (subsets: string): string =>
  JSON.stringify([...new Set((JSON.parse(subsets) as Subset[]).map(({ file_id }) => file_id))]);

/** @returns null where a file is gone, or where the tenant has as many datasets as it may */
export async function insertDataset(
  db: D1Database,
  actor: Actor,
  id: string,
  content: DatasetContent,
  nowMs: number,
): Promise<DatasetRow | null> {
  const revision = crypto.randomUUID();
  const [made] = await db.batch<DatasetRow>([
    db
      .prepare(
        `INSERT INTO datasets (id, seq, tenant, name, created_at, updated_at, version, digest, subsets, balancing, bytes, examples, metadata, revision)
         SELECT ?1, ${nextSeq('datasets')}, ?2, ?3, ?4, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12
         WHERE (SELECT COUNT(*) FROM datasets WHERE tenant = ?2) < ?13 AND ${haveFiles('?14', '?2')} RETURNING *`,
      )
      .bind(
        id,
        actor.tenant,
        content.name,
        nowMs,
        content.version,
        content.digest,
        content.subsets,
        content.balancing,
        content.bytes,
        content.examples,
        content.metadata,
        revision,
        LIMITS.dataset.maxPerTenant,
        fileIds(content.subsets),
      ),
    auditEntry(
      db,
      actor,
      { action: 'dataset.created', object: id, data: { name: content.name, digest: content.digest } },
      IF_CHANGED,
    ),
    ...nameFiles(db, id, revision, content.subsets),
  ]);
  return made?.results[0] ?? null;
}

/**
 * Writes a change if the row is still the one that was read and every file is still there.
 * @returns null where it is not: read again
 */
export async function replaceDataset(
  db: D1Database,
  actor: Actor,
  was: Pick<DatasetRow, 'id' | 'revision' | 'version'>,
  content: DatasetContent,
  nowMs: number,
): Promise<DatasetRow | null> {
  const revision = crypto.randomUUID();
  const [written] = await db.batch<DatasetRow>([
    db
      .prepare(
        `UPDATE datasets SET name = ?3, updated_at = ?4, version = ?5, digest = ?6, subsets = ?7, balancing = ?8, bytes = ?9, examples = ?10,
           metadata = ?11, revision = ?12
         WHERE id = ?1 AND tenant = ?2 AND revision = ?13 AND ${haveFiles('?14', '?2')} RETURNING *`,
      )
      .bind(
        was.id,
        actor.tenant,
        content.name,
        nowMs,
        content.version,
        content.digest,
        content.subsets,
        content.balancing,
        content.bytes,
        content.examples,
        content.metadata,
        revision,
        was.revision,
        fileIds(content.subsets),
      ),
    auditEntry(
      db,
      actor,
      {
        action: 'dataset.updated',
        object: was.id,
        data: { was: was.version, version: content.version, digest: content.digest },
      },
      IF_CHANGED,
    ),
    ...nameFiles(db, was.id, revision, content.subsets),
  ]);
  return written?.results[0] ?? null;
}

/** Which files the dataset names, for those who delete files; only where the row has this revision. */
function nameFiles(db: D1Database, id: string, revision: string, subsets: string): D1PreparedStatement[] {
  const isWritten = 'EXISTS (SELECT 1 FROM datasets WHERE id = ?1 AND revision = ?2)';
  return [
    db.prepare(`DELETE FROM dataset_files WHERE dataset_id = ?1 AND ${isWritten}`).bind(id, revision),
    db
      .prepare(`INSERT INTO dataset_files (file_id, dataset_id) SELECT value, ?1 FROM json_each(?3) WHERE ${isWritten}`)
      .bind(id, revision, fileIds(subsets)),
  ];
}

/** Files stay. @returns whether there was one */
export async function deleteDataset(db: D1Database, actor: Actor, id: string): Promise<boolean> {
  const [, gone] = await db.batch([
    db
      .prepare(`DELETE FROM dataset_files WHERE dataset_id = (SELECT id FROM datasets WHERE id = ?1 AND tenant = ?2)`)
      .bind(id, actor.tenant),
    db.prepare('DELETE FROM datasets WHERE id = ?1 AND tenant = ?2').bind(id, actor.tenant),
    auditEntry(db, actor, { action: 'dataset.deleted', object: id }, IF_CHANGED),
  ]);
  return (gone?.meta.changes ?? 0) > 0;
}

export function getDataset(db: D1Database, tenant: string, id: string): Promise<DatasetRow | null> {
  return db.prepare('SELECT * FROM datasets WHERE id = ? AND tenant = ?').bind(id, tenant).first<DatasetRow>();
}

export async function countDatasets(db: D1Database, tenant: string): Promise<number> {
  const row = await db
    .prepare('SELECT COUNT(*) AS n FROM datasets WHERE tenant = ?')
    .bind(tenant)
    .first<{ n: number }>();
  return row?.n ?? 0;
}

export async function listDatasets(db: D1Database, tenant: string, query: { limit: number; after: string | null }) {
  const { results } = await db
    .prepare(
      `SELECT * FROM datasets WHERE tenant = ?3 AND (?1 IS NULL OR seq < (SELECT seq FROM datasets WHERE id = ?1 AND tenant = ?3))
       ORDER BY seq DESC LIMIT ?2`,
    )
    .bind(query.after, query.limit + 1, tenant)
    .all<DatasetRow>();
  return page(results, query.limit, showDataset);
}

/** A dataset that names the file, or null. */
export function datasetOfFile(db: D1Database, fileId: string): Promise<{ dataset_id: string } | null> {
  return db.prepare('SELECT dataset_id FROM dataset_files WHERE file_id = ? LIMIT 1').bind(fileId).first();
}

/** Writes down how many examples a validation counted, where the dataset is still what was validated. */
export function countExamples(
  db: D1Database,
  tenant: string,
  id: string,
  digest: string,
  examples: number,
  guard: string,
) {
  return db
    .prepare(`UPDATE datasets SET examples = ?4 WHERE id = ?1 AND tenant = ?2 AND digest = ?3 AND ${guard}`)
    .bind(id, tenant, digest, examples);
}

export function showDataset(row: DatasetRow): Dataset {
  return {
    id: row.id,
    object: 'dataset',
    name: row.name,
    created_at: Math.floor(row.created_at / 1000),
    updated_at: Math.floor(row.updated_at / 1000),
    version: row.version,
    digest: row.digest,
    subsets: JSON.parse(row.subsets) as Subset[],
    balancing: row.balancing === 1,
    bytes: row.bytes,
    examples: row.examples,
    metadata: row.metadata === null ? null : (JSON.parse(row.metadata) as Record<string, string>),
  };
}
