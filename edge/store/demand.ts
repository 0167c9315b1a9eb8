import type { JobDemand } from '../fleet/autoscale/plan.ts';

/** Fine-tuning jobs and tasks that could be taken now, and those that run. */
export async function jobDemand(db: D1Database, nowMs: number): Promise<JobDemand> {
  const { results } = await db
    .prepare(
      `SELECT status, COUNT(*) AS n FROM
         (SELECT CASE status WHEN 'pausing' THEN 'running' ELSE status END AS status, not_before FROM jobs WHERE status IN ('queued', 'running', 'pausing')
          UNION ALL SELECT status, not_before FROM tasks WHERE status IN ('queued', 'running'))
       WHERE status = 'running' OR not_before <= ? GROUP BY status`,
    )
    .bind(nowMs)
    .all<{ status: string; n: number }>();
  const count = (status: string) => results.find((row) => row.status === status)?.n ?? 0;
  return { queued: count('queued'), running: count('running') };
}
