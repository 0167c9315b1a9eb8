/** A run's end: what follows when its job, and then its comparison, has ended. */
import type { CompareTask, DataSpec } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import type { JobError } from '../../shared/contract/jobs.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { Gate, GateDecision } from '../../shared/contract/schedules.ts';
import { CompareResult } from '../../shared/contract/taskResults.ts';
import { newId } from '../../shared/wire/ids.ts';
import { forgetAlias } from '../aliases/target.ts';
import { dataSpecOf } from '../datasets/spec.ts';
import type { Env } from '../env.ts';
import { type AliasRow, getAlias, isConflict, moveAlias } from '../store/aliases.ts';
import { findJob, type HeldOutData, type JobRow, type StoredMantisOptions } from '../store/jobs.ts';
import {
  type ComparedRun,
  changeRun,
  type RunChange,
  type RunRow,
  runEvent,
  type TrainedRun,
} from '../store/scheduleRuns.ts';
import { findSchedule, type ScheduleRow } from '../store/schedules.ts';
import { insertTask } from '../store/tasks.ts';
import { comparisonOf, decideGate } from './gate.ts';
import { fail, systemOf } from './start.ts';

/** The job of a run has ended. */
export async function endTraining(env: Env, run: TrainedRun, nowMs: number): Promise<void> {
  if (run.job_status !== 'succeeded' || run.job_model === null) {
    const error = run.job_error === null ? null : (JSON.parse(run.job_error) as JobError);
    const cause = run.job_status ?? 'gone';
    return await fail(
      env,
      run,
      error?.code ?? `job_${cause}`,
      error?.message ?? `Job ${run.job_id} is ${cause}.`,
      nowMs,
      error?.param,
    );
  }
  const schedule = await findSchedule(env.DB, run.schedule_id);
  const trained: RunRow = { ...run, model: run.job_model };
  const isWanted = schedule !== null && schedule.status !== 'deleted';
  if (!isWanted || schedule.alias === null) return await end(env, schedule, trained, { status: 'succeeded' }, nowMs);
  const alias = await getAlias(env.DB, run.tenant, schedule.alias);
  if (schedule.gate === null) return await promote(env, schedule, trained, alias, null, nowMs);
  await beginGate(env, schedule, trained, alias, JSON.parse(schedule.gate) as Gate, nowMs);
}

/** The new model against the alias's current one; where there is none yet, against the base. */
async function beginGate(
  env: Env,
  schedule: ScheduleRow,
  run: RunRow,
  alias: AliasRow | null,
  gate: Gate,
  nowMs: number,
): Promise<void> {
  const job = await findJob(env.DB, run.job_id ?? '');
  if (job === null || run.model === null) return await fail(env, run, 'job_gone', `Job ${run.job_id} is gone.`, nowMs);
  let heldOut: CompareTask['heldOut'];
  try {
    // What was validated with the job's data, unless the schedule has been given another file since.
    const known = job.held_out === null ? null : (JSON.parse(job.held_out) as HeldOutData).gate;
    heldOut =
      known?.file === gate.held_out_file
        ? known.data
        : await dataSpecOf(env, run.tenant, gate.held_out_file, 'gate.held_out_file');
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return await fail(env, run, error.code, error.message, nowMs, error.options.param);
  }
  const spec: CompareTask = {
    kind: 'compare',
    baseModel: job.base_model,
    current: alias?.model ?? job.base_model,
    candidate: run.model,
    heldOut,
    maxExamples: gate.max_examples ?? LIMITS.schedules.maxGateExamples,
    confidence: gate.confidence ?? LIMITS.schedules.defaultGateConfidence,
    options: gate.options ?? null,
    imageOrders: gate.image_orders ?? 1,
  };
  const taskId = newId('cmp_');
  const { statement, guard } = changeRun(env.DB, run, {
    status: 'gating',
    model: run.model,
    compared_with: alias?.model ?? null,
    alias_version: alias?.version ?? null,
    task_id: taskId,
  });
  const task = {
    id: taskId,
    tenant: run.tenant,
    subject: run.id,
    spec,
    request: { current: spec.current, candidate: spec.candidate, held_out_file: gate.held_out_file },
    fileIds: heldOut.files.map(({ file }) => file.id),
  };
  await env.DB.batch([
    statement,
    ...(run.status === 'running' ? [markTrained(env.DB, schedule, run, guard, nowMs)] : []),
    ...insertTask(env.DB, task, guard),
  ]);
}

/** The comparison of a run has ended. */
export async function endGate(env: Env, run: ComparedRun, nowMs: number): Promise<void> {
  if (run.task_status !== 'succeeded' || run.result_key === null) {
    const error = run.task_error === null ? null : (JSON.parse(run.task_error) as JobError);
    const message = error?.message ?? `Comparison ${run.task_id} is ${run.task_status ?? 'gone'}.`;
    return await fail(env, run, error?.code ?? 'comparison_failed', message, nowMs, error?.param);
  }
  const schedule = await findSchedule(env.DB, run.schedule_id);
  if (schedule === null || schedule.status === 'deleted' || schedule.alias === null || schedule.gate === null)
    return await end(
      env,
      schedule,
      run,
      { status: 'succeeded', note: 'the schedule no longer asks for a gate' },
      nowMs,
    );
  const alias = await getAlias(env.DB, run.tenant, schedule.alias);
  const gate = JSON.parse(schedule.gate) as Gate;
  // Somebody has changed the alias meanwhile: the new model must stand against what is there now.
  if ((alias?.version ?? null) !== run.alias_version) return await beginGate(env, schedule, run, alias, gate, nowMs);
  const object = await env.BLOBS.get(run.result_key);
  if (object === null) return await fail(env, run, 'comparison_failed', `The result of ${run.task_id} is gone.`, nowMs);
  const result = CompareResult.safeParse(await object.json().catch(() => null));
  if (!result.success)
    return await fail(
      env,
      run,
      'comparison_failed',
      `The result of ${run.task_id} is not that of a comparison.`,
      nowMs,
    );
  const job = await findJob(env.DB, run.job_id ?? '');
  const comparison = comparisonOf(run.compared_with ?? job?.base_model ?? '', run.model ?? '', result.data);
  const decision = decideGate(gate, comparison, job !== null && wasChosenByGate(job));
  if (decision.promote) return await promote(env, schedule, run, alias, decision, nowMs);
  await end(
    env,
    schedule,
    run,
    { status: 'kept', decision: JSON.stringify(decision), note: decision.explanation },
    nowMs,
  );
}

