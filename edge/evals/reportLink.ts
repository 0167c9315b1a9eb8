/** Links to reports that open in a browser: a code in the path in place of a key. */
import type { Context } from 'hono';
import { LIMITS } from '../../shared/contract/limits.ts';
import { linkCode, linkMatches } from '../../shared/wire/signature.ts';
import { nowMs } from '../clock.ts';
import type { AppEnv, Env } from '../env.ts';
import type { WholeRun } from '../store/evalRuns.ts';

const HOUR_S = 3_600;

/** The same within an hour, so that a run that is looked at twice looks the same. */
export async function reportUrl(c: Context<AppEnv>, { id }: Pick<WholeRun, 'id'>): Promise<string> {
  const expires = String(HOUR_S * Math.ceil((nowMs() + LIMITS.evals.reportLinkMs) / 1000 / HOUR_S));
  const code = await linkCode(c.env.BACKEND_SECRET, partsOf(id, expires));
  return `${new URL(c.req.url).origin}/reports/${expires}.${code}/${id}`;
}

/** Whether a link's token is ours for this run, and whether its time is over. */
export async function checkReportLink(
  env: Pick<Env, 'BACKEND_SECRET'>,
  token: string,
  runId: string,
): Promise<'good' | 'expired' | 'false'> {
  const [expires = '', code = ''] = token.split('.');
  if (!/^\d{1,11}$/.test(expires) || !/^[\w-]{1,80}$/.test(runId)) return 'false';
  if (!(await linkMatches(env.BACKEND_SECRET, partsOf(runId, expires), code))) return 'false';
  return Number(expires) * 1000 <= nowMs() ? 'expired' : 'good';
}

function partsOf(id: string, expires: string): string[] {
  return ['eval report', id, expires];
}
