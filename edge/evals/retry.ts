/** Asking again what an ended run has no answer for: a new run that begins with the answers of the earlier one. */
import { ApiError, describe, errorMessage } from '../../shared/contract/errors.ts';
import type { EvalDataSource, EvalLine } from '../../shared/contract/evals.ts';
import type { EvaluateTask } from '../../shared/contract/evalTask.ts';
import type { Env } from '../env.ts';
import { errorSums } from '../store/evalItems.ts';
import { type EvalSums, getRun, type WholeRun } from '../store/evalRuns.ts';
import type { EvalRow } from '../store/evals.ts';
import { findTask, TASK_ENDED } from '../store/tasks.ts';

/** `sums` of the answers that are taken over; what they cost was paid by the earlier run. */
export type Retried = { run: WholeRun; data: EvalDataSource; sums: EvalSums };

/** @throws ApiError where there is no such run of the evaluation, it goes on, or it has nothing to ask again */
export async function retriedRun(env: Env, row: EvalRow, runId: string): Promise<Retried> {
  const run = await getRun(env.DB, row.tenant, row.id, runId);
  const param = 'data_source.run_id';
  if (run === null)
    throw new ApiError(
      'eval_run_not_found',
      errorMessage(param, {
        expected: 'the id of a run of this evaluation',
        received: describe(runId),
        remedy: `GET /v1/evals/${row.id}/runs lists them.`,
      }),
      { param },
    );
  if (!TASK_ENDED.has(run.status))
    throw new ApiError('invalid_state', `Run ${run.id} cannot be retried: it has not ended.`, { param });
  const errors = await errorSums(env.DB, run.id);
  if (run.status === 'succeeded' && errors.items === 0)
    throw new ApiError('invalid_state', `Run ${run.id} cannot be retried: none of its items has an error.`, { param });
  const sums = JSON.parse(run.sums) as EvalSums;
  const criteria = sums.criteria.map(({ name, passed, failed }) => {
    const of = errors.criteria.get(name);
    return { name, passed: passed - (of?.passed ?? 0), failed: failed - (of?.failed ?? 0) };
  });
  return { run, data: await wholeSource(env, run), sums: { ...sums, errored: 0, criteria, models: {} } };
}

/** Answers of two models under one alias are no run. @throws ApiError */
export async function mustBeSameModels(env: Env, { run }: Retried, models: EvaluateTask['models']): Promise<void> {
  const task = await findTask(env.DB, run.id);
  const earlier = task === null ? {} : (JSON.parse(task.spec) as EvaluateTask).models;
  const moved = Object.entries(models).find(([name, id]) => earlier[name] !== id);
  if (moved === undefined) return;
  throw new ApiError(
    'invalid_state',
    `Run ${run.id} cannot be retried: ${moved[0]} stood for ${earlier[moved[0]] ?? 'nothing'} then, and stands for ${moved[1]} now. Make a new run.`,
    { param: 'data_source.run_id' },
  );
}

/** With the lines that came with it. */
async function wholeSource(env: Env, run: WholeRun): Promise<EvalDataSource> {
  const data = JSON.parse(run.data_source) as EvalDataSource;
  if (data.type === 'mantis.benchmark' || run.content_key === null) return data;
  const object = await env.BLOBS.get(run.content_key);
  if (object === null) throw new Error(`run ${run.id}: its lines are gone`);
  const lines = (await object.text()).split('\n').filter((line) => line !== '');
  return { ...data, source: { type: 'file_content', content: lines.map((line) => JSON.parse(line) as EvalLine) } };
}
