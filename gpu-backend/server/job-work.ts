/** One job of a training process: brings its data, trains, and tells the edge under the job's lease. */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { CheckpointManifest, DataSpec, JobEvaluation, JobSpec } from '../../shared/contract/backend.ts';
import type { CheckpointMetrics, JobError } from '../../shared/contract/jobs.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { verifyCheckpoint } from '../train/checkpoint.ts';
import { isEnough } from '../train/early-stopping.ts';
import { runFineTune } from '../train/finetune.ts';
import type { CheckpointPlace, FineTuneData, FineTuneMetrics, FineTuneResult } from '../train/finetune-spec.ts';
import { isAllocationFailure, OutOfMemory } from '../train/memory.ts';
import { isStorageFull, StorageFull } from '../train/storage.ts';
import { EdgeClient } from './edge-client.ts';
import { BrokenCheckpoint, JobLink, LeaseLost } from './job-link.ts';
import type { ChildStart, EvaluationOutcome, FromChild, JobOutcome, StopReason } from './job-protocol.ts';
import { OutsideFiles } from './outside-files.ts';
import { OverlayStore } from './overlay-store.ts';

const STOPPED = { cancel: 'cancelled', pause: 'paused', drain: 'released', lost: 'released' } as const;

export interface JobWorkHooks {
  readonly tell: (message: FromChild) => Promise<void>;
  /** Awaited before every micro-batch. */
  readonly pace: () => Promise<void>;
}

/** A job in progress; `stop` may be called at any time, also more than once: the first reason counts, and `lost` above all. */
export class JobWork {
  readonly #start: ChildStart;
  readonly #hooks: JobWorkHooks;
  readonly #link: JobLink;
  readonly #edge: EdgeClient;
  readonly #outside: OutsideFiles;
  readonly #stop = new AbortController();
  #reason: StopReason | null = null;
  #lines = 0;
  /** Accuracies of evaluated checkpoints, in the order of the steps. */
  #history: { step: number; accuracy: number }[] = [];
  /** An evaluation was, since the job is to stop. */
  #isBrokenOff = false;
  #asked: { readonly step: number; readonly resolve: (result: EvaluationOutcome) => void } | null = null;

  constructor(start: ChildStart, hooks: JobWorkHooks) {
    this.#start = start;
    this.#hooks = hooks;
    this.#edge = new EdgeClient({ url: start.edgeUrl, secret: start.secret });
    this.#outside = new OutsideFiles(start.checkpointStore);
    this.#link = new JobLink(this.#edge, start.job.id, start.leaseToken, this.#outside);
  }

  stop(reason: StopReason): void {
    if (reason === 'lost') {
      this.#reason = 'lost';
      this.#link.lose();
    }
    this.#reason ??= reason;
    this.#stop.abort();
  }

