/**
 * The job that an `Idempotency-Key` stands for. What is kept of answers (`middleware/idempotency.ts`) knows nothing of a job whose row was written while its
 * answer was lost on the way from the database: the request fails, the key is free again, and the next try would make a second job. So the id of a keyed
 * job follows from the key, and the next try finds it.
 */
import { LIMITS } from '../../shared/contract/limits.ts';
import { sha256Hex } from '../../shared/wire/signature.ts';
import { getJob, type JobRow } from '../store/jobs.ts';

/** Keys stand for something for a day; whoever uses one again after that means another job. */
const MAX_GENERATIONS = 100;

/** @returns the id for a job under this key, and the job itself where an earlier try has made it */
export async function keyedJob(
  db: D1Database,
  tenant: string,
  key: string,
  atMs: number,
): Promise<{ id: string; made: JobRow | null }> {
  for (let generation = 0; generation < MAX_GENERATIONS; generation++) {
    const digest = await sha256Hex(JSON.stringify(['fine_tuning.job', tenant, key, generation]));
    const id = `ftjob-${digest.slice(0, 32)}`;
    const job = await getJob(db, tenant, id);
    if (job === null) return { id, made: null };
    if (job.created_at > atMs - LIMITS.idempotency.keepMs) return { id, made: job };
  }
  throw new Error(`Idempotency-Key: used for ${MAX_GENERATIONS} jobs; draw a new one`);
}
