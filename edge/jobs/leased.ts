/** What every route of a training backend shares: whose job, under which lease, and what a worker hears. */
import type { Context } from 'hono';
import type { JobHeartbeatResponse } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import type { AppEnv } from '../env.ts';
import type { Applied, JobRow } from '../store/jobs.ts';
import { TERMINAL } from './state.ts';

export function jobId(c: Context<AppEnv>): string {
  return c.req.param('id') ?? '';
}

/** What a worker hears with every answer. */
export function heardBy(job: JobRow): JobHeartbeatResponse {
  return {
    cancel: TERMINAL.has(job.status),
    pause: job.status === 'pausing' || job.status === 'paused',
    expiresAt: job.lease_expires_at ?? 0,
  };
}

/** What an action came to. @throws ApiError for an unknown job, a lease that is not the newest, or a state that does not allow it */
export function must(c: Context<AppEnv>, applied: Applied | null): Applied {
  if (applied === null) throw unknownJob(jobId(c));
  if (applied.outcome.kind === 'stale') throw staleLease(jobId(c));
  if (applied.outcome.kind === 'refused')
    throw new ApiError('invalid_state', `Job ${jobId(c)}: ${applied.outcome.reason}.`);
  return applied;
}

export function unknownJob(id: string): ApiError {
  return new ApiError('job_not_found', `No job ${JSON.stringify(id.slice(0, 64))}.`);
}

export function staleLease(id: string): ApiError {
  return new ApiError('stale_lease', `Job ${id}: the lease is not the newest one. Stop working on it.`);
}
