/**
 * The process that trains one job. It is told everything over IPC, reports to the edge under the job's lease, and ends: with
 * an outcome for its parent, or without one when it is killed, which the parent then treats as a death. It never outlives
 * its parent, and never tries to save a lease that is gone.
 */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { setPriority } from 'node:os';
import { join } from 'node:path';
import type { DataSpec } from '../../shared/contract/backend.ts';
import type { CheckpointMetrics } from '../../shared/contract/jobs.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { runFineTune } from '../train/finetune.ts';
import type { FineTuneData, FineTuneMetrics, FineTuneResult } from '../train/finetune-spec.ts';
import { EdgeClient } from './edge-client.ts';
import { JobLink, LeaseLost } from './job-link.ts';
import type { ChildStart, FromChild, JobOutcome, StopReason, ToChild } from './job-protocol.ts';
import { OverlayStore } from './overlay-store.ts';

let stopReason: StopReason | null = null;

const STOPPED = { cancel: 'cancelled', pause: 'paused', drain: 'released' } as const;

const stop = new AbortController();

function tell(message: FromChild): Promise<void> {
  return new Promise((resolve) => {
    if (process.send === undefined) resolve();
    else process.send(message, () => resolve());
  });
}

async function work(start: ChildStart): Promise<JobOutcome> {
  const { job, workDir } = start;
  const edge = new EdgeClient({ url: start.edgeUrl, secret: start.secret });
  const link = new JobLink(edge, job.id, start.leaseToken);
  let lines = 0;
  const say = (level: 'info' | 'warn' | 'error', message: string) =>
    // The lease numbers the tries, so the same sentence of a later try is a new event.
    link.event({ key: `try-${start.leaseToken}-${lines++}`, level, message, type: 'message', data: null });

  const data: FineTuneData[] = [];
  for (const spec of job.training) data.push(await fetchData(link, spec, workDir));
  const validation = job.validation === null ? null : await fetchData(link, job.validation, workDir);
  const resumeDir = job.resume === null ? null : join(workDir, 'resume');
  if (job.resume !== null && resumeDir !== null) await link.fetchCheckpoint(job.resume.checkpoint, resumeDir);
  const tuned =
    job.adapter === null
      ? null
      : await new OverlayStore(edge, workDir).fetch({ model: job.adapter.id, adapter: job.adapter });

  const outDir = join(workDir, 'checkpoints');
  const result = await runFineTune(
    {
      baseDir: start.baseDir,
      data,
      stages: job.stages,
      leftOut: job.leftOut,
      seed: job.seed,
      threads: start.threads,
      workDir,
      outDir,
      ...(tuned === null ? {} : { tunedDir: tuned.dir }),
      ...(validation === null ? {} : { validation }),
      ...(job.checkpointEvery === null ? {} : { checkpointEvery: job.checkpointEvery }),
      ...(resumeDir === null ? {} : { resumeDir }),
    },
    {
      signal: stop.signal,
      readImage: (reference) => link.readFile(reference),
      onEvent: say,
      onMetrics: async (metrics) => {
        link.event({
          key: `step-${metrics.step}`,
          level: 'info',
          message: `Step ${metrics.step}/${metrics.totalSteps}: training loss=${metrics.train_loss.toFixed(4)}`,
          type: 'metrics',
          data: eventData(metrics),
        });
        await tell({ type: 'progress', step: metrics.step, totalSteps: metrics.totalSteps });
        link.flushSoon();
      },
      onCheckpoint: async (dir, step, metrics, files) => {
        // A job that the user cancelled needs no more checkpoints, and its lease takes none.
        if (stopReason === 'cancel') return;
        const names = files.map(({ name }) => name);
        await link.checkpoint(step, { kind: metrics.train, metrics: checkpointMetrics(metrics) }, dir, names);
        say('info', `Checkpoint of step ${step} saved.`);
        await link.flush();
      },
    },
  );
  if (stopReason !== 'cancel') await link.flush();
  await rm(outDir, { recursive: true, force: true });
  return outcomeOf(result);
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

function outcomeOf(result: FineTuneResult): JobOutcome {
  switch (result.outcome) {
    case 'succeeded':
      return { status: 'succeeded', finalStep: result.finalStep, trainedTokens: result.trainedTokens };
    case 'stopped':
      return { status: STOPPED[stopReason ?? 'drain'], trainedTokens: result.trainedTokens };
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

async function run(start: ChildStart): Promise<void> {
  try {
    await tell({ type: 'done', outcome: await work(start) });
  } catch (error) {
    if (error instanceof LeaseLost) await tell({ type: 'lost' });
    else {
      const message = (error instanceof Error ? error.message : String(error)).slice(
        0,
        LIMITS.jobs.maxEventMessageChars,
      );
      process.stderr.write(`trainer: ${error instanceof Error ? (error.stack ?? message) : message}\n`);
      // A defect is given back as a failed try; the edge ends the job when tries bring no new checkpoint.
      await tell({ type: 'crashed', message });
    }
  }
  process.exit(0);
}

// Answers come before training where both want the processor.
setPriority(10);
process.on('disconnect', () => process.exit(1));
// Ctrl-C in a terminal reaches the whole group; the parent decides what it means for the job.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {});
process.on('message', (message: ToChild) => {
  if (message.type === 'start') void run(message);
  else {
    stopReason = message.reason;
    stop.abort();
  }
});
