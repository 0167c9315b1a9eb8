import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import {
  type ClaimRequest,
  ClaimResponse,
  type FinishRequest,
  JobHeartbeatResponse,
  type JobSpec,
  type Lease,
} from '../../shared/contract/backend.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { ModelService } from '../engine/service.ts';
import { CheckpointEvaluator } from './checkpoint-evaluator.ts';
import { type EdgeClient, EdgeError } from './edge-client.ts';
import { stagesWithRoom } from './job-memory.ts';
import type { EvaluationOutcome, JobOutcome, StopReason } from './job-protocol.ts';
import { type Death, TrainerProcess } from './trainer-process.ts';

export interface JobRunnerOptions {
  readonly edge: EdgeClient;
  readonly secret: string;
  readonly backendId: string;
  readonly log: Logger;
  readonly dataDir: string;
  readonly threads: number;
  /** Checkpoint folder of a base model, or `null` when this backend does not have it. */
  readonly baseDirOf: (model: string) => string | null;
  /** Without a wake-up the edge is asked this often. Default 5 s. */
  readonly pollEveryMs?: number;
  /** How long a job may take to stop when told to. Default 20 s; then its process is killed. */
  readonly stopGraceMs?: number;
  /** Jobs over the same base that train in one process. Default 4. */
  readonly jobsPerProcess?: number;
  /** Least time after which a step is taken for stuck. Default `LIMITS.jobs.stallMs`. */
  readonly stallMs?: number;
  /** `s3://bucket/prefix` for checkpoints. Default: they go through the edge. */
  readonly checkpointStore?: string | null;
  /** Answers the questions that checkpoints are evaluated by. Default: jobs that ask for it are told that it cannot be done here. */
  readonly service?: ModelService;
  /** Whether answers are computed just now; training waits for them. Default never. */
  readonly isBusy?: () => boolean;
  readonly observe: (what: { readonly running: number; readonly step: number; readonly outcome?: string }) => void;
}

/** A job that trains here. */
interface Slot {
  readonly job: JobSpec;
  readonly stop: (reason: 'drain') => void;
  /** Nobody else may train beside it: it has a base of its own, or a try of it has died and no checkpoint was made since. */
  isAlone: boolean;
  readonly ended: Promise<void>;
}

/** Tries that ran out of memory are made again with micro-batches of half the size, so often at most. */
const MAX_HALVINGS = 6;
const BUSY_LOOK_MS = 20;

/**
 * Takes fine-tuning jobs from the edge and has them trained by a child process: one job, or several small ones over the same base. Leases are kept alive
 * from here, by a thread that never computes, so training cannot starve them; the child's death never takes the server down. All truth is at the edge:
 * whatever is lost here, a job's lease runs out and it is taken again from its last checkpoint.
 */
export class JobRunner {
  readonly #o: JobRunnerOptions;
  readonly #slots = new Map<string, Slot>();
  /** Tries of a job here that ran out of memory. */
  readonly #memoryFailures = new Map<string, number>();
  /** Of the jobs here whose checkpoints are evaluated. */
  readonly #evaluators = new Map<string, CheckpointEvaluator>();
  #trainer: TrainerProcess | null = null;
  #wake: (() => void) | null = null;
  /** A wake-up came while nobody was waiting for one: a job may have been queued after the last claim. */
  #isWoken = false;
  #draining = false;
  #loop: Promise<void> | null = null;

