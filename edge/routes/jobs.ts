import type { Context } from 'hono';
import { ApiError, describe, errorMessage } from '../../shared/contract/errors.ts';
import { CreateJobRequest, type FineTuningJob } from '../../shared/contract/jobs.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { nowMs } from '../clock.ts';
import { type AppEnv, actorOf, scheduler } from '../env.ts';
import { prepareJob } from '../jobs/create.ts';
import { streamEvents } from '../jobs/follow.ts';
import { wakeBackends } from '../jobs/sweep.ts';
import { readJson } from '../middleware/body.ts';
import { listCheckpoints } from '../store/checkpoints.ts';
import { listEvents } from '../store/events.ts';
import { applyToJob, getJob, type JobRow, listJobs, showJob } from '../store/jobs.ts';
import { keyed } from '../store/keyed.ts';
import { applyToTask } from '../store/tasks.ts';
import { advanceAll } from '../tasks/advance.ts';
import { listQuery } from './query.ts';

/** `POST /v1/fine_tuning/jobs`. The job begins as `validating_files`: a backend reads its data and says what is wrong with it. */
export async function createJob(c: Context<AppEnv>): Promise<Response> {
  const body = await readJson(c, CreateJobRequest);
  const tenant = c.get('tenant');
  const find = (id: string) => getJob(c.env.DB, tenant, id);
  const { id, made } = await keyed('ftjob-', tenant, c.req.header('idempotency-key'), nowMs(), find);
  if (made !== null) return c.json(showJob(made));
  const { statements } = await prepareJob(c.env, actorOf(c), body, { id });
  await c.env.DB.batch(statements);
  // Data that was found good before need not be read again.
  await advanceAll(c.env);
  c.executionCtx.waitUntil(wakeBackends(c.env));
  return c.json(showJob(await existingJob(c, id)));
}

export async function listAllJobs(c: Context<AppEnv>): Promise<Response> {
  return c.json(await listJobs(c.env.DB, c.get('tenant'), listQuery(c)));
}

export async function retrieveJob(c: Context<AppEnv>): Promise<Response> {
  return c.json(showJob(await existingJob(c)));
}

/** At once and final: the worker learns it from its next heartbeat, and its lease is worth nothing any more. */
export async function cancelJob(c: Context<AppEnv>): Promise<Response> {
  return c.json(await actOn(c, 'cancel', 'cancelled'));
}

/** A worker saves a checkpoint first: the job is `pausing` until then. */
export async function pauseJob(c: Context<AppEnv>): Promise<Response> {
  return c.json(await actOn(c, 'pause', 'paused'));
}

/** Goes on from the last checkpoint. */
export async function resumeJob(c: Context<AppEnv>): Promise<Response> {
  const job = await actOn(c, 'resume', 'resumed');
  await advanceAll(c.env);
  c.executionCtx.waitUntil(wakeBackends(c.env));
  return c.json(job);
}

async function actOn(c: Context<AppEnv>, type: 'cancel' | 'pause' | 'resume', verb: string): Promise<FineTuningJob> {
  const { id, validation_task: task } = await existingJob(c);
  const applied = await applyToJob(c.env.DB, id, { type }, nowMs(), { actor: actorOf(c) });
  if (applied?.outcome.kind === 'refused')
    throw new ApiError('invalid_state', `Job ${id} cannot be ${verb}: ${applied.outcome.reason}.`, { param: 'id' });
  // Nobody waits for its validation any more.
  if (type === 'cancel' && task !== null) await applyToTask(c.env.DB, task, { type: 'cancel' }, nowMs());
  c.executionCtx.waitUntil(scheduler(c.env).wake());
  return showJob(await existingJob(c));
}

/** A list, or with `Accept: text/event-stream` the events as they come. */
export async function jobEvents(c: Context<AppEnv>): Promise<Response> {
  const { id } = await existingJob(c);
  if ((c.req.header('accept') ?? '').includes('text/event-stream')) {
    return streamEvents(c.env.DB, id, c.req.header('last-event-id') ?? null);
  }
  return c.json(await listEvents(c.env.DB, id, listQuery(c)));
}

export async function jobCheckpoints(c: Context<AppEnv>): Promise<Response> {
  const { id } = await existingJob(c);
  return c.json(await listCheckpoints(c.env.DB, id, listQuery(c, LIMITS.lists.defaultCheckpointLimit)));
}

async function existingJob(c: Context<AppEnv>, id: string = c.req.param('id') ?? ''): Promise<JobRow> {
  const job = await getJob(c.env.DB, c.get('tenant'), id);
  if (job !== null) return job;
  throw new ApiError(
    'job_not_found',
    errorMessage('id', {
      expected: 'the id of a fine-tuning job',
      received: describe(id),
      remedy: 'GET /v1/fine_tuning/jobs lists yours.',
    }),
    { param: 'id' },
  );
}
