import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Logger } from 'pino';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { FineTunePhase } from '../train/finetune-spec.ts';
import { childEnd } from './child-end.ts';
import { kernelMemoryKills } from './job-memory.ts';
import type { ChildStart, EvaluationOutcome, FromChild, JobOutcome, StopReason, ToChild } from './job-protocol.ts';

/** How a process came to its end that told no outcome. */
export interface Death {
  readonly code: 'trainer_died' | 'out_of_memory' | 'training_stalled';
  readonly message: string;
  /** Jobs that trained in it. */
  readonly jobs: number;
}

export type Ended =
  | { readonly kind: 'outcome'; readonly outcome: JobOutcome }
  | { readonly kind: 'lost' }
  | { readonly kind: 'died'; readonly death: Death };

export interface TrainerHooks {
  readonly onStep: (jobId: string, step: number) => void;
  readonly onCheckpoint: (jobId: string) => void;
  /** Asks a checkpoint the job's held-out questions. */
  readonly onEvaluate: (jobId: string, model: string) => Promise<EvaluationOutcome>;
}

export interface TrainerOptions {
  readonly log: Logger;
  /** How long a job may take to stop when told to; then the process is killed. */
  readonly stopGraceMs: number;
  /** Least time after which a step is taken for stuck. */
  readonly stallMs: number;
}

interface Job {
  readonly resolve: (ended: Ended) => void;
  phase: FineTunePhase;
  /** Of the last step or change of phase, performance.now(). */
  lastAtMs: number;
  readonly stepsMs: number[];
  killer: NodeJS.Timeout | undefined;
  isLost: boolean;
}

const LOOK_EVERY_MS = 500;
/** Of so many last steps the median is what a step takes. */
const STEPS = 51;

/** A child process that trains, seen from its parent: jobs go in, each comes to an end. Watches that it makes progress. */
export class TrainerProcess {
  readonly #child: ChildProcess;
  readonly #jobs = new Map<string, Job>();
  readonly #o: TrainerOptions;
  readonly #hooks: TrainerHooks;
  readonly #memoryKills = kernelMemoryKills();
  readonly #watch: NodeJS.Timeout;
  #aliveAtMs = performance.now();
  #stalled: string | null = null;
  #isClosing = false;

