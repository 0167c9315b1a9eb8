/** Runs of evaluations, what came of each item, and the report. */
import type { Context } from 'hono';
import { ApiError, describe, errorMessage } from '../../shared/contract/errors.ts';
import {
  CreateEvalRunRequest,
  type DeletedEvalRun,
  type EvalDataSource,
  EvalItemStatus,
  type EvalRun,
  EvalRunStatus,
  type Grader,
} from '../../shared/contract/evals.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { nowMs as clockMs } from '../clock.ts';
import { type AppEnv, actorOf, scheduler } from '../env.ts';
import { streamRun } from '../evals/follow.ts';
import { deleteRuns } from '../evals/remove.ts';
import { reportUrl } from '../evals/reportLink.ts';
import { mustBeSameModels, retriedRun } from '../evals/retry.ts';
import { prepareRun } from '../evals/task.ts';
import { wakeBackends } from '../jobs/sweep.ts';
import { readJson } from '../middleware/body.ts';
import { auditEntry } from '../store/audit.ts';
import { getItem, listItems, showItem, takeOver } from '../store/evalItems.ts';
import { type EvalSums, findRun, getRun, insertRun, listRuns, showRun, type WholeRun } from '../store/evalRuns.ts';
import { keyed } from '../store/keyed.ts';
import { deleteLoose } from '../store/loose.ts';
import { applyToTask, hasRoomFor, insertTask } from '../store/tasks.ts';
import { existingEval, oneOf, orderQuery } from './evals.ts';
import { listQuery } from './query.ts';

const E = LIMITS.evals;

/** `POST /v1/evals/{id}/runs`. Lines that come with it are checked at once, those of a file by the backend that reads it. */
export async function createEvalRun(c: Context<AppEnv>): Promise<Response> {
  const asked = await readJson(c, CreateEvalRunRequest);
  const row = await existingEval(c);
  const tenant = c.get('tenant');
  const nowMs = clockMs();
  const find = async (id: string) => {
    const run = await findRun(c.env.DB, id);
    return run?.tenant === tenant ? run : null;
  };
  const { id, made: earlier } = await keyed('evalrun_', tenant, c.req.header('idempotency-key'), nowMs, find);
  if (earlier !== null) return c.json(await shown(c, earlier));
  const retried =
    asked.data_source.type === 'mantis.retry' ? await retriedRun(c.env, row, asked.data_source.run_id) : null;
  const data = retried?.data ?? (asked.data_source as EvalDataSource);
  const name = asked.name ?? retried?.run.name ?? '';
  const { spec, fileIds, content, total } = await prepareRun(c.env, tenant, row, id, {
    ...asked,
    name,
    data_source: data,
  });
  if (retried !== null) await mustBeSameModels(c.env, retried, spec.models);
  const criteria = (JSON.parse(row.criteria) as Grader[]).map((grader) => grader.name);
  const names = spec.source.type === 'benchmark' ? [spec.source.benchmark] : criteria;
  const sums: EvalSums = retried?.sums ?? {
    passed: 0,
    failed: 0,
    errored: 0,
    criteria: names.map((one) => ({ name: one, passed: 0, failed: 0 })),
    models: {},
  };
  // The lines lie in an object of their own.
  const kept =
    data.type !== 'mantis.benchmark' && data.source.type === 'file_content'
      ? { ...data, source: { type: 'file_content', content: [] } }
      : data;
  const request = { eval_id: row.id, name };
  const isMade = `EXISTS (SELECT 1 FROM tasks WHERE id = '${id}')`;
  const [task] = insertTask(
    c.env.DB,
    { id, tenant, subject: null, spec, fileIds, request },
    `${hasRoomFor(tenant, 'evaluate', E.maxPendingRuns)} AND EXISTS (SELECT 1 FROM evals WHERE id = '${row.id}')`,
  );
  if (task === undefined) throw new Error('insertTask: expected a row first');
  const run = {
    id,
    eval_id: row.id,
    name,
    metadata: asked.metadata == null ? null : JSON.stringify(asked.metadata),
    model: spec.model ?? '',
    data_source: JSON.stringify(kept),
    content_key: content?.key ?? null,
    created_at: nowMs,
    total: Math.max(total, retried?.run.total ?? 0),
    sums: JSON.stringify(sums),
  };
  const [made] = await c.env.DB.batch([
    task,
    ...insertRun(c.env.DB, actorOf(c), run, isMade),
    ...(retried === null
      ? []
      : [takeOver(c.env.DB, id, retried.run.id, `EXISTS (SELECT 1 FROM eval_runs WHERE id = '${id}')`)]),
    holdIf(c, id, fileIds),
  ]);
  if ((made?.meta.changes ?? 0) === 0) {
    if (content !== null) await deleteLoose({ db: c.env.DB, blobs: c.env.BLOBS }, [content.key]).catch(() => {});
    await existingEval(c);
    throw new ApiError(
      'rate_limit_exceeded',
      `Evaluation runs: ${E.maxPendingRuns} of yours have not ended, which is the most there may be. Wait for one, or cancel one.`,
      { retryAfterMs: 60_000, shouldRetry: false },
    );
  }
  c.executionCtx.waitUntil(wakeBackends(c.env));
  c.executionCtx.waitUntil(scheduler(c.env).wake());
  return c.json(await shown(c, await existingRun(c, id)));
}

