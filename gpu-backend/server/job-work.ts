/** One job of a training process: brings its data, trains, and tells the edge under the job's lease. */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { CheckpointManifest, DataSpec, JobSpec } from '../../shared/contract/backend.ts';
import type { CheckpointMetrics, JobError } from '../../shared/contract/jobs.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { verifyCheckpoint } from '../train/checkpoint.ts';
import { runFineTune } from '../train/finetune.ts';
import type { FineTuneData, FineTuneMetrics, FineTuneResult } from '../train/finetune-spec.ts';
import { isAllocationFailure, OutOfMemory } from '../train/memory.ts';
import { isStorageFull, StorageFull } from '../train/storage.ts';
import { EdgeClient } from './edge-client.ts';
import { BrokenCheckpoint, JobLink, LeaseLost } from './job-link.ts';
import type { ChildStart, FromChild, JobOutcome, StopReason } from './job-protocol.ts';
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
    const resumeDir = await this.#fetchResume(job);
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
        onCheckpoint: async (dir, step, metrics, files) => {
          // A job that the user cancelled needs no more checkpoints, and its lease takes none.
          if (this.#reason === 'cancel') return;
          const names = files.map(({ name }) => name);
          await link.checkpoint(step, { kind: metrics.train, metrics: checkpointMetrics(metrics) }, dir, names);
          this.#say('info', `Checkpoint of step ${step} saved.`);
          await link.flush();
          await this.#hooks.tell({ type: 'checkpoint', jobId: job.id });
        },
      },
    );
    if (this.#reason !== 'cancel') await link.flush();
    await rm(outDir, { recursive: true, force: true });
    return outcomeOf(result, this.#reason);
  }

  /** The newest checkpoint that is whole; older ones where newer ones are damaged, the start where all are. */
  async #fetchResume(job: JobSpec): Promise<string | null> {
    if (job.resume === null) return null;
    for (const manifest of [job.resume.checkpoint, ...job.earlier]) {
      const dir = await this.#fetchWhole(manifest);
      if (dir !== null) return dir;
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
