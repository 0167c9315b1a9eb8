import type { Context } from 'hono';
import type { AppEnv } from '../env.ts';
import type { RequestFacts } from '../metrics/facts.ts';
import { recordUsage, usageRow } from './record.ts';

/** The end of an HTTP request: what it used of a model, if it reached one. @param status of its headers */
export function recordRequest(c: Context<AppEnv>, facts: RequestFacts, route: string, status: number): void {
  const metered = c.get('metered');
  if (metered === undefined) return;
  // An answer may still go wrong when its status is out.
  const ended = facts.aborted ? 499 : facts.code !== null && status < 400 ? 502 : status;
  const context = {
    requestId: c.get('requestId'),
    tenant: c.get('tenant'),
    keyId: c.get('keyId'),
    route,
    status: ended,
  };
  recordUsage(c.env, c.executionCtx, usageRow(metered, facts, context, Date.now()));
}
