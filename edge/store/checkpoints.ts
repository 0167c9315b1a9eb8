import type { CheckpointManifest, WeightFile } from '../../shared/contract/backend.ts';
import type { CheckpointMetrics, JobCheckpoint } from '../../shared/contract/jobs.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
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

/** With the file of its evaluation, where there is one. */
export type ShownCheckpoint = CheckpointRow & { evaluation_file: string | null };

/** The fencing token is part of the path: a worker that lost its lease writes beside, never over, its successor's files. */
export function checkpointKey(jobId: string, step: number, token: number, name: string): string {
  return `jobs/${jobId}/checkpoints/${step}/${token}/${name}`;
}

/** Written only while the lease is the newest one: a zombie's upload never counts. */
export function recordCheckpointFile(
  db: D1Database,
  file: WeightFile & { jobId: string; step: number; token: number },
): D1PreparedStatement {
  return db
    .prepare(
      `INSERT OR REPLACE INTO checkpoint_files (job_id, step, token, name, bytes, sha256, location) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7
       WHERE EXISTS (SELECT 1 FROM jobs WHERE id = ?1 AND lease_token = ?3 AND status IN ('running', 'pausing'))`,
    )
    .bind(file.jobId, file.step, file.token, file.name, file.bytes, file.sha256, file.location ?? null);
}

/**
 * Notes an object whose bytes are about to come as loose, unless the same upload was recorded before: one that is sent again, late, and breaks off must not
 * leave a note on which a checkpoint's file would be deleted.
 */
export function noteUpload(
  db: D1Database,
  file: { jobId: string; step: number; token: number; name: string },
  key: string,
  nowMs: number,
): D1PreparedStatement {
  return db
    .prepare(
      `INSERT INTO loose_objects (key, due_at) SELECT ?5, ?6
       WHERE NOT EXISTS (SELECT 1 FROM checkpoint_files WHERE job_id = ?1 AND step = ?2 AND token = ?3 AND name = ?4)
       ON CONFLICT (key) DO UPDATE SET due_at = excluded.due_at`,
    )
    .bind(file.jobId, file.step, file.token, file.name, key, nowMs + LIMITS.files.looseMs);
}

/** The object of an uploaded file is loose no more, where the file was recorded. */
export function strikeOwned(
  db: D1Database,
  file: { jobId: string; step: number; token: number; name: string },
  key: string,
): D1PreparedStatement {
  return db
    .prepare(
      `DELETE FROM loose_objects WHERE key = ?5 AND EXISTS
         (SELECT 1 FROM checkpoint_files WHERE job_id = ?1 AND step = ?2 AND token = ?3 AND name = ?4)`,
    )
    .bind(file.jobId, file.step, file.token, file.name, key);
}

/** Files uploaded, or announced in a store of the backend's own, so far for one step under one lease. */
export async function uploadedFiles(db: D1Database, jobId: string, step: number, token: number): Promise<WeightFile[]> {
  const { results } = await db
    .prepare('SELECT name, bytes, sha256, location FROM checkpoint_files WHERE job_id = ? AND step = ? AND token = ?')
    .bind(jobId, step, token)
    .all<Omit<WeightFile, 'location'> & { location: string | null }>();
  return results.map(({ location, ...file }) => (location === null ? file : { ...file, location }));
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
      `SELECT c.*, e.file_id AS evaluation_file FROM checkpoints c LEFT JOIN checkpoint_evals e ON e.job_id = c.job_id AND e.step = c.step
       WHERE c.job_id = ?1 AND (?2 IS NULL OR c.step < (SELECT step FROM checkpoints WHERE id = ?2)) ORDER BY c.step DESC LIMIT ?3`,
    )
    .bind(jobId, query.after, query.limit + 1)
    .all<ShownCheckpoint>();
  return page(results, query.limit, showCheckpoint);
}

export function manifestOf(row: CheckpointRow): CheckpointManifest {
  return {
    step: row.step,
    metrics: JSON.parse(row.metrics) as CheckpointMetrics,
    files: JSON.parse(row.files) as WeightFile[],
  };
}

