import type { JobDemand } from '../fleet/autoscale/plan.ts';

/** Fine-tuning jobs that could be taken now, and those that run. */
export async function jobDemand(db: D1Database, nowMs: number): Promise<JobDemand> {
  const { results } = await db
    .prepare(
      `SELECT status, COUNT(*) AS n FROM jobs WHERE status = 'running' OR (status = 'queued' AND not_before <= ?) GROUP BY status`,
    )
    .bind(nowMs)
    .all<{ status: string; n: number }>();
  const count = (status: string) => results.find((row) => row.status === status)?.n ?? 0;
  return { queued: count('queued'), running: count('running') };
}
