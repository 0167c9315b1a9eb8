/**
 * Moves jobs on whose validation has ended. The end of a task and the change of its job are two transactions: what is lost between them the sweeper finds,
 * and doing it twice changes nothing.
 */
import type { ValidateTask } from '../../shared/contract/backend.ts';
import type { DataName, DatasetReport } from '../../shared/contract/datasets.ts';
import type { Hyperparameters, JobError } from '../../shared/contract/jobs.ts';
import { ValidateResult } from '../../shared/contract/taskResults.ts';
import { decideStages, type StageDraft } from '../../shared/contract/training.ts';
import { nowMs } from '../clock.ts';
import type { Env } from '../env.ts';
import { insertEvent } from '../store/events.ts';
import { applyToJob, type JobRow, jobsToAdvance, type ValidatedColumns } from '../store/jobs.ts';
import { findTask, type TaskRow } from '../store/tasks.ts';

/** @returns how many jobs may be claimed now that could not before */
export async function advanceJobs(env: Env): Promise<number> {
  let queued = 0;
  for (const job of await jobsToAdvance(env.DB, 100)) if (await advanceJob(env, job)) queued++;
  return queued;
}

async function advanceJob(env: Env, job: JobRow): Promise<boolean> {
  const task = job.validation_task === null ? null : await findTask(env.DB, job.validation_task);
  if (task === null) return false;
  const { error, result } = await endOf(env, task);
  const validated = result === null || error !== null ? undefined : columns(job, result);
  const applied = await applyToJob(env.DB, job.id, { type: 'validated', error }, nowMs(), {
    ...(validated === undefined ? {} : { validated }),
    along: ({ revision }) =>
      result === null
        ? []
        : [
            insertEvent(
              env.DB,
              {
                jobId: job.id,
                key: 'validated',
                createdAtMs: nowMs(),
                level: error !== null ? 'error' : isLeaked(result) ? 'warn' : 'info',
                message: summary(result),
                type: 'message',
                data: { ...numbersOf(result), validation: task.id },
              },
              revision,
            ),
          ],
  });
  return applied?.job?.status === 'queued';
}

async function endOf(env: Env, task: TaskRow): Promise<{ error: JobError | null; result: ValidateResult | null }> {
  if (task.status !== 'succeeded') {
    const known = task.error === null ? null : (JSON.parse(task.error) as JobError);
    const message = known?.message ?? `validation was ${task.status}`;
    return {
      error: { code: known?.code ?? 'validation_failed', message, param: known?.param ?? 'training_file' },
      result: null,
    };
  }
  const object = task.result_key === null ? null : await env.BLOBS.get(task.result_key);
  if (object === null)
    return {
      error: { code: 'validation_failed', message: 'the result of the validation is gone', param: 'training_file' },
      result: null,
    };
  const result = ValidateResult.parse(await object.json());
  if (result.report.verdict === 'accepted') return { error: null, result };
  const errors = result.report.problems.filter(({ severity }) => severity === 'error');
  const { code, message, param } = errors.find(({ line }) => line === null) ?? {};
  if (!areFilesRefused(result) && code !== undefined && message !== undefined)
    return {
      error: {
        code,
        message: `${sentence(message)} ${task.id} has the whole report.`,
        param: param ?? 'method.supervised.mantis',
      },
      result,
    };
  // A line says more than that there is no good one; where the training could go on, what is held out is at fault.
  const isTrainable = !isTrainingRefused(result);
  const first =
    errors.find(({ line, data }) => line !== null && (!isTrainable || data === 'held_out')) ??
    errors.find((error) => error.code !== 'no_usable_examples') ??
    errors[0];
  const where =
    first === undefined
      ? ''
      : ` The first: ${first.line === null ? '' : `line ${first.line}, `}${sentence(first.message)}`;
  return {
    error: {
      code: 'invalid_training_file',
      message: `${summary(result)}${where} ${task.id} has the whole report.`,
      param: fieldOf(task, first?.data ?? 0, result),
    },
    result,
  };
}

function columns(job: JobRow, result: ValidateResult): ValidatedColumns {
  const stages = decideStages(JSON.parse(job.stages) as StageDraft[], result.trainingExamples);
  const hyperparameters = JSON.parse(job.hyperparameters) as Hyperparameters;
  if (hyperparameters.batch_size === 'auto') hyperparameters.batch_size = stages.at(-1)?.batch_size ?? 1;
  return { leftOut: JSON.stringify(result.leftOut), examples: result.trainingExamples, stages, hyperparameters };
}

