/** Which checkpoints of a job are evaluated by their answers, which are to be, and how they did. */
import type { EvaluationMetrics } from '../../shared/contract/jobs.ts';

export type CheckpointEvalRow = {
  job_id: string;
  step: number;
  checkpoint: string;
  model: string;
  created_at: number;
  evaluated_at: number | null;
  accuracy: number | null;
  file_id: string | null;
};

type NewEval = { jobId: string; step: number; checkpoint: string; model: string; createdAtMs: number };

/** A checkpoint that is to be evaluated; made again after a resume, it is evaluated again. */
export function insertPendingEval(db: D1Database, row: NewEval, guard: string): D1PreparedStatement {
  return db
    .prepare(
      `INSERT OR REPLACE INTO checkpoint_evals (job_id, step, checkpoint, model, created_at) SELECT ?, ?, ?, ?, ? WHERE ${guard}`,
    )
    .bind(row.jobId, row.step, row.checkpoint, row.model, row.createdAtMs);
}

/** It could not be evaluated, and will not be. */
export function deletePendingEval(db: D1Database, jobId: string, step: number, guard: string): D1PreparedStatement {
  return db
    .prepare(`DELETE FROM checkpoint_evals WHERE job_id = ? AND step = ? AND evaluated_at IS NULL AND ${guard}`)
    .bind(jobId, step);
}

/** In the order of the steps. */
export async function evalsOf(db: D1Database, jobId: string): Promise<CheckpointEvalRow[]> {
  const { results } = await db
    .prepare('SELECT * FROM checkpoint_evals WHERE job_id = ? ORDER BY step')
    .bind(jobId)
    .all<CheckpointEvalRow>();
  return results;
}

export function getEval(db: D1Database, jobId: string, step: number): Promise<CheckpointEvalRow | null> {
  return db
    .prepare('SELECT * FROM checkpoint_evals WHERE job_id = ? AND step = ?')
    .bind(jobId, step)
    .first<CheckpointEvalRow>();
}

/** What a checkpoint answered right, among its metrics too. */
export function insertEvaluation(
  db: D1Database,
  row: { jobId: string; step: number; metrics: EvaluationMetrics; fileId: string | null; atMs: number },
  guard: string,
): D1PreparedStatement[] {
  return [
    db
      .prepare(
        `UPDATE checkpoint_evals SET evaluated_at = ?, accuracy = ?, file_id = ? WHERE job_id = ? AND step = ? AND ${guard}`,
      )
      .bind(row.atMs, row.metrics.eval_accuracy, row.fileId, row.jobId, row.step),
    db
      .prepare(`UPDATE checkpoints SET metrics = json_patch(metrics, ?) WHERE job_id = ? AND step = ? AND ${guard}`)
      .bind(JSON.stringify(row.metrics), row.jobId, row.step),
  ];
}

export type BestCheckpoint = {
  step: number;
  accuracy: number;
  /** It is the best of so many that were evaluated. */
  of: number;
};

/** The checkpoint with the highest accuracy, the earliest of equals; null where none was evaluated. */
export function bestCheckpoint(db: D1Database, jobId: string): Promise<BestCheckpoint | null> {
  return db
    .prepare(
      `SELECT e.step, e.accuracy, (SELECT COUNT(*) FROM checkpoint_evals WHERE job_id = ?1 AND accuracy IS NOT NULL) AS 'of'
       FROM checkpoint_evals e JOIN checkpoints c ON c.job_id = e.job_id AND c.step = e.step
       WHERE e.job_id = ?1 AND e.accuracy IS NOT NULL ORDER BY e.accuracy DESC, e.step LIMIT 1`,
    )
    .bind(jobId)
    .first<BestCheckpoint>();
}

/** Writes into a checkpoint's metrics of how many it is the best. */
export function markBest(db: D1Database, jobId: string, best: BestCheckpoint, guard: string): D1PreparedStatement {
  return db
    .prepare(
      `UPDATE checkpoints SET metrics = json_set(metrics, '$.eval_best_of', ?) WHERE job_id = ? AND step = ? AND ${guard}`,
    )
    .bind(best.of, jobId, best.step);
}

/** What the stage of a checkpoint trains. */
export async function kindOfStep(db: D1Database, jobId: string, step: number): Promise<string | null> {
  const row = await db
    .prepare('SELECT kind FROM models WHERE job_id = ? AND step = ? AND listed = 0')
    .bind(jobId, step)
    .first<{ kind: string }>();
  return row?.kind ?? null;
}