  constructor(options: JobRunnerOptions) {
    this.#o = options;
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  /** Look for jobs now instead of at the next poll. */
  wake(): void {
    this.#isWoken = true;
    this.#wake?.();
  }

  /** Takes no more jobs; those that run save a checkpoint and are given back. Resolves when nothing runs. */
  async drain(): Promise<void> {
    this.#draining = true;
    for (const slot of this.#slots.values()) slot.stop('drain');
    this.wake();
    await this.#loop;
  }

  async #run(): Promise<void> {
    while (!this.#draining) {
      const request = this.#room();
      const claimed = request === null ? null : await this.#claim(request);
      if (claimed === null) await this.#idle();
      else this.#take(claimed);
    }
    await Promise.all([...this.#slots.values()].map(({ ended }) => ended));
  }

  /** What may be asked for: any job where none runs, else one that can train beside those that do; null where none can. */
  #room(): ClaimRequest | null {
    const { backendId, jobsPerProcess = 4 } = this.#o;
    const running = [...this.#slots.values()];
    const [first] = running;
    if (first === undefined) return { backendId };
    if (running.length >= jobsPerProcess || running.some(({ isAlone }) => isAlone) || this.#trainer?.isOver !== false)
      return null;
    const { baseModel } = first.job;
    const baseDir = this.#o.baseDirOf(baseModel);
    const stages = baseDir === null ? [] : stagesWithRoom(baseDir, process.availableMemory());
    return stages.length === 0 ? null : { backendId, sharing: { baseModel, stages } };
  }

  #take(claimed: ClaimResponse): void {
    const { job } = claimed;
    const stops: ((reason: 'drain') => void)[] = [];
    let isStopped = false;
    const onStop = (stop: (reason: 'drain') => void): void => {
      stops.push(stop);
      if (isStopped) stop('drain');
    };
    const slot: Slot = {
      job,
      isAlone: job.adapter !== null || job.tries > 1 || this.#memoryFailures.has(job.id),
      stop: (reason) => {
        isStopped = true;
        for (const stop of stops) stop(reason);
      },
      // In a later turn, so that the slot is known by then.
      ended: Promise.resolve()
        .then(() => this.#work(claimed, onStop))
        .finally(() => {
          this.#slots.delete(job.id);
          if (this.#slots.size === 0) {
            this.#trainer?.close();
            this.#trainer = null;
          }
          this.#observe(0);
          this.wake();
        }),
    };
    this.#slots.set(job.id, slot);
  }

  #observe(step: number, outcome?: string): void {
    this.#o.observe({ running: this.#slots.size, step, ...(outcome === undefined ? {} : { outcome }) });
  }

  async #idle(): Promise<void> {
    if (this.#isWoken || this.#draining) {
      this.#isWoken = false;
      return;
    }
    const timer = new AbortController();
    await Promise.race([
      sleep(this.#o.pollEveryMs ?? 5_000, undefined, { signal: timer.signal }).catch(() => {}),
      new Promise<void>((resolve) => {
        this.#wake = resolve;
      }),
    ]);
    timer.abort();
    this.#wake = null;
    this.#isWoken = false;
  }

  async #claim(request: ClaimRequest): Promise<ClaimResponse | null> {
    try {
      const answer = await this.#o.edge.post('/internal/jobs/claim', request);
      return answer === null ? null : ClaimResponse.parse(answer);
    } catch (error) {
      this.#o.log.debug({ err: error }, 'could not ask the edge for jobs');
      return null;
    }
  }

  async #work({ job, lease }: ClaimResponse, onStop: (stop: (reason: 'drain') => void) => void): Promise<void> {
    const log = this.#o.log.child({ job: job.id, lease: lease.token });
    log.info(
      {
        base: job.baseModel,
        stages: job.stages.map(({ train }) => train),
        resumeStep: job.resume?.step ?? null,
        beside: this.#slots.size - 1,
      },
      'job claimed',
    );
    const workDir = join(this.#o.dataDir, 'jobs', job.id);
    this.#observe(job.resume?.step ?? 0);
    let outcome: JobOutcome | 'lost';
    try {
      await rm(workDir, { recursive: true, force: true });
      await mkdir(workDir, { recursive: true });
      outcome = await this.#train(job, lease, workDir, log, onStop);
    } catch (error) {
      log.error({ err: error }, 'could not start the trainer');
      outcome = { status: 'released', trainedTokens: null };
    }
    if (outcome !== 'lost') {
      if (outcome.status === 'succeeded' || outcome.status === 'failed') this.#memoryFailures.delete(job.id);
      await this.#finish(job, lease, outcome, log);
    }
    await rm(workDir, { recursive: true, force: true }).catch(() => {});
    this.#observe(0, outcome === 'lost' ? 'lost' : outcome.status);
  }

  /** Has the job trained to its end. Gives what it reported, or what the death of its process means. */
  async #train(
    job: JobSpec,
    lease: Lease,
    workDir: string,
    log: Logger,
    onStop: (stop: (reason: 'drain') => void) => void,
  ): Promise<JobOutcome | 'lost'> {
    const baseDir = this.#o.baseDirOf(job.adapter?.base ?? job.baseModel);
    if (baseDir === null || this.#draining) {
      log.warn(
        `${baseDir === null ? 'this backend lacks the base model' : 'this backend is going down'}; giving the job back`,
      );
      return { status: 'released', trainedTokens: null };
    }
    const trainer = this.#process();
    const evaluator = this.#evaluator(job, workDir);
    const stop = (reason: StopReason): void => {
      evaluator?.stop();
      trainer.stop(job.id, reason);
    };
    const heart = this.#keepLease(job.id, lease, log, {
      onCancel: () => stop('cancel'),
      onPause: () => stop('pause'),
      onLost: () => stop('lost'),
    });
    const training = trainer.train({
      type: 'start',
      job,
      leaseToken: lease.token,
      edgeUrl: this.#o.edge.url,
      secret: this.#o.secret,
      baseDir,
      workDir,
      featureDir: join(this.#o.dataDir, 'training-features'),
      threads: this.#o.threads,
      checkpointStore: this.#o.checkpointStore ?? null,
      microBatchShare: 0.5 ** Math.min(MAX_HALVINGS, this.#memoryFailures.get(job.id) ?? 0),
    });
    onStop(stop);
    // There may be another one that can train beside it.
    this.wake();
    const ended = await training;
    heart.stop();
    this.#evaluators.delete(job.id);
    await evaluator?.close();
    switch (ended.kind) {
      case 'lost':
        return 'lost';
      case 'outcome':
        if (ended.outcome.status === 'released' && ended.outcome.error !== undefined) {
          const { code, message } = ended.outcome.error;
          if (code === 'out_of_memory') this.#countMemoryFailure(job.id);
          await this.#report(job.id, lease, `This try ended early (${code}): ${message}`);
        }
        return ended.outcome;
      case 'died':
        return await this.#died(job, lease, ended.death, log);
    }
  }

  #evaluator(job: JobSpec, workDir: string): CheckpointEvaluator | null {
    const { edge, service } = this.#o;
    const { evaluation } = job;
    if (evaluation === null || service === undefined) return null;
    const evaluator = new CheckpointEvaluator({ jobId: job.id, evaluation, service, edge, workDir });
    this.#evaluators.set(job.id, evaluator);
    return evaluator;
  }