  constructor(options: TrainerOptions, hooks: TrainerHooks) {
    this.#o = options;
    this.#hooks = hooks;
    this.#child = fork(fileURLToPath(new URL('./job-child.ts', import.meta.url)), {
      execArgv: ['--import', import.meta.resolve('tsx')],
      serialization: 'advanced',
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    this.#child.on('message', (message: FromChild) => this.#hear(message));
    void childEnd(this.#child).then(({ code, signal, error }) => {
      if (error !== undefined) options.log.error({ err: error }, 'the trainer process failed');
      this.#die(code, signal);
    });
    this.#watch = setInterval(() => this.#look(), LOOK_EVERY_MS);
  }

  get isOver(): boolean {
    return this.#isClosing || this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** Trains one more job in it. */
  train(start: ChildStart): Promise<Ended> {
    return new Promise((resolve) => {
      const now = performance.now();
      this.#jobs.set(start.job.id, {
        resolve,
        phase: 'preparing',
        lastAtMs: now,
        stepsMs: [],
        killer: undefined,
        isLost: false,
      });
      this.#send(start);
    });
  }

  /** Tells a job to stop. A lost lease ends the process at once where nobody else is in it; others are given their time. */
  stop(jobId: string, reason: StopReason): void {
    const job = this.#jobs.get(jobId);
    if (job === undefined) return;
    if (reason === 'lost') {
      job.isLost = true;
      if (this.#jobs.size === 1) {
        this.#child.kill('SIGKILL');
        return;
      }
    }
    this.#send({ type: 'stop', jobId, reason });
    job.killer ??= setTimeout(() => {
      this.#o.log.warn({ job: jobId }, 'the trainer did not stop in time; killing it');
      this.#child.kill('SIGKILL');
    }, this.#o.stopGraceMs);
  }

  setBusy(isBusy: boolean): void {
    this.#send({ type: 'busy', isBusy });
  }

  /** Ends the process, which has no jobs any more. */
  close(): void {
    this.#isClosing = true;
    clearInterval(this.#watch);
    if (this.#child.connected) this.#child.disconnect();
    const killer = setTimeout(() => this.#child.kill('SIGKILL'), this.#o.stopGraceMs);
    killer.unref();
    this.#child.once('exit', () => clearTimeout(killer));
  }

  #send(message: ToChild): void {
    if (this.#child.connected) this.#child.send(message, () => {});
  }

  #hear(message: FromChild): void {
    const now = performance.now();
    this.#aliveAtMs = now;
    if (message.type === 'alive') return;
    const job = this.#jobs.get(message.jobId);
    if (job === undefined) return;
    switch (message.type) {
      case 'phase':
        job.phase = message.phase;
        job.lastAtMs = now;
        return;
      case 'step':
        if (job.phase === 'stepping') job.stepsMs.push(now - job.lastAtMs);
        if (job.stepsMs.length > STEPS) job.stepsMs.shift();
        job.lastAtMs = now;
        this.#hooks.onStep(message.jobId, message.step);
        return;
      case 'checkpoint':
        this.#hooks.onCheckpoint(message.jobId);
        return;
      case 'evaluate': {
        const { jobId, step, model } = message;
        void this.#hooks.onEvaluate(jobId, model).then((result) => {
          this.#send({ type: 'evaluated', jobId, step, result });
        });
        return;
      }
      case 'lost':
        this.#end(message.jobId, { kind: 'lost' });
        return;
      case 'done':
        this.#end(message.jobId, job.isLost ? { kind: 'lost' } : { kind: 'outcome', outcome: message.outcome });
    }
  }

  #end(jobId: string, ended: Ended): void {
    const job = this.#jobs.get(jobId);
    if (job === undefined) return;
    clearTimeout(job.killer);
    this.#jobs.delete(jobId);
    job.resolve(ended);
  }

  /** A process is stuck when its thread says nothing, or when no job comes to its next step though the thread is well. */
  #look(): void {
    if (this.#jobs.size === 0 || this.#stalled !== null) return;
    const now = performance.now();
    // One thread: what one job does between its steps, the others wait for.
    const isStepping = [...this.#jobs.values()].every(({ phase }) => phase === 'stepping');
    const limits = [...this.#jobs.values()].map((job) =>
      isStepping ? Math.max(this.#o.stallMs, LIMITS.jobs.stallFactor * median(job.stepsMs)) : LIMITS.jobs.phaseStallMs,
    );
    const limitMs = Math.max(...limits);
    const last = Math.max(...[...this.#jobs.values()].map(({ lastAtMs }) => lastAtMs));
    const silentMs = now - (isStepping ? last : Math.max(last, this.#aliveAtMs));
    if (silentMs <= limitMs) return;
    this.#stalled = `no step was made for ${Math.round(silentMs / 1000)} s, where ${Math.round(limitMs / 1000)} s is the most`;
    this.#o.log.error({ jobs: [...this.#jobs.keys()] }, `the trainer is stuck, ${this.#stalled}; killing it`);
    this.#child.kill('SIGKILL');
  }

  #die(code: number | null, signal: NodeJS.Signals | null): void {
    clearInterval(this.#watch);
    const death = { ...this.#cause(code, signal), jobs: this.#jobs.size };
    for (const [jobId, job] of this.#jobs) this.#end(jobId, job.isLost ? { kind: 'lost' } : { kind: 'died', death });
  }

  #cause(code: number | null, signal: NodeJS.Signals | null): Pick<Death, 'code' | 'message'> {
    if (this.#stalled !== null)
      return { code: 'training_stalled', message: `The trainer was stuck and was ended: ${this.#stalled}.` };
    // The kernel kills; V8, whose heap is full, aborts.
    if ((signal === 'SIGKILL' && kernelMemoryKills() > this.#memoryKills) || signal === 'SIGABRT' || code === 134)
      return {
        code: 'out_of_memory',
        message: `The trainer process ran out of memory (${signal ?? `exit code ${code}`}).`,
      };
    return { code: 'trainer_died', message: `The trainer process died (${signal ?? `exit code ${code}`}).` };
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? 0;
}