  /** The answer of the process that evaluates. */
  evaluated(step: number, result: EvaluationOutcome): void {
    if (this.#asked?.step === step) this.#asked.resolve(result);
  }

  /** Trains to the end, or until stopped. Never throws: what went wrong is told as an outcome. */
  async run(): Promise<void> {
    const { tell } = this.#hooks;
    const jobId = this.#start.job.id;
    try {
      await tell({ type: 'done', jobId, outcome: await this.#train() });
    } catch (error) {
      if (error instanceof LeaseLost || this.#reason === 'lost') await tell({ type: 'lost', jobId });
      else await tell({ type: 'done', jobId, outcome: this.#outcomeOf(error) });
    }
  }

  #outcomeOf(error: unknown): JobOutcome {
    // Told to stop before the first step: there is nothing to save.
    const { aborted, reason } = this.#stop.signal;
    if (aborted && error === reason) return { status: STOPPED[this.#reason ?? 'drain'], trainedTokens: null };
    return { status: 'released', trainedTokens: null, error: failure(error) };
  }

  #say(level: 'info' | 'warn' | 'error', message: string): void {
    // The lease numbers the tries, so the same sentence of a later try is a new event.
    const key = `try-${this.#start.leaseToken}-${this.#lines++}`;
    this.#link.event({ key, level, message, type: 'message', data: null });
  }

  async #train(): Promise<JobOutcome> {
    const { job, workDir, featureDir, baseDir, threads, microBatchShare } = this.#start;
    const link = this.#link;
    const data: FineTuneData[] = [];
    for (const spec of job.training) data.push(await fetchData(link, spec, workDir));
    const validation = job.validation === null ? null : await fetchData(link, job.validation, workDir);
    const resumed = await this.#fetchResume(job);
    const resumeDir = resumed?.dir ?? null;
    const ended = resumed === null ? null : await this.#catchUp(job, resumed.step);
    if (resumed !== null && ended !== null) {
      const { extra } = await verifyCheckpoint(resumed.dir);
      const { trainedTokens } = extra as unknown as { trainedTokens: number };
      return { status: 'succeeded', finalStep: ended, trainedTokens };
    }
    const tuned =
      job.adapter === null
        ? null
        : await new OverlayStore(this.#edge, workDir, this.#outside).fetch({
            model: job.adapter.id,
            adapter: job.adapter,
          });
    const outDir = join(workDir, 'checkpoints');
    const result = await runFineTune(
      {
        baseDir,
        data,
        stages: job.stages,
        leftOut: job.leftOut,
        seed: job.seed,
        threads,
        workDir,
        featureDir,
        outDir,
        microBatchShare,
        ...(job.maxDurationS === null ? {} : { maxDurationS: job.maxDurationS }),
        ...(tuned === null ? {} : { tunedDir: tuned.dir }),
        ...(validation === null ? {} : { validation }),
        ...(job.checkpointEvery === null ? {} : { checkpointEvery: job.checkpointEvery }),
        ...(job.evaluation?.every === 'epoch' ? { epochCheckpoints: true } : {}),
        ...(resumeDir === null ? {} : { resumeDir }),
      },
      {
        signal: this.#stop.signal,
        pace: this.#hooks.pace,
        onPhase: (phase) => void this.#hooks.tell({ type: 'phase', jobId: job.id, phase }),
        readImage: (reference) => link.readImage(reference),
        fetchCheckpoint: (step) => this.#fetchStep(job, step),
        onEvent: (level, message) => {
          this.#say(level, message);
          link.flushSoon();
        },
        onMetrics: async (metrics) => {
          link.event({
            key: `step-${metrics.step}`,
            level: 'info',
            message: `Step ${metrics.step}/${metrics.totalSteps}: training loss=${metrics.train_loss.toFixed(4)}`,
            type: 'metrics',
            data: eventData(metrics),
          });
          const { step, totalSteps } = metrics;
          await this.#hooks.tell({ type: 'step', jobId: job.id, step, totalSteps });
          link.flushSoon();
        },
        onCheckpoint: async (dir, step, metrics, files, place) => {
          // A job that the user cancelled needs no more checkpoints, and its lease takes none.
          if (this.#reason === 'cancel') return undefined;
          const names = files.map(({ name }) => name);
          const evaluates = isEvaluated(job, place);
          const about = { kind: metrics.train, metrics: checkpointMetrics(metrics), evaluates };
          // Its steps first: a process that dies behind a checkpoint goes on from it, and would never tell them again.
          await link.flush();
          const model = await link.checkpoint(step, about, dir, names);
          this.#say('info', `Checkpoint of step ${step} saved.`);
          await link.flush();
          await this.#hooks.tell({ type: 'checkpoint', jobId: job.id });
          if (!evaluates) return undefined;
          return (await this.#evaluate(job, step, model, metrics.totalSteps)) ? 'enough' : undefined;
        },
      },
    );
    if (this.#reason !== 'cancel') await link.flush();
    await rm(outDir, { recursive: true, force: true });
    // Trained to the end, but which checkpoint is the best is not known yet: the next try finds out.
    if (this.#isBrokenOff && result.outcome === 'succeeded')
      return { status: STOPPED[this.#reason ?? 'drain'], trainedTokens: result.trainedTokens };
    return outcomeOf(result, this.#reason);
  }

  /**
   * Makes the evaluations again that an earlier try was stopped in, up to the step that this one goes on from.
   * @returns the step that the job ends with, where the evaluations say that it has had its best; else null
   */
  async #catchUp({ evaluation, ...job }: JobSpec, resumeStep: number): Promise<number | null> {
    if (evaluation === null) return null;
    // Later ones are trained, and evaluated, again.
    this.#history = evaluation.done.filter(({ step }) => step <= resumeStep);
    for (const { step, model } of evaluation.pending.filter((one) => one.step <= resumeStep))
      if (await this.#evaluate({ evaluation, ...job }, step, model, resumeStep)) return step;
    const last = this.#history.at(-1);
    return last !== undefined && this.#hasEnough(evaluation) ? last.step : null;
  }

  /**
   * Has a checkpoint evaluated while the training waits. One that cannot be is said and passed over; one that is broken off is made by the next try.
   * @returns whether the job has had its best
   */
  async #evaluate({ id, evaluation }: JobSpec, step: number, model: string, totalSteps: number): Promise<boolean> {
    if (evaluation === null) return false;
    if (this.#stop.signal.aborted) {
      this.#isBrokenOff = true;
      return false;
    }
    const answer = new Promise<EvaluationOutcome>((resolve) => {
      this.#asked = { step, resolve };
    });
    const stopped = new Promise<null>((resolve) => {
      this.#stop.signal.addEventListener('abort', () => resolve(null), { once: true });
    });
    await this.#hooks.tell({ type: 'evaluate', jobId: id, step, model });
    const result = await Promise.race([answer, stopped]);
    this.#asked = null;
    if (result === null || this.#stop.signal.aborted) {
      this.#isBrokenOff = true;
      return false;
    }
    if ('error' in result) {
      this.#say('warn', `The checkpoint of step ${step} could not be evaluated: ${result.error}`);
      await this.#link.evaluation(step, totalSteps, null, this.#start.workDir);
      return false;
    }
    await this.#link.evaluation(step, totalSteps, result, this.#start.workDir);
    this.#history = [
      ...this.#history.filter((one) => one.step !== step),
      { step, accuracy: result.metrics.eval_accuracy },
    ].sort((a, b) => a.step - b.step);
    if (!this.#hasEnough(evaluation)) return false;
    this.#say(
      'info',
      `The job ends early after step ${step}: ${bestless(evaluation.earlyStop?.patience ?? 0)} no new best accuracy.`,
    );
    return true;
  }

  #hasEnough({ earlyStop }: JobEvaluation): boolean {
    return isEnough(
      this.#history.map(({ accuracy }) => accuracy),
      earlyStop,
    );
  }

  /** The newest checkpoint that is whole; older ones where newer ones are damaged, the start where all are. */
  async #fetchResume(job: JobSpec): Promise<{ dir: string; step: number } | null> {
    if (job.resume === null) return null;
    for (const manifest of [job.resume.checkpoint, ...job.earlier]) {
      const dir = await this.#fetchWhole(manifest);
      if (dir !== null) return { dir, step: manifest.step };
    }
    this.#say('warn', 'No checkpoint of this job is whole; it begins again.');
    return null;
  }

  async #fetchWhole(manifest: CheckpointManifest): Promise<string | null> {
    const dir = join(this.#start.workDir, `resume-${manifest.step}`);
    try {
      await this.#link.fetchCheckpoint(manifest, dir);
      await verifyCheckpoint(dir);
      return dir;
    } catch (error) {
      if (error instanceof LeaseLost) throw error;
      const isBroken =
        error instanceof BrokenCheckpoint || (error instanceof Error && error.name === 'CheckpointError');
      if (!isBroken) throw error;
      this.#say(
        'warn',
        `The checkpoint of step ${manifest.step} is damaged, and the one before is used: ${error.message}`,
      );
      await rm(dir, { recursive: true, force: true });
      return null;
    }
  }

  async #fetchStep(job: JobSpec, step: number): Promise<string | null> {
    const known = [...(job.resume === null ? [] : [job.resume.checkpoint]), ...job.earlier];
    const manifest = known.find((one) => one.step === step);
    return manifest === undefined ? null : await this.#fetchWhole(manifest);
  }
}

/** Whether the job's evaluation wants this checkpoint. What was saved only because the job was stopped is none of its business. */
function isEvaluated({ evaluation }: JobSpec, { isRegular, isEpochEnd, isJobEnd }: CheckpointPlace): boolean {
  switch (evaluation?.every) {
    case undefined:
      return false;
    case 'checkpoint':
      return isRegular;
    case 'epoch':
      return isEpochEnd || isJobEnd;
    case 'end':
      return isJobEnd;
  }
}

/** Brings the files of a list here, each once, under names of their own. */
async function fetchData(link: JobLink, spec: DataSpec, workDir: string): Promise<FineTuneData> {
  const paths: string[] = [];
  for (const { file } of spec.files) {
    const path = join(workDir, `data-${file.sha256}`);
    if (!existsSync(path)) await link.fetchFile(file, path);
    paths.push(path);
  }
  return { spec, paths };
}

/** Why a try is given back: by name where the machine was too small, else with what was thrown. The edge ends the job when tries bring no new checkpoint. */
function failure(error: unknown): JobError {
  const message = (error instanceof Error ? error.message : String(error)).slice(0, LIMITS.jobs.maxEventMessageChars);
  const code =
    error instanceof OutOfMemory || isAllocationFailure(error)
      ? 'out_of_memory'
      : error instanceof StorageFull || isStorageFull(error)
        ? 'storage_full'
        : 'training_failed';
  if (code === 'training_failed')
    process.stderr.write(`trainer: ${error instanceof Error ? (error.stack ?? message) : message}\n`);
  return { code, message, param: null };
}

function outcomeOf(result: FineTuneResult, reason: StopReason | null): JobOutcome {
  switch (result.outcome) {
    case 'succeeded':
      return { status: 'succeeded', finalStep: result.finalStep, trainedTokens: result.trainedTokens };
    case 'stopped':
      return { status: STOPPED[reason ?? 'drain'], trainedTokens: result.trainedTokens };
    case 'failed':
      return {
        status: 'failed',
        error: { code: result.code, message: result.message, param: null },
        trainedTokens: result.trainedTokens,
      };
  }
}

/** What the event's `data` says; names are OpenAI's where OpenAI has one. */
function eventData(metrics: FineTuneMetrics): Record<string, unknown> {
  const { totalSteps, ...rest } = metrics;
  return { ...rest, total_steps: totalSteps };
}

function checkpointMetrics(metrics: FineTuneMetrics): CheckpointMetrics {
  const { step, train_loss, train_mean_token_accuracy, full_valid_loss, full_valid_mean_token_accuracy } = metrics;
  return {
    step,
    train_loss,
    train_mean_token_accuracy,
    ...(full_valid_loss === undefined ? {} : { full_valid_loss }),
    ...(full_valid_mean_token_accuracy === undefined ? {} : { full_valid_mean_token_accuracy }),
  };
}

/** `the last evaluation brought`, `the last 3 evaluations brought`. */
function bestless(count: number): string {
  return count === 1 ? 'the last evaluation brought' : `the last ${count} evaluations brought`;
}