  async #evaluate(jobId: string, model: string): Promise<EvaluationOutcome> {
    try {
      const evaluator = this.#evaluators.get(jobId);
      if (evaluator === undefined) throw new Error('this backend evaluates no checkpoints');
      return await evaluator.evaluate(model);
    } catch (error) {
      return { error: error instanceof Error ? error.message : String(error) };
    }
  }

  /** The next try goes on from the last checkpoint. The edge counts tries without progress, and gives the next one to a process of its own. */
  async #died(job: JobSpec, lease: Lease, death: Death, log: Logger): Promise<JobOutcome> {
    const { code, message, jobs } = death;
    log.error({ code, jobs }, `${message} Giving the job back.`);
    if (code === 'out_of_memory' && jobs === 1) this.#countMemoryFailure(job.id);
    const company = jobs > 1 ? ` ${jobs} jobs trained in it.` : '';
    const smaller = this.#memoryFailures.has(job.id) ? ' The next try here has micro-batches of half the size.' : '';
    await this.#report(
      job.id,
      lease,
      `This try ended early: ${message}${company} The job goes on from its last checkpoint.${smaller}`,
    );
    return { status: 'released', trainedTokens: null, error: { code, message, param: null } };
  }

  #countMemoryFailure(jobId: string): void {
    this.#memoryFailures.set(jobId, (this.#memoryFailures.get(jobId) ?? 0) + 1);
  }

  /** The process that trains; a new one where there is none. */
  #process(): TrainerProcess {
    if (this.#trainer !== null && !this.#trainer.isOver) return this.#trainer;
    const { log, stopGraceMs = 20_000, stallMs = LIMITS.jobs.stallMs, isBusy } = this.#o;
    const trainer = new TrainerProcess(
      { log, stopGraceMs, stallMs },
      {
        onStep: (_jobId, step) => this.#observe(step),
        onEvaluate: (jobId, model) => this.#evaluate(jobId, model),
        onCheckpoint: (jobId) => {
          const slot = this.#slots.get(jobId);
          // What made a checkpoint is not what kills.
          if (slot !== undefined && slot.job.adapter === null && slot.isAlone) {
            slot.isAlone = false;
            this.wake();
          }
        },
      },
    );
    this.#trainer = trainer;
    if (isBusy !== undefined) {
      let told = false;
      const look = setInterval(() => {
        if (trainer.isOver) clearInterval(look);
        else if (isBusy() !== told) {
          told = !told;
          trainer.setBusy(told);
        }
      }, BUSY_LOOK_MS);
      look.unref();
    }
    return trainer;
  }

  /** Renews the lease until stopped; tells when the job was cancelled or the lease is gone. */
  #keepLease(
    jobId: string,
    lease: Lease,
    log: Logger,
    on: { readonly onCancel: () => void; readonly onPause: () => void; readonly onLost: () => void },
  ): { stop: () => void } {
    let expiresAt = lease.expiresAt;
    const beat = async () => {
      try {
        const answer = await this.#o.edge.post(`/internal/jobs/${jobId}/heartbeat`, { token: lease.token });
        const parsed = JobHeartbeatResponse.parse(answer);
        expiresAt = parsed.expiresAt;
        if (parsed.cancel) on.onCancel();
        else if (parsed.pause === true) on.onPause();
      } catch (error) {
        const refused = error instanceof EdgeError && error.status >= 400 && error.status < 500;
        if (!refused && Date.now() < expiresAt) return; // the edge may be restarting; the lease still holds
        log.warn({ err: error }, 'the lease is gone; stopping the trainer');
        clearInterval(timer);
        on.onLost();
      }
    };
    const timer = setInterval(() => void beat(), LIMITS.jobs.heartbeatEveryMs);
    return { stop: () => clearInterval(timer) };
  }

  async #report(jobId: string, lease: Lease, message: string): Promise<void> {
    const event = {
      key: `died-${lease.token}`,
      level: 'warn',
      message,
      type: 'message',
      data: null,
      createdAt: Date.now(),
    };
    await this.#o.edge.post(`/internal/jobs/${jobId}/events`, { token: lease.token, events: [event] }).catch(() => {});
  }

  /** Tells the edge how it ended, until it has heard it or the lease is gone. Idempotent at the edge. */
  async #finish(job: JobSpec, lease: Lease, outcome: JobOutcome, log: Logger): Promise<void> {
    const body: FinishRequest = {
      token: lease.token,
      status: outcome.status,
      trainedTokens: outcome.trainedTokens,
      error: 'error' in outcome ? (outcome.error ?? null) : null,
      finalStep: outcome.status === 'succeeded' ? outcome.finalStep : null,
    };
    for (let attempt = 0; attempt < 20; attempt++) {
      try {
        await this.#o.edge.post(`/internal/jobs/${job.id}/finish`, body);
        log.info({ status: outcome.status }, 'job finished');
        return;
      } catch (error) {
        if (error instanceof EdgeError && error.status >= 400 && error.status < 500) {
          log.warn({ err: error }, 'the edge refused the end of the job');
          return;
        }
        await sleep(Math.min(250 * 2 ** attempt, 3_000));
      }
    }
    log.error('the edge could not be told how the job ended; its lease will run out');
  }
}