/** Files of a run that was made; its bound on unfinished runs no longer holds once it has itself been counted. */
function holdIf(c: Context<AppEnv>, id: string, fileIds: readonly string[]): D1PreparedStatement {
  return c.env.DB.prepare(
    `INSERT OR IGNORE INTO work_files (work_id, file_id) SELECT ?1, value FROM json_each(?2) WHERE EXISTS (SELECT 1 FROM tasks WHERE id = ?1)`,
  ).bind(id, JSON.stringify(fileIds));
}

export async function listEvalRuns(c: Context<AppEnv>): Promise<Response> {
  const row = await existingEval(c);
  const status = oneOf(c, 'status', EvalRunStatus.options, null);
  const query = { ...listQuery(c), order: orderQuery(c, 'asc'), status };
  const found = await listRuns(c.env.DB, row.tenant, row.id, query, (run) => run);
  const data = await Promise.all(found.data.map(async (run) => showRun(run, await reportUrl(c, run), null)));
  return c.json({ ...found, data });
}

/** `GET /v1/evals/{id}/runs/{run}`; with `Accept: text/event-stream` as it goes on. */
export async function retrieveEvalRun(c: Context<AppEnv>): Promise<Response> {
  const run = await existingRun(c);
  if ((c.req.header('accept') ?? '').includes('text/event-stream')) {
    const url = await reportUrl(c, run);
    return streamRun(c.env.DB, run, (row) => showRun(row, url, null));
  }
  return c.json(await shown(c, run));
}

/** `POST /v1/evals/{id}/runs/{run}`: cancels it, at once and for good. What was judged until then stays. */
export async function cancelEvalRun(c: Context<AppEnv>): Promise<Response> {
  const { id } = await existingRun(c);
  const applied = await applyToTask(c.env.DB, id, { type: 'cancel' }, clockMs(), {
    along: (_, guard) => [auditEntry(c.env.DB, actorOf(c), { action: 'eval_run.canceled', object: id }, guard)],
  });
  if (applied?.outcome.kind === 'refused')
    throw new ApiError(
      'invalid_state',
      `Run ${id} cannot be canceled: it has already ${applied.row.status === 'failed' ? 'failed' : 'completed'}.`,
      { param: 'run_id' },
    );
  c.executionCtx.waitUntil(scheduler(c.env).wake());
  return c.json(await shown(c, await existingRun(c)));
}

export async function removeEvalRun(c: Context<AppEnv>): Promise<Response> {
  const { id } = await existingRun(c);
  await deleteRuns(c.env, actorOf(c), [id]);
  const answer: DeletedEvalRun = { object: 'eval.run.deleted', deleted: true, run_id: id };
  return c.json(answer);
}

/** In the order of the data. */
export async function listEvalItems(c: Context<AppEnv>): Promise<Response> {
  const run = await existingRun(c);
  const status = oneOf(c, 'status', EvalItemStatus.options, null);
  return c.json(await listItems(c.env.DB, run, { ...listQuery(c), order: orderQuery(c, 'asc'), status }));
}

export async function retrieveEvalItem(c: Context<AppEnv>): Promise<Response> {
  const run = await existingRun(c);
  const id = c.req.param('item') ?? '';
  const item = await getItem(c.env.DB, run.id, id);
  if (item === null)
    throw new ApiError(
      'eval_item_not_found',
      errorMessage('output_item_id', {
        expected: 'the id of an output item of this run',
        received: describe(id),
        remedy: `GET /v1/evals/${run.eval_id}/runs/${run.id}/output_items lists them.`,
      }),
      { param: 'output_item_id' },
    );
  return c.json(showItem(item, run.eval_id));
}

/** With the lines that came with its creation. */
async function shown(c: Context<AppEnv>, run: WholeRun): Promise<EvalRun> {
  const object = run.content_key === null ? null : await c.env.BLOBS.get(run.content_key);
  const lines = object === null ? null : (await object.text()).split('\n').filter((line) => line !== '');
  return showRun(run, await reportUrl(c, run), lines?.map((line): unknown => JSON.parse(line)) ?? null);
}

/** @throws ApiError `eval_run_not_found`, `eval_not_found` */
export async function existingRun(c: Context<AppEnv>, id: string = c.req.param('run') ?? ''): Promise<WholeRun> {
  const evalId = c.req.param('id') ?? '';
  const run = await getRun(c.env.DB, c.get('tenant'), evalId, id);
  if (run !== null) return run;
  await existingEval(c);
  throw new ApiError(
    'eval_run_not_found',
    errorMessage('run_id', {
      expected: 'the id of a run of this evaluation',
      received: describe(id),
      remedy: `GET /v1/evals/${evalId}/runs lists them.`,
    }),
    { param: 'run_id' },
  );
}
