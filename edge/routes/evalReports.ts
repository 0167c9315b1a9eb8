/** Reports of runs: for programs with a key, and for people by a link that needs none. */
import type { Context } from 'hono';
import { ApiError, describe, errorMessage } from '../../shared/contract/errors.ts';
import type { AppEnv } from '../env.ts';
import { compareRuns } from '../evals/compare.ts';
import { checkReportLink } from '../evals/reportLink.ts';
import { findRun, type WholeRun } from '../store/evalRuns.ts';
import { existingRun } from './evalRuns.ts';
import { oneOf } from './evals.ts';

/**
 * `GET /v1/evals/{id}/runs/{run}/report`: a page, or with `format=json` what is in it. Written when the run ends.
 * With `compare=…` what this run does otherwise than another one, on the questions that both were asked.
 */
export async function evalReport(c: Context<AppEnv>): Promise<Response> {
  const run = await existingRun(c);
  const compare = c.req.query('compare');
  const force = oneOf(c, 'force', ['true', 'false'] as const, 'false') === 'true';
  if (compare === undefined) return await reportOf(c, run);
  const other = await findRun(c.env.DB, compare);
  if (other === null || other.tenant !== run.tenant) throw unknownRun(compare);
  const format = oneOf(c, 'format', ['html', 'json'] as const, 'html');
  const text = await compareRuns(c.env, [other, run], { format, force }, withoutReport);
  return new Response(text, { headers: reportHeaders(format) });
}

function unknownRun(id: string): ApiError {
  return new ApiError(
    'eval_run_not_found',
    errorMessage('compare', { expected: 'the id of another run of yours', received: describe(id) }),
    { param: 'compare' },
  );
}

/** `GET /reports/{token}/{run}`: the same by the link that a run shows, in a browser. The link tells nothing but this report, and for a day. */
export async function linkedEvalReport(c: Context<AppEnv>): Promise<Response> {
  const id = c.req.param('run') ?? '';
  const link = await checkReportLink(c.env, c.req.param('token') ?? '', id);
  // Only who had a link learns that it is over.
  if (link === 'expired')
    throw new ApiError(
      'invalid_state',
      'The link has expired: the run, retrieved again, has a new one as report_url.',
      { param: 'token' },
    );
  const run = link === 'good' ? await findRun(c.env.DB, id) : null;
  if (run === null)
    throw new ApiError(
      'not_found',
      'No such report. A run shows the link to its own as report_url, which works for a day.',
    );
  const response = await reportOf(c, run);
  response.headers.set('cache-control', 'private, no-store');
  response.headers.set('referrer-policy', 'no-referrer');
  response.headers.set('x-robots-tag', 'noindex');
  return response;
}

async function reportOf(c: Context<AppEnv>, run: WholeRun): Promise<Response> {
  const format = oneOf(c, 'format', ['html', 'json'] as const, 'html');
  const key = format === 'html' ? run.report_html_key : run.report_json_key;
  const object = key === null ? null : await c.env.BLOBS.get(key);
  if (object === null) throw withoutReport(run);
  return new Response(object.body, {
    headers: { ...reportHeaders(format), 'content-length': String(object.size) },
  });
}

export function withoutReport({ id, status, report_json_key: key }: WholeRun): ApiError {
  const why =
    status === 'queued' || status === 'running' ? 'it has not ended' : key === null ? 'none was written' : 'it is gone';
  return new ApiError('invalid_state', `Run ${id} has no report: ${why}.`, { param: 'run_id' });
}

export function reportHeaders(format: 'html' | 'json'): Record<string, string> {
  return {
    'content-type': format === 'html' ? 'text/html; charset=utf-8' : 'application/json',
    // Answers of models and words of items stand in it, escaped: besides, nothing in it may load or call, and its filters belong to no origin.
    'content-security-policy':
      "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; sandbox allow-scripts",
    'x-content-type-options': 'nosniff',
  };
}
