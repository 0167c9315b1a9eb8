import type { CheckpointManifest, WeightFile } from '../../shared/contract/backend.ts';
import type { CheckpointMetrics, JobCheckpoint } from '../../shared/contract/jobs.ts';
import { page } from './sequence.ts';

export type CheckpointRow = {
  id: string;
  job_id: string;
  step: number;
  token: number;
  created_at: number;
  metrics: string;
  files: string;
  model: string;
};

/** The fencing token is part of the path: a worker that lost its lease writes beside, never over, its successor's files. */
export function checkpointKey(jobId: string, step: number, token: number, name: string): string {
  return `jobs/${jobId}/checkpoints/${step}/${token}/${name}`;
}

export function recordCheckpointFile(
  db: D1Database,
  file: WeightFile & { jobId: string; step: number; token: number },
): D1PreparedStatement {
  return db
    .prepare(
      'INSERT OR REPLACE INTO checkpoint_files (job_id, step, token, name, bytes, sha256) VALUES (?, ?, ?, ?, ?, ?)',
    )
    .bind(file.jobId, file.step, file.token, file.name, file.bytes, file.sha256);
}

/** Files uploaded so far for one step under one lease. */
export async function uploadedFiles(db: D1Database, jobId: string, step: number, token: number): Promise<WeightFile[]> {
  const { results } = await db
    .prepare('SELECT name, bytes, sha256 FROM checkpoint_files WHERE job_id = ? AND step = ? AND token = ?')
    .bind(jobId, step, token)
    .all<WeightFile>();
  return results;
}

/** The step of a checkpoint again after a resume replaces the earlier one; both are complete. `guard` makes it part of a job's change. */
export function insertCheckpoint(db: D1Database, row: CheckpointRow, guard: string): D1PreparedStatement {
  return db
    .prepare(
      `INSERT OR REPLACE INTO checkpoints (id, job_id, step, token, created_at, metrics, files, model)
       SELECT ?, ?, ?, ?, ?, ?, ?, ? WHERE ${guard}`,
    )
    .bind(row.id, row.job_id, row.step, row.token, row.created_at, row.metrics, row.files, row.model);
}

export function insertModel(
  db: D1Database,
  model: { id: string; base: string; kind: string; jobId: string; step: number; createdAtMs: number; listed: boolean },
  guard: string,
): D1PreparedStatement {
  return db
    .prepare(
      `INSERT OR REPLACE INTO models (id, base, kind, job_id, step, created_at, listed, tenant)
       SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, (SELECT tenant FROM jobs WHERE id = ?4) WHERE ${guard}`,
    )
    .bind(model.id, model.base, model.kind, model.jobId, model.step, model.createdAtMs, model.listed ? 1 : 0);
}

export function getCheckpoint(db: D1Database, jobId: string, step: number): Promise<CheckpointRow | null> {
  return db.prepare('SELECT * FROM checkpoints WHERE job_id = ? AND step = ?').bind(jobId, step).first<CheckpointRow>();
}

/** Newest first. */
export async function newestCheckpoints(db: D1Database, jobId: string, limit: number): Promise<CheckpointRow[]> {
  const { results } = await db
    .prepare('SELECT * FROM checkpoints WHERE job_id = ? ORDER BY step DESC LIMIT ?')
    .bind(jobId, limit)
    .all<CheckpointRow>();
  return results;
}

/** Newest first. */
export async function listCheckpoints(db: D1Database, jobId: string, query: { limit: number; after: string | null }) {
  const { results } = await db
    .prepare(
      `SELECT * FROM checkpoints WHERE job_id = ?1 AND (?2 IS NULL OR step < (SELECT step FROM checkpoints WHERE id = ?2))
       ORDER BY step DESC LIMIT ?3`,
    )
    .bind(jobId, query.after, query.limit + 1)
    .all<CheckpointRow>();
  return page(results, query.limit, showCheckpoint);
}

export function manifestOf(row: CheckpointRow): CheckpointManifest {
  return {
    step: row.step,
    metrics: JSON.parse(row.metrics) as CheckpointMetrics,
    files: JSON.parse(row.files) as WeightFile[],
  };
}

export function showCheckpoint(row: CheckpointRow): JobCheckpoint {
  return {
    id: row.id,
    object: 'fine_tuning.job.checkpoint',
    created_at: Math.floor(row.created_at / 1000),
    fine_tuning_job_id: row.job_id,
    fine_tuned_model_checkpoint: row.model,
    step_number: row.step,
    metrics: JSON.parse(row.metrics) as CheckpointMetrics,
  };
}
