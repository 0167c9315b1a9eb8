import type { WeightFile } from '../../shared/contract/backend.ts';
import type { TrainStage } from '../../shared/contract/models.ts';

export type ModelRow = { id: string; base: string; kind: TrainStage; job_id: string; step: number; created_at: number };

/** Tuned models that clients see, newest first; checkpoints' own names are left out. */
export async function listModels(db: D1Database): Promise<ModelRow[]> {
  const { results } = await db
    .prepare('SELECT * FROM models WHERE listed = 1 ORDER BY created_at DESC, id LIMIT 1000')
    .all<ModelRow>();
  return results;
}

export async function getModel(db: D1Database, id: string): Promise<ModelRow | null> {
  return db.prepare('SELECT * FROM models WHERE id = ?').bind(id).first<ModelRow>();
}

/** A tuned model with its files, as a backend needs it. */
export async function findModel(
  db: D1Database,
  id: string,
): Promise<{ id: string; base: string; kind: TrainStage; files: WeightFile[] } | null> {
  const row = await db
    .prepare(
      `SELECT m.base, m.kind, c.files FROM models m JOIN checkpoints c ON c.job_id = m.job_id AND c.step = m.step WHERE m.id = ?`,
    )
    .bind(id)
    .first<{ base: string; kind: TrainStage; files: string }>();
  return row === null ? null : { id, base: row.base, kind: row.kind, files: JSON.parse(row.files) as WeightFile[] };
}
