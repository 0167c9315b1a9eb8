import { type ChildProcess, fork } from 'node:child_process';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Logger } from 'pino';
import {
  ClaimResponse,
  type FinishRequest,
  JobHeartbeatResponse,
  type JobSpec,
  type Lease,
} from '../../shared/contract/backend.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type EdgeClient, EdgeError } from './edge-client.ts';
import type { ChildStart, FromChild, JobOutcome, StopReason, ToChild } from './job-protocol.ts';

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
  /** How long a child may take to stop when told to. Default 20 s; then it is killed. */
  readonly stopGraceMs?: number;
  readonly observe: (what: { readonly running: number; readonly step: number; readonly outcome?: string }) => void;
}

/**
 * Takes fine-tuning jobs from the edge, one at a time, and has each trained by a child process. The lease is kept alive from
 * here, by a thread that never computes, so training cannot starve it; the child's death never takes the server down. All
 * truth is at the edge: whatever is lost here, the job's lease runs out and it is taken again from its last checkpoint.
 */
export class JobRunner {
  readonly #o: JobRunnerOptions;
  #wake: (() => void) | null = null;
  /** A wake-up came while nobody was waiting for one: a job may have been queued after the last claim. */
  #isWoken = false;
  #draining = false;
  #current: { readonly child: ChildProcess; stop: (reason: StopReason) => void } | null = null;
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

  /** Takes no more jobs; the running one saves a checkpoint and is given back. Resolves when nothing runs. */
  async drain(): Promise<void> {
    this.#draining = true;
    this.#current?.stop('drain');
    this.wake();
    await this.#loop;
  }

  async #run(): Promise<void> {
    while (!this.#draining) {
      const claimed = await this.#claim();
      if (claimed === null) await this.#idle();
      else await this.#work(claimed);
    }
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

  async #claim(): Promise<ClaimResponse | null> {
    try {
      const answer = await this.#o.edge.post('/internal/jobs/claim', { backendId: this.#o.backendId });
      return answer === null ? null : ClaimResponse.parse(answer);
    } catch (error) {
      this.#o.log.debug({ err: error }, 'could not ask the edge for jobs');
      return null;
    }
  }

  async #work({ job, lease }: ClaimResponse): Promise<void> {
    const log = this.#o.log.child({ job: job.id, lease: lease.token });
    log.info(
      { base: job.baseModel, stages: job.stages.map(({ train }) => train), resumeStep: job.resume?.step ?? null },
      'job claimed',
    );
    const workDir = join(this.#o.dataDir, 'jobs', job.id);
    this.#o.observe({ running: 1, step: job.resume?.step ?? 0 });
    let outcome: JobOutcome | 'lost';
    try {
      await rm(workDir, { recursive: true, force: true });
      await mkdir(workDir, { recursive: true });
      outcome = await this.#train(job, lease, workDir, log);
    } catch (error) {
      log.error({ err: error }, 'could not start the trainer');
      outcome = { status: 'released', trainedTokens: null };
    }
    this.#current = null;
    if (outcome !== 'lost') await this.#finish(job, lease, outcome, log);
    await rm(workDir, { recursive: true, force: true }).catch(() => {});
    this.#o.observe({ running: 0, step: 0, outcome: outcome === 'lost' ? 'lost' : outcome.status });
  }

  /** Runs the child to its end. Gives what it reported, or what its way of dying means. */
  async #train(job: JobSpec, lease: Lease, workDir: string, log: Logger): Promise<JobOutcome | 'lost'> {
    const baseDir = this.#o.baseDirOf(job.adapter?.base ?? job.baseModel);
    if (baseDir === null || this.#draining) {
      log.warn(
        `${baseDir === null ? 'this backend lacks the base model' : 'this backend is going down'}; giving the job back`,
      );
      return { status: 'released', trainedTokens: null };
    }
    const child = fork(fileURLToPath(new URL('./job-child.ts', import.meta.url)), {
      execArgv: ['--import', import.meta.resolve('tsx')],
      serialization: 'advanced',
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    let outcome: JobOutcome | 'lost' | null = null;
    let crash: string | null = null;
    let lostLease = false;
    let killer: NodeJS.Timeout | undefined;
    const send = (message: ToChild) => {
      if (child.connected) child.send(message);
    };
    const stop = (reason: StopReason) => {
      send({ type: 'stop', reason });
      killer ??= setTimeout(() => {
        log.warn('the trainer did not stop in time; killing it');
        child.kill('SIGKILL');
      }, this.#o.stopGraceMs ?? 20_000);
    };
    this.#current = { child, stop };
    child.on('message', (message: FromChild) => {
      if (message.type === 'progress') this.#o.observe({ running: 1, step: message.step });
      else if (message.type === 'crashed') crash = message.message;
      else outcome = message.type === 'lost' ? 'lost' : message.outcome;
    });
    const start: ChildStart = {
      type: 'start',
      job,
      leaseToken: lease.token,
      edgeUrl: this.#o.edge.url,
      secret: this.#o.secret,
      baseDir,
      workDir,
      threads: this.#o.threads,
    };
    send(start);

    const heart = this.#keepLease(job.id, lease, log, {
      onCancel: () => stop('cancel'),
      onPause: () => stop('pause'),
      onLost: () => {
        lostLease = true;
        child.kill('SIGKILL');
      },
    });
    const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) => {
      child.once('error', (error) => {
        log.error({ err: error }, 'the trainer process failed');
        resolve([1, null]);
      });
      child.once('exit', (exitCode, exitSignal) => {
        // Its last words may still be in the channel; 'disconnect' comes after them.
        if (!child.connected) resolve([exitCode, exitSignal]);
        else child.once('disconnect', () => resolve([exitCode, exitSignal]));
      });
    });
    heart.stop();
    clearTimeout(killer);
    if (lostLease) return 'lost';
    if (outcome !== null) return outcome;
    // Killed, out of memory, or a crash: the next try goes on from the last checkpoint. The edge counts tries without progress.
    const reason = crash ?? `the trainer process died (${signal ?? `exit code ${code}`})`;
    log.error({ exitCode: code, signal, reason }, 'the trainer failed; giving the job back');
    await this.#report(job.id, lease, `This try ended early: ${reason}. The job goes on from its last checkpoint.`);
    return { status: 'released', trainedTokens: null };
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
      error: outcome.status === 'failed' ? outcome.error : null,
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
