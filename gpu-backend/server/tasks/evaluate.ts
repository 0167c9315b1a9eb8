import type { EvaluateTask } from '../../../shared/contract/evalTask.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import type { ModelService } from '../../engine/service.ts';
import { Turnstile } from '../../eval/run/turnstile.ts';
import { EdgeError } from '../edge-client.ts';
import { TaskFailure, type TaskHandler, TurnOver } from '../task-runner.ts';
import { Asker } from './evaluate-ask.ts';
import { stageReports } from './evaluate-report.ts';
import { Results } from './evaluate-results.ts';
import { openRun, type Run } from './evaluate-run.ts';

/** For metrics: each question that was asked, its outcome and how long it took, seconds. */
export type ObserveQuestion = (outcome: 'pass' | 'fail' | 'error', seconds: number) => void;

/**
 * Answers and judges the items of a run, many at once, behind everything that somebody waits for. What was judged is brought to the edge as it comes: another
 * process goes on behind it. Runs side by side share what may be under way at once.
 */
export function evaluateHandler(service: ModelService, observe: ObserveQuestion = () => {}): TaskHandler<EvaluateTask> {
  const gate = new Turnstile(LIMITS.evals.itemsInFlight);
  return async ({ id, tenant, spec, leaseToken, reportOnly }, context) => {
    const { edge, signal, turn, log } = context;
    const asker = new Asker({ service, edge, taskId: id, tenant, models: spec.models, signal });
    const results = new Results({ edge, taskId: id, leaseToken, signal });
    let run: Run | null = null;
    try {
      run = await openRun(id, spec, asker, context);
      if (reportOnly !== undefined) {
        await lastReport(run, { id, leaseToken, status: reportOnly }, context);
        return null;
      }
      results.count(run.counted);
      log.info({ questions: run.questions, model: spec.model }, 'evaluation begins');
      const isWhole = await answerAll(run, results, gate, observe, { signal, turn });
      if (!isWhole) throw new TurnOver();
      const written = await run.report(results, '');
      signal.throwIfAborted();
      const staged = await stageReports(id, context, written);
      const { items } = written;
      if (items.length > 0 && items.every(({ error }) => error !== undefined))
        throw new TaskFailure(
          'eval_no_answers',
          `None of the ${items.length} questions has a verdict. The first: ${items[0]?.error}`,
          null,
          staged,
        );
      return staged;
    } catch (error) {
      const isStopped = signal.aborted || (error instanceof EdgeError && error.code === 'stale_lease');
      if (run !== null && isStopped && (await context.wasCancelled()))
        await lastReport(run, { id, leaseToken, status: 'cancelled' }, context);
      throw error;
    } finally {
      await results.close();
      await run?.close();
    }
  };
}

/**
 * So many at once; those that are written already are passed over. The first failure ends it.
 * @returns false where the turn was over before all had been asked
 */
async function answerAll(
  run: Run,
  results: Results,
  gate: Turnstile,
  observe: ObserveQuestion,
  { signal, turn }: { readonly signal: AbortSignal; readonly turn: AbortSignal },
): Promise<boolean> {
  const isDone = await results.done();
  const questions = run.work();
  let failure: { readonly error: unknown } | null = null;
  let isWhole = true;
  const lane = async (): Promise<void> => {
    while (failure === null) {
      const { done, value } = await questions.next();
      if (done === true) return;
      if (isDone(value.index)) continue;
      if (turn.aborted) {
        isWhole = false;
        return;
      }
      await gate.enter();
      try {
        signal.throwIfAborted();
        const startedAt = performance.now();
        const report = await value.work();
        observe(report.status, (performance.now() - startedAt) / 1000);
        results.add(report);
      } finally {
        gate.leave();
      }
    }
  };
  const lanes = Array.from({ length: LIMITS.evals.itemsInFlight }, () =>
    lane().catch((error: unknown) => {
      failure ??= { error };
    }),
  );
  await Promise.all(lanes);
  await questions.return(undefined);
  if (failure !== null) throw (failure as { readonly error: unknown }).error;
  await results.flush();
  return isWhole;
}

/** Of a run that was cut short: what was judged until then is kept, and has a report. Where that fails there is none, and the edge asks again later. */
async function lastReport(
  run: Run,
  { id, leaseToken: token, status }: { id: string; leaseToken: number; status: 'cancelled' | 'failed' },
  context: Parameters<TaskHandler<EvaluateTask>>[1],
): Promise<void> {
  const { edge, log } = context;
  const results = new Results({ edge, taskId: id, leaseToken: token, signal: new AbortController().signal });
  try {
    const written = await run.report(results, status === 'cancelled' ? ' (canceled)' : ' (failed)');
    if (written.items.length === 0) return;
    const result = await stageReports(id, context, written);
    await edge.post(`/internal/tasks/${encodeURIComponent(id)}/report`, { token, result });
  } catch (error) {
    log.warn({ err: error }, 'no report of a run that was cut short');
  } finally {
    await results.close();
  }
}
