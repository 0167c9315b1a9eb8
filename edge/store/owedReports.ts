/**
 * Reports that are owed: of runs that were cancelled while they waited for their next turn, or whose backends died. Whoever works on a run writes its report
 * when it ends; here nobody did, and a backend is asked for the report alone.
 */
import { LIMITS } from '../../shared/contract/limits.ts';
import type { TaskRow } from './tasks.ts';

/** A task that has ended otherwise than well. */
type EndedTask = TaskRow & { status: 'cancelled' | 'failed' };

const E = LIMITS.evals;

/** Ended runs with answers and without a report, of these base models, oldest first. Not those that somebody may be writing the report of. */
export async function owedReports(
  db: D1Database,
  baseModels: readonly string[],
  atMs: number,
  limit: number,
): Promise<TaskRow[]> {
  const { results } = await db
    .prepare(
      `SELECT t.* FROM eval_runs r JOIN tasks t ON t.id = r.id
       WHERE r.report_json_key IS NULL AND r.report_tries < ?4 AND t.status IN ('cancelled', 'failed') AND t.finished_at <= ?2
         AND COALESCE(t.lease_expires_at, 0) <= ?3 AND t.base_model IN (SELECT value FROM json_each(?1))
         AND EXISTS (SELECT 1 FROM eval_items i WHERE i.run_id = r.id) ORDER BY r.seq LIMIT ?5`,
    )
    .bind(JSON.stringify(baseModels), atMs - E.owedReportAfterMs, atMs, E.maxReportTries, limit)
    .all<TaskRow>();
  return results;
}

/** A lease for the report alone; the run stays as it ended. @returns null where another one was first */
export async function leaseOwedReport(
  db: D1Database,
  { id, revision }: TaskRow,
  backendId: string,
  atMs: number,
): Promise<EndedTask | null> {
  const next = crypto.randomUUID();
  const [leased] = await db.batch<EndedTask>([
    db
      .prepare(
        `UPDATE tasks SET lease_token = lease_token + 1, lease_backend = ?, lease_expires_at = ?, revision = ?
         WHERE id = ? AND revision = ? AND status IN ('cancelled', 'failed') RETURNING *`,
      )
      .bind(backendId, atMs + E.owedReportLeaseMs, next, id, revision),
    db
      .prepare(
        `UPDATE eval_runs SET report_tries = report_tries + 1
         WHERE id = ?1 AND EXISTS (SELECT 1 FROM tasks WHERE id = ?1 AND revision = ?2)`,
      )
      .bind(id, next),
  ]);
  return leased?.results[0] ?? null;
}