const sentence = (text: string) => (text.endsWith('.') ? text : `${text}.`);

/** The field that names the data of a problem. */
function fieldOf(task: TaskRow, data: DataName, { report }: ValidateResult): string {
  if (data === 'validation') return 'validation_file';
  if (data !== 'held_out') return 'training_file';
  const wrong = (report.held_out ?? []).findIndex(({ usable, bad }) => usable === 0 || bad > 0);
  return (JSON.parse(task.spec) as ValidateTask).heldOut?.[Math.max(0, wrong)]?.param ?? 'held_out_file';
}

/** Else a refusal is about what the job asks for. */
function areFilesRefused(result: ValidateResult): boolean {
  return isTrainingRefused(result) || isHeldOutRefused(result);
}

function isTrainingRefused({ report }: ValidateResult): boolean {
  const lists = [...report.training, ...(report.validation === null ? [] : [report.validation])];
  return report.bad_share > report.max_bad_share || lists.some(({ usable }) => usable === 0);
}

/** No line of what is held out may be bad: leaving one out would decide by something else than was asked for. */
function isHeldOutRefused({ report }: ValidateResult): boolean {
  return (report.held_out ?? []).some(({ usable, bad }) => usable === 0 || bad > 0);
}

/** One sentence: what is trained on, what is not, and why. */
function summary(result: ValidateResult): string {
  const { report } = result;
  const usable = report.training.reduce((sum, { usable: n }) => sum + n, 0);
  const bad = report.training.reduce((sum, { bad: n }) => sum + n, 0);
  const share = `${(100 * report.bad_share).toFixed(1)} %`;
  if (report.verdict === 'refused' && !areFilesRefused(result))
    return report.problems.some(
      ({ data, line, severity }) => data === 'held_out' && line === null && severity === 'error',
    )
      ? 'Options refused: they hold none of the held-out answers.'
      : 'A stage cannot run as it is asked for.';
  if (report.verdict === 'refused' && !isTrainingRefused(result)) {
    const heldOut = (report.held_out ?? []).reduce((sum, { bad: n }) => sum + n, 0);
    return heldOut === 0
      ? 'Held-out file refused: it has no usable example.'
      : `Held-out file refused: ${heldOut} of its lines ${heldOut === 1 ? 'is' : 'are'} bad, and none may be.`;
  }
  if (report.verdict === 'refused')
    return usable === 0
      ? 'Files refused: there is no usable example.'
      : `Files refused: ${share} of the lines are bad, at most ${(100 * report.max_bad_share).toFixed(1)} % may be.`;
  const odd = `${leakageOf(report.leakage)}${unanswerableOf(report)}`;
  if (bad === 0) return `Files validated: ${counted(usable, 'example')}.${odd}`;
  return `Files validated: ${counted(usable, 'example')}; ${counted(bad, 'bad line')} (${share}) ${bad === 1 ? 'is' : 'are'} left out.${odd}`;
}

/** Whether what is measured on the held-out examples says less than it seems to. */
function isLeaked({ report }: ValidateResult): boolean {
  return `${leakageOf(report.leakage)}${unanswerableOf(report)}` !== '';
}

function leakageOf({ held_out_images: images = 0, held_out_examples: examples = 0 }: DatasetReport['leakage']): string {
  if (images + examples === 0) return '';
  const found = [
    ...(images === 0 ? [] : [counted(images, 'held-out picture')]),
    ...(examples === 0 ? [] : [counted(examples, 'held-out example')]),
  ];
  return ` ${found.join(' and ')} ${images + examples === 1 ? 'is' : 'are'} in the training data too: what is measured on ${images + examples === 1 ? 'it' : 'them'} says little.`;
}

function unanswerableOf({ problems, problem_counts: counts }: DatasetReport): string {
  const count = counts.answer_not_among_options ?? 0;
  if (count === 0) return '';
  const first = problems.find(({ code }) => code === 'answer_not_among_options');
  const where = first?.line == null ? '' : `, the first in line ${first.line}`;
  return ` The answers of ${counted(count, 'held-out example')}${where}, are none of the options: no model can get them right.`;
}

const counted = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? '' : 's'}`;

/** The report without its lists: small enough for an event. */
function numbersOf({ report }: ValidateResult): Record<string, unknown> {
  const { problems: _problems, left_out, ...rest } = report;
  return { ...rest, left_out: left_out.map(({ data, lines, total }) => ({ data, lines: lines.slice(0, 100), total })) };
}
