import type { EvalRun } from '../../shared/contract/evals.ts';
import { objectStream } from '../eventStream.ts';
import { findRun, type WholeRun } from '../store/evalRuns.ts';

const ENDED: ReadonlySet<WholeRun['status']> = new Set(['succeeded', 'failed', 'cancelled']);

/** A run as server-sent events (`event: eval.run`). */
export function streamRun(db: D1Database, run: WholeRun, show: (row: WholeRun) => EvalRun): Response {
  return objectStream('eval.run', run, {
    show,
    hasEnded: ({ status }) => ENDED.has(status),
    again: () => findRun(db, run.id),
  });
}
