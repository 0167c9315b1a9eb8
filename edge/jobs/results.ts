import type { Env } from '../env.ts';
import { writeFile } from '../files/adopt.ts';

const COLUMNS = ['step', 'train_loss', 'train_mean_token_accuracy', 'valid_loss', 'valid_mean_token_accuracy'] as const;

/** Writes a job's metric events as CSV, one row a step, and stores it as a file of the job's owner. @returns its id, or null where there are none. */
export async function metricsFile(env: Env, job: { id: string; tenant: string }): Promise<string | null> {
  const { results } = await env.DB.prepare(
    `SELECT data FROM job_events WHERE job_id = ? AND type = 'metrics' AND data IS NOT NULL ORDER BY seq`,
  )
    .bind(job.id)
    .all<{ data: string }>();
  if (results.length === 0) return null;
  const rows = results.map(({ data }) => {
    const values = JSON.parse(data) as Record<string, unknown>;
    return COLUMNS.map((name) => (typeof values[name] === 'number' ? String(values[name]) : '')).join(',');
  });
  const bytes = new TextEncoder().encode(`${COLUMNS.join(',')}\n${rows.join('\n')}\n`);
  const file = await writeFile(
    { db: env.DB, blobs: env.BLOBS },
    { tenant: job.tenant, keyId: 'system', requestId: null },
    { purpose: 'fine-tune-results', filename: 'step_metrics.csv', mime: 'text/csv', expiresAfterS: null, bytes },
  );
  return file.id;
}
