import type { WeightFile } from '../../shared/contract/backend.ts';
import type { TrainStage } from '../../shared/contract/models.ts';
import { nowMs } from '../clock.ts';
import { type Actor, auditEntry, IF_CHANGED } from './audit.ts';
import { releaseFiles } from './checkpoints.ts';

export type ModelRow = {
  id: string;
  base: string;
  kind: TrainStage;
  job_id: string;
  step: number;
  created_at: number;
  listed: number;
};

/** Tuned models that clients see, newest first; checkpoints' own names are left out. */
export async function listModels(db: D1Database, tenant: string): Promise<ModelRow[]> {
  const { results } = await db
    .prepare('SELECT * FROM models WHERE tenant = ? AND listed = 1 ORDER BY created_at DESC, id LIMIT 1000')
    .bind(tenant)
    .all<ModelRow>();
  return results;
}

export function getModel(db: D1Database, tenant: string, id: string): Promise<ModelRow | null> {
  return db.prepare('SELECT * FROM models WHERE id = ? AND tenant = ?').bind(id, tenant).first<ModelRow>();
}

/** Whoever's it is: for backends only. */
export function findModelRow(db: D1Database, id: string): Promise<ModelRow | null> {
  return db.prepare('SELECT * FROM models WHERE id = ?').bind(id).first<ModelRow>();
}

/** A tuned model with its files, as a backend needs it. */
export type TunedModel = { id: string; base: string; kind: TrainStage; files: WeightFile[] };

/** @param tenant whose it must be; null = whoever's, for backends only */
export async function findModel(db: D1Database, tenant: string | null, id: string): Promise<TunedModel | null> {
  const row = await db
    .prepare(
      `SELECT m.base, m.kind, c.files FROM models m JOIN checkpoints c ON c.job_id = m.job_id AND c.step = m.step
       WHERE m.id = ?1 AND (?2 IS NULL OR m.tenant = ?2)`,
    )
    .bind(id, tenant)
    .first<{ base: string; kind: TrainStage; files: string }>();
  return row === null ? null : { id, base: row.base, kind: row.kind, files: JSON.parse(row.files) as WeightFile[] };
}

/** Statuses in which a job still needs the model that it tunes. */
const UNFINISHED = `('validating_files', 'queued', 'running', 'pausing', 'paused')`;

/** Removes a tuned model with all names of its job's checkpoints, unless an unfinished job starts from one of them or an alias stands for one. */
export async function deleteModel(
  db: D1Database,
  actor: Actor,
  row: Pick<ModelRow, 'id' | 'job_id'>,
): Promise<{ isDeleted: boolean; usedBy: string | null; alias: string | null }> {
  const users = `SELECT j.id FROM jobs j WHERE j.status IN ${UNFINISHED} AND j.model IN (SELECT id FROM models WHERE job_id = ?1)`;
  const aliases = `SELECT a.name FROM aliases a WHERE a.tenant = ?2 AND a.model IN (SELECT id FROM models WHERE job_id = ?1)`;
  const isGone = 'NOT EXISTS (SELECT 1 FROM models WHERE job_id = ?1)';
  const [gone] = await db.batch([
    db
      .prepare(
        `DELETE FROM models WHERE job_id = ?1 AND tenant = ?2 AND NOT EXISTS (${users}) AND NOT EXISTS (${aliases})`,
      )
      .bind(row.job_id, actor.tenant),
    auditEntry(db, actor, { action: 'model.deleted', object: row.id }, IF_CHANGED),
    db.prepare(`DELETE FROM checkpoints WHERE job_id = ?1 AND ${isGone}`).bind(row.job_id),
    db.prepare(`DELETE FROM checkpoint_evals WHERE job_id = ?1 AND ${isGone}`).bind(row.job_id),
    ...releaseFiles(
      db,
      { jobId: row.job_id, throughStep: null },
      'NOT EXISTS (SELECT 1 FROM models WHERE job_id = f.job_id)',
      nowMs(),
    ),
  ]);
  if ((gone?.meta.changes ?? 0) > 0) return { isDeleted: true, usedBy: null, alias: null };
  const user = await db.prepare(`${users} LIMIT 1`).bind(row.job_id).first<{ id: string }>();
  const alias = await db.prepare(`${aliases} LIMIT 1`).bind(row.job_id, actor.tenant).first<{ name: string }>();
  return { isDeleted: false, usedBy: user?.id ?? null, alias: alias?.name ?? null };
}
