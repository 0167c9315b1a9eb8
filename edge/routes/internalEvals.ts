/** What a backend calls about runs of evaluations: their lines, and what came of each. */
import type { Context } from 'hono';
import type { TaskSpec } from '../../shared/contract/backend.ts';
import { ApiError, describe } from '../../shared/contract/errors.ts';
import { type EvalItemsPage, EvalItemsRequest, EvalReportRequest } from '../../shared/contract/evalTask.ts';
import { nowMs as clockMs } from '../clock.ts';
import type { AppEnv } from '../env.ts';
import { keepReports } from '../evals/end.ts';
import { objectBody } from '../files/read.ts';
import { metrics } from '../metrics/metrics.ts';
import { readSignedJson } from '../middleware/signed.ts';
import { addItems, doneLines, pageOfItems } from '../store/evalItems.ts';
import { findRun, type WholeRun } from '../store/evalRuns.ts';
import { findFile } from '../store/files.ts';
import { findTask } from '../store/tasks.ts';
import { insertUsage, type UsageRow } from '../store/usage.ts';
import { contentOf, fileNotFound } from './files.ts';

/** `GET /internal/tasks/{id}/lines`: an uploaded file, or what came with the run. */
export async function evalLines(c: Context<AppEnv>): Promise<Response> {
  const run = await runOf(c);
  if (run.content_key !== null) {
    const head = await c.env.BLOBS.head(run.content_key);
    const body =
      head === null ? null : await objectBody(c.env.BLOBS, run.content_key, { offset: 0, length: head.size });
    if (head === null || body === null) throw new Error(`run ${run.id}: its lines are gone`);
    return new Response(body, {
      headers: { 'content-type': 'application/jsonl', 'content-length': String(head.size) },
    });
  }
  const task = await findTask(c.env.DB, run.id);
  const spec = task === null ? null : (JSON.parse(task.spec) as TaskSpec);
  const id = spec?.kind === 'evaluate' && spec.source.type === 'lines' ? spec.source.lines.file.id : '';
  const file = await findFile(c.env.DB, id);
  if (file === null || file.tenant !== run.tenant) throw fileNotFound(id);
  return contentOf(c.env, file);
}

/** `GET /internal/tasks/{id}/items`: which lines are written; with `after`, what is written of the lines behind it. */
export async function evalItems(c: Context<AppEnv>): Promise<Response> {
  const run = await runOf(c);
  const after = c.req.query('after');
  if (after === undefined) return c.json({ done: await doneLines(c.env.DB, run.id) });
  const page: EvalItemsPage = { items: await pageOfItems(c.env.DB, run.id, Number(after)) };
  return c.json(page);
}

/** `POST /internal/tasks/{id}/items`. What was used is written under names that follow from the line, so that it counts once. */
export async function addEvalItems(c: Context<AppEnv>): Promise<Response> {
  const { token, total, items } = await readSignedJson(c, EvalItemsRequest);
  const { id } = await runOf(c);
  const nowMs = clockMs();
  const written = await addItems(c.env.DB, id, token, items, total, nowMs);
  if (written === null)
    throw new ApiError('stale_lease', `Task ${id}: the lease is not the newest one. Stop working on it.`);
  for (const { status } of written.added) metrics.evalQuestions.inc(1, status);
  const rows = items.flatMap(({ line, usage }) => usage.map((of, i) => usageRow(written.run, line, i, of, nowMs)));
  if (rows.length > 0) await insertUsage(c.env.DB, rows);
  return c.body(null, 204);
}

/** `POST /internal/tasks/{id}/report`: of a run that ended otherwise than by its last answer, under the newest lease, over what was judged until then. Once; repeats change nothing. */
export async function putEvalReport(c: Context<AppEnv>): Promise<Response> {
  const { token, result } = await readSignedJson(c, EvalReportRequest);
  const run = await runOf(c);
  const task = await findTask(c.env.DB, run.id);
  if (task === null || (task.status !== 'cancelled' && task.status !== 'failed') || task.lease_token !== token)
    throw new ApiError('stale_lease', `Task ${run.id}: the lease is not the newest one of a run that was cut short.`);
  const guard = `EXISTS (SELECT 1 FROM tasks JOIN eval_runs USING (id) WHERE id = '${task.id}' AND status = '${task.status}' AND lease_token = ${token})`;
  if (run.report_json_key === null) await c.env.DB.batch(keepReports(c.env, task, result, guard));
  return c.body(null, 204);
}

/** `GET /internal/tasks/{id}/report`: the page of a run that has ended, for the pictures on it; 204 where there is none. */
export async function evalReportPage(c: Context<AppEnv>): Promise<Response> {
  const { report_html_key: key } = await runOf(c);
  const page = key === null ? null : await c.env.BLOBS.get(key);
  if (page === null) return c.body(null, 204);
  return new Response(page.body, {
    headers: { 'content-type': 'text/html; charset=utf-8', 'content-length': String(page.size) },
  });
}

function usageRow(
  run: WholeRun,
  line: number,
  i: number,
  {
    model,
    promptTokens,
    completionTokens,
    cachedTokens,
    imageTokens,
    images = [],
    durationMs = 0,
  }: EvalItemsRequest['items'][number]['usage'][number],
  nowMs: number,
): UsageRow {
  return {
    id: `${run.id}:${line}:${i}`,
    request_id: run.id,
    at: nowMs,
    tenant: run.tenant,
    key_id: run.key_id,
    model,
    route: '/v1/evals',
    status: 200,
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    cached_tokens: cachedTokens,
    image_tokens: imageTokens,
    images: [...images],
    bytes_in: images.reduce((sum, { bytes }) => sum + bytes, 0),
    duration_ms: durationMs,
    batch: null,
  };
}

async function runOf(c: Context<AppEnv>): Promise<WholeRun> {
  const id = c.req.param('id') ?? '';
  const run = await findRun(c.env.DB, id);
  if (run === null) throw new ApiError('job_not_found', `No run of an evaluation ${describe(id)}.`);
  return run;
}
