/** A run's beginning: its condition, and the job in the same transaction. */

import { ApiError } from '../../shared/contract/errors.ts';
import type { CreateJobRequest } from '../../shared/contract/jobs.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { Gate, ScheduleCondition, SkipReason } from '../../shared/contract/schedules.ts';
import { dataDigest, dataSpecOf } from '../datasets/spec.ts';
import type { Env } from '../env.ts';
import { getAlias, isConflict } from '../store/aliases.ts';
import type { Actor } from '../store/audit.ts';
import { changeRun, type RunChange, type RunRow, runEvent } from '../store/scheduleRuns.ts';
import { findSchedule, type ScheduleRow } from '../store/schedules.ts';
import { meetsCondition } from './condition.ts';
import { countExamples } from './count.ts';

const S = LIMITS.schedules;

/** Who acts where no request does. */
export const systemOf = (tenant: string): Actor => ({ tenant, keyId: 'system', requestId: null });

/** The part of `jobs/create.ts` that is needed here: the rows of a job, written where `guard` is true. */
export type PrepareJob = (
  env: Env,
  actor: Actor,
  request: CreateJobRequest,
  options: { scheduleId: string; guard: string; gate?: Gate },
) => Promise<{ id: string; statements: D1PreparedStatement[] }>;

/**
 * Starts a waiting run whose turn it is, or ends it where it is not to train. A reason that may pass leaves it waiting.
 * @returns whether a job was made
 */
export async function startRun(env: Env, prepare: PrepareJob, run: RunRow, nowMs: number): Promise<boolean> {
  const schedule = await findSchedule(env.DB, run.schedule_id);
  if (schedule === null || schedule.status === 'deleted') {
    await skip(env, run, 'deleted', 'the schedule was deleted', {}, nowMs);
    return false;
  }
  try {
    return await start(env, prepare, schedule, run, nowMs);
  } catch (error) {
    // Another one of its schedule has begun meanwhile: its turn comes.
    if (isConflict(error)) return false;
    const passes = !(error instanceof ApiError) || error.status >= 500 || error.status === 429;
    const message = error instanceof Error ? error.message : String(error);
    if (passes && run.tries < S.maxStartTries) await postpone(env, run, message, nowMs);
    else await fail(env, run, error instanceof ApiError ? error.code : 'start_failed', message, nowMs);
    return false;
  }
}

async function start(
  env: Env,
  prepare: PrepareJob,
  schedule: ScheduleRow,
  run: RunRow,
  nowMs: number,
): Promise<boolean> {
  const job = JSON.parse(schedule.job) as CreateJobRequest;
  const condition = schedule.condition === null ? null : (JSON.parse(schedule.condition) as ScheduleCondition);
  const spec = await dataSpecOf(env, run.tenant, job.training_file, 'job.training_file');
  const examples = condition?.type === 'new_examples' ? await countExamples(env, run.tenant, spec) : null;
  const data = { digest: await dataDigest(spec), examples };
  const trained =
    schedule.trained_at === null ? null : { digest: schedule.trained_digest, examples: schedule.trained_examples };
  const verdict = meetsCondition(condition, data, trained);
  const known: RunChange = { data_digest: data.digest, examples, new_examples: verdict.newExamples };
  // Who asks for a run now wants it now.
  if (!verdict.isMet && run.cause === 'slot') {
    await skip(env, run, 'condition', verdict.note, known, nowMs);
    return false;
  }
  const request = await withModel(env, schedule, job);
  const begun: RunChange = {
    ...known,
    status: 'running',
    started_at: nowMs,
    note: verdict.note === '' ? null : verdict.note,
    error: null,
  };
  const { statement, guard } = changeRun(env.DB, run, begun);
  const gate = schedule.gate === null ? null : (JSON.parse(schedule.gate) as Gate);
  const prepared = await prepare(env, systemOf(run.tenant), request, {
    scheduleId: schedule.id,
    guard,
    ...(gate === null ? {} : { gate }),
  });
  const results = await env.DB.batch([
    statement,
    env.DB.prepare(`UPDATE schedule_runs SET job_id = ? WHERE id = ? AND ${guard}`).bind(prepared.id, run.id),
    ...prepared.statements,
    ...runEvent(env.DB, { ...run, job_id: prepared.id }, 'schedule.run.started', guard, nowMs),
  ]);
  return (results[0]?.meta.changes ?? 0) > 0;
}

/** `starts_from: alias`: what the alias stands for now, so that each run tunes the last promoted model further. */
async function withModel(env: Env, schedule: ScheduleRow, job: CreateJobRequest): Promise<CreateJobRequest> {
  if (schedule.starts_from === 'base' || schedule.alias === null) return job;
  const alias = await getAlias(env.DB, schedule.tenant, schedule.alias);
  return alias === null ? job : { ...job, model: alias.model };
}

async function skip(env: Env, run: RunRow, reason: SkipReason, note: string, known: RunChange, nowMs: number) {
  const { statement, guard } = changeRun(env.DB, run, {
    ...known,
    status: 'skipped',
    skip_reason: reason,
    note,
    finished_at: nowMs,
  });
  await env.DB.batch([statement, ...runEvent(env.DB, run, 'schedule.run.skipped', guard, nowMs)]);
}

async function postpone(env: Env, run: RunRow, message: string, nowMs: number) {
  const pauseMs = Math.min(S.maxRetryPauseMs, S.retryPauseMs * 2 ** Math.min(run.tries, 20));
  const change: RunChange = { tries: run.tries + 1, not_before: nowMs + pauseMs, note: `waits: ${message}` };
  await changeRun(env.DB, run, change).statement.run();
}

/** Ends a run as failed. */
export async function fail(
  env: Env,
  run: RunRow,
  code: string,
  message: string,
  nowMs: number,
  param: string | null = null,
): Promise<void> {
  const error = JSON.stringify({ code, message, param });
  const { statement, guard } = changeRun(env.DB, run, { status: 'failed', error, finished_at: nowMs });
  await env.DB.batch([
    statement,
    env.DB.prepare(`UPDATE schedules SET retention_due = 1 WHERE id = ? AND ${guard}`).bind(run.schedule_id),
    ...runEvent(env.DB, run, 'schedule.run.failed', guard, nowMs),
  ]);
}
