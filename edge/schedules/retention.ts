/** What a schedule leaves behind: its newest models, and records of its newest runs. */
import { LIMITS } from '../../shared/contract/limits.ts';
import type { Env } from '../env.ts';
import { deleteModel, getModel } from '../store/models.ts';
import { systemOf } from './start.ts';

/** Schedules whose leftovers are to be looked at. */
export async function sweepRetention(env: Env): Promise<void> {
  const { results } = await env.DB.prepare(
    'SELECT id, tenant, keep_models, status FROM schedules WHERE retention_due = 1 ORDER BY seq LIMIT 20',
  ).all<{ id: string; tenant: string; keep_models: number | null; status: string }>();
  for (const schedule of results) {
    // What a deleted schedule has made is its owner's to keep.
    if (schedule.keep_models !== null && schedule.status !== 'deleted')
      await deleteOldModels(env, schedule.tenant, schedule.id, schedule.keep_models);
    await env.DB.batch([
      env.DB.prepare(
        `DELETE FROM schedule_runs WHERE schedule_id = ?1 AND status NOT IN ('pending', 'running', 'gating')
           AND seq <= (SELECT seq FROM schedule_runs WHERE schedule_id = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)`,
      ).bind(schedule.id, LIMITS.schedules.maxRuns),
      env.DB.prepare('UPDATE schedules SET retention_due = 0 WHERE id = ?').bind(schedule.id),
    ]);
  }
  if (results.some(({ status }) => status === 'deleted')) await purgeDeleted(env.DB);
}

/** Beyond the newest `kept`, a model goes with its checkpoints, unless an alias stands for it or would go back to it, or a job tunes it further. */
async function deleteOldModels(env: Env, tenant: string, scheduleId: string, kept: number): Promise<void> {
  const { results } = await env.DB.prepare(
    `SELECT r.model FROM schedule_runs r JOIN models m ON m.id = r.model AND m.tenant = ?2
     WHERE r.schedule_id = ?1 AND r.model IS NOT NULL ORDER BY r.seq DESC LIMIT -1 OFFSET ?3`,
  )
    .bind(scheduleId, tenant, kept)
    .all<{ model: string }>();
  for (const { model } of results) {
    if (await isRollbackTarget(env.DB, tenant, model)) continue;
    const row = await getModel(env.DB, tenant, model);
    if (row === null) continue;
    await deleteModel(env.DB, systemOf(tenant), row);
  }
}

async function isRollbackTarget(db: D1Database, tenant: string, model: string): Promise<boolean> {
  const row = await db
    .prepare(
      `SELECT 1 AS one FROM aliases a JOIN alias_changes now ON now.tenant = a.tenant AND now.name = a.name AND now.version = a.version
       JOIN alias_changes b ON b.tenant = a.tenant AND b.name = a.name AND b.version = now.back
       WHERE a.tenant = ? AND b.model = ? LIMIT 1`,
    )
    .bind(tenant, model)
    .first();
  return row !== null;
}

/** Deleted schedules go when their last run has ended. */
async function purgeDeleted(db: D1Database): Promise<void> {
  const over = `SELECT id FROM schedules s WHERE s.status = 'deleted'
    AND NOT EXISTS (SELECT 1 FROM schedule_runs r WHERE r.schedule_id = s.id AND r.status IN ('pending', 'running', 'gating'))`;
  await db.batch([
    db.prepare(`DELETE FROM schedule_runs WHERE schedule_id IN (${over})`),
    db.prepare(`DELETE FROM schedules WHERE id IN (${over})`),
  ]);
}
