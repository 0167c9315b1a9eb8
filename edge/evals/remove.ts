/** Runs that go, with all that came of them. */
import { LIMITS } from '../../shared/contract/limits.ts';
import { nowMs } from '../clock.ts';
import type { Env } from '../env.ts';
import type { Actor } from '../store/audit.ts';
import { deleteRun, endedRuns } from '../store/evalRuns.ts';
import { sweepLoose } from '../store/loose.ts';

/** A backend that works on one learns it from its next call, which is refused. */
export async function deleteRuns(env: Env, actor: Actor, ids: readonly string[]): Promise<void> {
  if (ids.length === 0) return;
  for (const id of ids) await env.DB.batch(deleteRun(env.DB, actor, { id }, nowMs()));
  // What is not deleted now is deleted by the sweeper.
  await sweepLoose({ db: env.DB, blobs: env.BLOBS }, nowMs()).catch(() => {});
}

const PAGE = 50;

/** Runs whose results have been kept for long enough. @returns whether there may be more */
export async function sweepRuns(env: Env, atMs: number): Promise<boolean> {
  const runs = await endedRuns(env.DB, atMs - LIMITS.evals.keepMs, PAGE);
  for (const run of runs) {
    const actor: Actor = { tenant: run.tenant, keyId: 'system', requestId: null };
    await env.DB.batch(deleteRun(env.DB, actor, run, atMs));
  }
  return runs.length === PAGE;
}
