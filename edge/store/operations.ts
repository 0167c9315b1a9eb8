/** What those who run the installation ask of the database. */

/** Fine-tuning jobs, batches or runs of schedules by status. */
export async function countByStatus(
  db: D1Database,
  table: 'jobs' | 'batches' | 'schedule_runs',
): Promise<Record<string, number>> {
  const { results } = await db
    .prepare(`SELECT status, count(*) AS n FROM ${table} GROUP BY status`)
    .all<{ status: string; n: number }>();
  return Object.fromEntries(results.map(({ status, n }) => [status, n]));
}

/** Runs of evaluations that have not ended, and how long the one of them that waits longest has. */
export async function openEvalRuns(
  db: D1Database,
  atMs: number,
): Promise<{ queued: number; running: number; oldestWaitMs: number }> {
  const row = await db
    .prepare(
      `SELECT SUM(status = 'queued') AS queued, SUM(status = 'running') AS running,
         MIN(CASE WHEN status = 'queued' THEN MAX(claimed_at, created_at) END) AS since
       FROM tasks WHERE status IN ('queued', 'running') AND kind = 'evaluate'`,
    )
    .first<{ queued: number | null; running: number | null; since: number | null }>();
  const since = row?.since ?? atMs;
  return { queued: row?.queued ?? 0, running: row?.running ?? 0, oldestWaitMs: Math.max(0, atMs - since) };
}

/**
 * Deliveries that are still to be made, and how long the oldest one has been due to which nobody attends, ms. An endpoint with calls under way is attended
 * to, however many of its own deliveries wait behind them: a slow receiver is no fault of the installation.
 */
export async function webhookBacklog(db: D1Database, nowMs: number): Promise<{ waiting: number; overdueMs: number }> {
  const row = await db
    .prepare(
      `SELECT (SELECT COUNT(*) FROM webhook_deliveries WHERE next_at IS NOT NULL) AS waiting,
         (SELECT MIN((SELECT MIN(next_at) FROM webhook_deliveries d WHERE d.endpoint_id = e.id AND d.next_at IS NOT NULL))
          FROM webhook_endpoints e WHERE e.disabled_at IS NULL
            AND NOT EXISTS (SELECT 1 FROM webhook_deliveries c WHERE c.endpoint_id = e.id AND c.next_at > ?1 AND c.claimed_until > ?1)) AS due`,
    )
    .bind(nowMs)
    .first<{ waiting: number; due: number | null }>();
  return { waiting: row?.waiting ?? 0, overdueMs: row?.due == null ? 0 : Math.max(0, nowMs - row.due) };
}

/** How long the oldest slot of a schedule has been due that nobody has decided, ms. */
export async function slotsOverdueMs(db: D1Database, nowMs: number): Promise<number> {
  const row = await db
    .prepare(
      `SELECT MIN(next_at) AS due FROM schedules WHERE next_at IS NOT NULL AND status = 'active'
         AND tenant IN (SELECT id FROM tenants WHERE disabled_at IS NULL)`,
    )
    .first<{ due: number | null }>();
  return row?.due == null ? 0 : Math.max(0, nowMs - row.due);
}
