/** What those who run the installation ask of the database. */

/** Fine-tuning jobs or batches by status. */
export async function countByStatus(db: D1Database, table: 'jobs' | 'batches'): Promise<Record<string, number>> {
  const { results } = await db
    .prepare(`SELECT status, count(*) AS n FROM ${table} GROUP BY status`)
    .all<{ status: string; n: number }>();
  return Object.fromEntries(results.map(({ status, n }) => [status, n]));
}

/** Webhook deliveries that are still to be made, and how long the oldest of them has been due, ms. */
export async function webhookBacklog(db: D1Database, nowMs: number): Promise<{ waiting: number; overdueMs: number }> {
  const row = await db
    .prepare('SELECT count(*) AS waiting, min(next_at) AS due FROM webhook_deliveries WHERE next_at IS NOT NULL')
    .first<{ waiting: number; due: number | null }>();
  return { waiting: row?.waiting ?? 0, overdueMs: row?.due == null ? 0 : Math.max(0, nowMs - row.due) };
}