/** Whether the candidate is the best of several checkpoints by the very examples that the gate asks. */
function wasChosenByGate(job: Pick<JobRow, 'mantis' | 'held_out'>): boolean {
  const { evaluation } = JSON.parse(job.mantis) as StoredMantisOptions;
  if (evaluation?.keep_best !== true || job.held_out === null) return false;
  const { evaluation: asked, gate } = JSON.parse(job.held_out) as HeldOutData;
  const bytesOf = (data: DataSpec | undefined) => new Set(data?.files.map(({ file }) => file.sha256));
  const chosenBy = bytesOf(asked ?? undefined);
  return [...bytesOf(gate?.data)].some((sha256) => chosenBy.has(sha256));
}

/** The alias gets the run's model, with the run's end, in one transaction; a change of the alias in between leaves the run for the next look. */
async function promote(
  env: Env,
  schedule: ScheduleRow,
  run: RunRow,
  alias: AliasRow | null,
  decision: GateDecision | null,
  nowMs: number,
): Promise<void> {
  const name = schedule.alias as string;
  const change: RunChange = {
    status: 'promoted',
    model: run.model,
    finished_at: nowMs,
    decision: decision === null ? null : JSON.stringify(decision),
    note: decision?.explanation ?? null,
  };
  const isModelThere = `EXISTS (SELECT 1 FROM models WHERE id = '${(run.model as string).replaceAll("'", "''")}' AND tenant = '${run.tenant}')`;
  const version = alias === null ? 'NULL' : String(alias.version);
  const isSame = `(SELECT version FROM aliases WHERE tenant = '${run.tenant}' AND name = '${name.replaceAll("'", "''")}') IS ${version}`;
  const { statement, guard } = changeRun(env.DB, run, change, `${isModelThere} AND ${isSame}`);
  const move = {
    name,
    kind: alias === null ? ('created' as const) : ('promoted' as const),
    model: run.model as string,
    was: alias,
    back: alias?.version ?? null,
    reason: decision?.explanation ?? 'trained by its schedule, which has no gate',
    runId: run.id,
    ...(decision === null ? {} : { comparison: decision.comparison }),
  };
  try {
    const [written] = await env.DB.batch([
      statement,
      ...(run.status === 'running' ? [markTrained(env.DB, schedule, run, guard, nowMs)] : []),
      ...moveAlias(env.DB, systemOf(run.tenant), move, nowMs, guard).statements,
      askRetention(env.DB, schedule, guard),
      ...runEvent(env.DB, run, 'schedule.run.succeeded', guard, nowMs),
    ]);
    if ((written?.meta.changes ?? 0) === 0) await failWhereGone(env, run, nowMs);
  } catch (error) {
    if (!isConflict(error)) throw error;
  }
  forgetAlias(run.tenant, name);
}

async function failWhereGone(env: Env, run: RunRow, nowMs: number): Promise<void> {
  const model = await env.DB.prepare('SELECT 1 FROM models WHERE id = ? AND tenant = ?')
    .bind(run.model, run.tenant)
    .first();
  if (model === null)
    await fail(env, run, 'model_not_found', `Model ${run.model} was deleted before it was promoted.`, nowMs);
}

async function end(
  env: Env,
  schedule: ScheduleRow | null,
  run: RunRow,
  change: RunChange & { status: 'succeeded' | 'kept' },
  nowMs: number,
): Promise<void> {
  const { statement, guard } = changeRun(env.DB, run, { model: run.model, finished_at: nowMs, ...change });
  await env.DB.batch([
    statement,
    ...(schedule === null ? [] : [askRetention(env.DB, schedule, guard)]),
    ...(schedule === null || run.status !== 'running' ? [] : [markTrained(env.DB, schedule, run, guard, nowMs)]),
    ...runEvent(env.DB, run, 'schedule.run.succeeded', guard, nowMs),
  ]);
}

/** What later conditions compare with. */
function markTrained(db: D1Database, schedule: ScheduleRow, run: RunRow, guard: string, nowMs: number) {
  return db
    .prepare(
      `UPDATE schedules SET trained_digest = ?, trained_examples = COALESCE(?, trained_examples), trained_at = ? WHERE id = ? AND ${guard}`,
    )
    .bind(run.data_digest, run.examples, nowMs, schedule.id);
}

function askRetention(db: D1Database, schedule: ScheduleRow, guard: string) {
  return db.prepare(`UPDATE schedules SET retention_due = 1 WHERE id = ? AND ${guard}`).bind(schedule.id);
}