export function showCheckpoint(row: ShownCheckpoint): JobCheckpoint {
  return {
    id: row.id,
    object: 'fine_tuning.job.checkpoint',
    created_at: Math.floor(row.created_at / 1000),
    fine_tuning_job_id: row.job_id,
    fine_tuned_model_checkpoint: row.model,
    step_number: row.step,
    metrics: shownMetrics(JSON.parse(row.metrics) as CheckpointMetrics),
    evaluation_file: row.evaluation_file,
  };
}

/** As the event of the evaluation has them: what JSON's merge took away for being null is null. */
function shownMetrics(metrics: CheckpointMetrics): CheckpointMetrics {
  return metrics.eval_accuracy === undefined ? metrics : { eval_detectable_difference: null, ...metrics };
}

/** Whether a checkpoint is needed beyond its job's own count: a model that clients see, an unfinished job's base or an alias is made of it. */
const IS_NEEDED = `(EXISTS (SELECT 1 FROM models m WHERE m.job_id = c.job_id AND m.step = c.step AND m.listed = 1)
  OR EXISTS (SELECT 1 FROM jobs j WHERE j.model = c.model AND j.finished_at IS NULL)
  OR EXISTS (SELECT 1 FROM aliases a WHERE a.model = c.model))`;

/** Of a job (`?1`): the best of its evaluated checkpoints, and those that wait for their evaluation, which are kept whatever their age. */
const KEPT_STEPS = `(SELECT * FROM (SELECT step FROM checkpoint_evals WHERE job_id = ?1 AND accuracy IS NOT NULL ORDER BY accuracy DESC, step LIMIT 1)
  UNION SELECT step FROM checkpoint_evals WHERE job_id = ?1 AND evaluated_at IS NULL)`;

/**
 * Takes away all but the newest `keep` checkpoints of a job, with their models' names; their objects are deleted by the sweeper. Part of the transaction
 * that adds a checkpoint at `step`.
 */
export function pruneCheckpoints(
  db: D1Database,
  job: { id: string; step: number; keep: number },
  guard: string,
  atMs: number,
): D1PreparedStatement[] {
  const old = `SELECT c.step FROM checkpoints c WHERE c.job_id = ?1 AND NOT ${IS_NEEDED}
    AND c.step NOT IN (SELECT step FROM checkpoints WHERE job_id = ?1 ORDER BY step DESC LIMIT ?2)
    AND c.step NOT IN ${KEPT_STEPS} AND ${guard}`;
  return [
    db.prepare(`DELETE FROM models WHERE job_id = ?1 AND listed = 0 AND step IN (${old})`).bind(job.id, job.keep),
    db.prepare(`DELETE FROM checkpoints WHERE job_id = ?1 AND step IN (${old})`).bind(job.id, job.keep),
    ...releaseFiles(db, { jobId: job.id, throughStep: job.step }, guard, atMs),
  ];
}

/**
 * Uploaded files of a job that belong to no checkpoint (any more) become loose: what a worker left that died, what was pruned or deleted.
 * @param what.throughStep a later step's files may still be on their way; null where nobody uploads any more
 */
export function releaseFiles(
  db: D1Database,
  what: { jobId: string; throughStep: number | null },
  guard: string,
  atMs: number,
): D1PreparedStatement[] {
  const unowned = `job_id = ?1 AND (?2 IS NULL OR step <= ?2) AND ${guard}
    AND NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.job_id = f.job_id AND c.step = f.step AND c.token = f.token)`;
  return [
    db
      .prepare(
        `INSERT OR IGNORE INTO loose_objects (key, due_at)
         SELECT 'jobs/' || job_id || '/checkpoints/' || step || '/' || token || '/' || name, ?3 FROM checkpoint_files f
         WHERE location IS NULL AND ${unowned}`,
      )
      .bind(what.jobId, what.throughStep, atMs + LIMITS.files.looseMs),
    db
      .prepare(
        `INSERT OR IGNORE INTO outside_objects (location, due_at)
         SELECT location, ?3 FROM checkpoint_files f WHERE location IS NOT NULL AND ${unowned}`,
      )
      .bind(what.jobId, what.throughStep, atMs + LIMITS.files.looseMs),
    db.prepare(`DELETE FROM checkpoint_files AS f WHERE ${unowned}`).bind(what.jobId, what.throughStep),
  ];
}
