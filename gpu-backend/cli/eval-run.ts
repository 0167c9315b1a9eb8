/** One task, from its opened records to its report. */

import type { ComparedRun } from '../eval/report/compare.ts';
import type { EvalReport } from '../eval/report/schema.ts';
import type { AnswerCache } from '../eval/run/answer-cache.ts';
import { ModelUnusable } from '../eval/run/model-unusable.ts';
import { NotAskable } from '../eval/run/preflight.ts';
import type { PromptForm } from '../eval/run/prompt-form.ts';
import { type EvalRunOptions, evalSpec, runEval, TooManyErrors } from '../eval/run/run.ts';
import { RunFolderError } from '../eval/run/run-folder.ts';
import type { EvalModel } from '../eval/task.ts';
import { CliError } from './error.ts';
import type { EvalFlags } from './eval-options.ts';
import { requireComparable } from './eval-output.ts';
import { finishRun } from './eval-report.ts';
import { byImages, summaryOf } from './eval-summary.ts';
import { type OpenedTask, SKILLS } from './eval-task.ts';
import { ProgressBar } from './progress.ts';

/** What all tasks of one command share. */
export interface Asking {
  readonly model: EvalModel;
  readonly judge: EvalModel | undefined;
  readonly form: PromptForm;
  readonly cache: AnswerCache | undefined;
  readonly signal: AbortSignal;
}

/** A run that has been looked at: nothing of it can be refused any more. */
export interface ReadyRun {
  readonly opened: OpenedTask;
  /** Where its results go, its own of several tasks. */
  readonly flags: EvalFlags;
  readonly options: EvalRunOptions;
  readonly other: ComparedRun | null;
}

/** @throws CliError for what the run that it is compared with, or its records, do not allow */
export async function readyRun(opened: OpenedTask, flags: EvalFlags, asking: Asking): Promise<ReadyRun> {
  const { task, records, part } = opened;
  const { model, judge, form, cache, signal } = asking;
  const options: EvalRunOptions = {
    task,
    records,
    part,
    model,
    asked: { orders: flags.orders, rotate: flags.rotate === true, controls: flags.control },
    form,
    maxErrorShare: flags.maxErrors,
    signal,
    // A judge that no rule of this task calls is no part of what it did.
    ...(judge === undefined || task.extraction === undefined ? {} : { judge }),
    ...(flags.out === undefined ? {} : { out: flags.out }),
    ...(cache === undefined ? {} : { cache }),
  };
  const other = await requireComparable(flags, { spec: evalSpec(options), model, title: task.title });
  return { opened, flags, options, other };
}

/** Asks, shows the report and writes what is wanted of it. */
export async function runTask({ opened, flags, options, other }: ReadyRun): Promise<EvalReport> {
  const { task, records } = opened;
  const { model } = options;
  const bar = new ProgressBar(`${task.name}, ${model.name}`);
  try {
    const result = await runEval({
      ...options,
      onProgress: ({ done, total, errors }) =>
        bar.update(done, total, errors === 0 ? '' : `${errors} without an answer`),
    }).finally(() => bar.end());
    tellCounts(result.counts);
    const { report, comparison } = await finishRun({ task, records, model, result, other }, flags);
    const summary = {
      ...summaryOf(report),
      ...(task.name === SKILLS ? { byImages: await byImages(result.items, records) } : {}),
      model: model.name,
      ...(comparison === null ? {} : { change: comparison.change, verdict: comparison.verdict }),
    };
    if (flags.json === true) process.stdout.write(`${JSON.stringify(summary)}\n`);
    return report;
  } catch (error) {
    throw told(error, flags);
  }
}

/** How the items came about, which is no part of the report. */
function tellCounts(counts: Awaited<ReturnType<typeof runEval>>['counts']): void {
  const from = [
    counts.resumed > 0 ? `${counts.resumed} answered before` : '',
    counts.fromCache > 0 ? `${counts.fromCache} from the cache` : '',
    counts.errors > 0 ? `${counts.errors} without an answer` : '',
  ].filter((part) => part !== '');
  const questions = counts.done === 1 ? '1 question' : `${counts.done} questions`;
  process.stderr.write(`${questions}${from.length === 0 ? '' : `, ${from.join(', ')}`}\n`);
}

const WISHES = { rotate: '--rotate', shuffled: '--control shuffled', answerBy: '--answer-by' } as const;

/** What is the user's to mend in one sentence, and how a run goes on. */
function told(error: unknown, { out }: EvalFlags): unknown {
  const goesOn = out === undefined ? '' : `\nWhat was answered is in ${out}; the same command goes on from there.`;
  if (error instanceof RunFolderError) return new CliError(error.message, 2);
  if (error instanceof NotAskable) return new CliError(`${WISHES[error.wish]}: ${error.message}`, 2);
  if (error instanceof TooManyErrors || error instanceof ModelUnusable)
    return new CliError(`${error.message}${goesOn}`, 1);
  if (error instanceof CliError && error.exitCode > 2) return new CliError(`stopped${goesOn}`, error.exitCode);
  return error;
}
