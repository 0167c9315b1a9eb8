/** Comparing two runs: their reports say what was run, a backend pairs their answers. */
import { ApiError } from '../../shared/contract/errors.ts';
import type { EvalCompareRequest } from '../../shared/contract/evalCompare.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { Env } from '../env.ts';
import { callBackend } from '../fleet/call.ts';
import { liveBackends } from '../fleet/registry.ts';
import type { WholeRun } from '../store/evalRuns.ts';

/** What is read of a report. */
type Report = {
  title: string;
  model: { name: string; identity: string };
  spec: { task: string; [more: string]: unknown };
  run?: { name: string } | null;
  criteria?: unknown[];
  counts: { items: number };
};

/**
 * @param runs the other one first; both must have reports
 * @throws ApiError where a report is missing, the runs cannot be compared, or no backend can do it now
 */
export async function compareRuns(
  env: Env,
  runs: readonly [WholeRun, WholeRun],
  how: { format: 'html' | 'json'; force: boolean },
  missing: (run: WholeRun) => ApiError,
): Promise<string> {
  const [first, second] = await Promise.all(runs.map((run) => reportOf(env, run, missing)));
  if (first === undefined || second === undefined) throw new Error('compareRuns: expected two runs');
  for (const [i, { counts }] of [first, second].entries())
    if (counts.items > LIMITS.evals.maxComparedAnswers)
      throw new ApiError(
        'invalid_value',
        `compare: expected runs of at most ${LIMITS.evals.maxComparedAnswers} answers, received one of ${counts.items}. \`mantis eval … --compare\` compares larger ones.`,
        { param: i === 0 ? 'compare' : 'run_id' },
      );
  const asked: EvalCompareRequest = {
    first: sideOf(runs[0], first),
    second: sideOf(runs[1], second),
    title: second.title,
    ...how,
  };
  return await askBackend(env, asked);
}

async function reportOf(env: Env, run: WholeRun, missing: (run: WholeRun) => ApiError): Promise<Report> {
  const object = run.report_json_key === null ? null : await env.BLOBS.get(run.report_json_key);
  if (object === null) throw missing(run);
  return await object.json<Report>();
}

function sideOf({ id, name }: WholeRun, { model, spec, criteria = [] }: Report): EvalCompareRequest['first'] {
  return { run: id, name: name === '' ? null : name, model, spec, isOwn: criteria.length > 0 };
}

async function askBackend(env: Env, asked: EvalCompareRequest): Promise<string> {
  const body = JSON.stringify(asked);
  for (const { report } of (await liveBackends(env)).slice(0, 3)) {
    const response = await callBackend(env, report, {
      method: 'POST',
      path: '/v1/compare-runs',
      type: 'application/json',
      body,
      signal: AbortSignal.timeout(LIMITS.evals.compareMs),
    }).catch(() => null);
    if (response === null) continue; // gone: another one, or none
    if (response.ok) return await response.text();
    const refusal = (await response.json().catch(() => null)) as { error?: { code?: string; message?: string } } | null;
    if (response.status < 500 && refusal?.error?.code === 'invalid_value')
      throw new ApiError('invalid_value', refusal.error.message ?? 'compare: the runs cannot be compared.', {
        param: 'compare',
      });
  }
  throw new ApiError('no_backend', 'No backend can compare the runs now. Try again in a moment.', {
    retryAfterMs: 2_000,
  });
}
