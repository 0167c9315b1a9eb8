import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import {
  JobHeartbeatResponse,
  type Lease,
  TaskClaim,
  type TaskFinishRequest,
  type TaskSpec,
} from '../../shared/contract/backend.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type EdgeClient, EdgeError } from './edge-client.ts';

/** What a handler of a kind of task works with. */
export interface TaskContext {
  readonly edge: EdgeClient;
  /** Folder of this task alone; removed afterwards. */
  readonly workDir: string;
  readonly threads: number;
  readonly log: Logger;
  /** Aborted when the task was cancelled, its lease is gone or the server goes down: nothing of it is wanted any more. */
  readonly signal: AbortSignal;
  /** Checkpoint folder of a base model, or `null` when this backend does not have it. */
  readonly baseDirOf: (model: string) => string | null;
  /** Name under which this backend is known. */
  readonly backendId: string;
}

/**
 * Does a task of one kind and gives its result, JSON. What it throws gives the task back, to be tried again, here or elsewhere; `TaskFailure` ends it.
 */
export type TaskHandler<Spec extends TaskSpec = TaskSpec> = (
  task: { readonly id: string; readonly tenant: string; readonly spec: Spec; readonly leaseToken: number },
  context: TaskContext,
) => Promise<unknown>;

export type TaskHandlers = { readonly [Kind in TaskSpec['kind']]?: TaskHandler<Extract<TaskSpec, { kind: Kind }>> };

/** The task cannot be done, by anybody. */
export class TaskFailure extends Error {
  override readonly name = 'TaskFailure';
  constructor(
    readonly code: string,
    message: string,
    readonly param: string | null = null,
  ) {
    super(message);
  }
}

export interface TaskRunnerOptions {
  readonly edge: EdgeClient;
  readonly backendId: string;
  readonly log: Logger;
  readonly dataDir: string;
  readonly threads: number;
  readonly baseDirOf: (model: string) => string | null;
  /** Of each kind that it takes. */
  readonly handlers: TaskHandlers;
  /** Without a wake-up the edge is asked this often. Default 5 s. */
  readonly pollEveryMs?: number;
  /** Called when a task begins and ends. */
  readonly observe: (running: number) => void;
}

/**
 * Takes tasks from the edge, one at a time, beside jobs and other runners. As with jobs, all truth is at the edge: whatever is lost here, the lease runs out and the task is
 * done again.
 */
export class TaskRunner {
  readonly #o: TaskRunnerOptions;
  #wake: (() => void) | null = null;
  #isWoken = false;
  #draining = false;
  #current: AbortController | null = null;
  #loop: Promise<void> | null = null;

  constructor(options: TaskRunnerOptions) {
    this.#o = options;
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  wake(): void {
    this.#isWoken = true;
    this.#wake?.();
  }

  /** Gives the running task back and takes no more. */
  async drain(): Promise<void> {
    this.#draining = true;
    this.#current?.abort(new Error('the server goes down'));
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
    if (!this.#isWoken && !this.#draining) {
      const timer = new AbortController();
      await Promise.race([
        sleep(this.#o.pollEveryMs ?? 5_000, undefined, { signal: timer.signal }).catch(() => {}),
        new Promise<void>((resolve) => {
          this.#wake = resolve;
        }),
      ]);
      timer.abort();
      this.#wake = null;
    }
    this.#isWoken = false;
  }

  async #claim(): Promise<TaskClaim | null> {
    try {
      const answer = await this.#o.edge.post('/internal/tasks/claim', {
        backendId: this.#o.backendId,
        kinds: Object.keys(this.#o.handlers),
      });
      return answer === null ? null : TaskClaim.parse(answer);
    } catch (error) {
      this.#o.log.debug({ err: error }, 'could not ask the edge for tasks');
      return null;
    }
  }

  async #work({ id, tenant, spec, lease }: TaskClaim): Promise<void> {
    const log = this.#o.log.child({ task: id, lease: lease.token });
    log.info({ kind: spec.kind, base: spec.baseModel }, 'task claimed');
    const workDir = join(this.#o.dataDir, 'tasks', id);
    const stop = new AbortController();
    this.#current = stop;
    this.#o.observe(1);
    let isLost = false;
    const heart = this.#keepLease(id, lease, log, (reason) => {
      isLost = true;
      stop.abort(reason);
    });
    let end: Omit<TaskFinishRequest, 'token'>;
    try {
      await rm(workDir, { recursive: true, force: true });
      await mkdir(workDir, { recursive: true });
      const { threads, baseDirOf, edge, backendId } = this.#o;
      const context: TaskContext = { edge, workDir, threads, log, signal: stop.signal, baseDirOf, backendId };
      const handler = this.#o.handlers[spec.kind] as TaskHandler | undefined;
      if (handler === undefined) throw new Error(`this backend does no tasks of kind ${spec.kind}`);
      const result = await handler({ id, tenant, spec, leaseToken: lease.token }, context);
      end = { status: 'succeeded', result, error: null };
    } catch (error) {
      if (error instanceof TaskFailure) {
        const { code, message, param } = error;
        end = { status: 'failed', result: null, error: { code, message, param } };
      } else {
        const message = (error instanceof Error ? error.message : String(error)).slice(
          0,
          LIMITS.jobs.maxEventMessageChars,
        );
        if (error instanceof EdgeError && error.code === 'stale_lease') {
          isLost = true;
          log.info('the lease is gone; stopping the task');
        } else if (!stop.signal.aborted) log.error({ err: error }, 'the task broke; giving it back');
        end = { status: 'released', result: null, error: { code: 'task_broke', message, param: null } };
      }
    }
    heart.stop();
    this.#current = null;
    if (!isLost) await this.#finish(id, { token: lease.token, ...end }, log);
    await rm(workDir, { recursive: true, force: true }).catch(() => {});
    this.#o.observe(0);
  }

  #keepLease(id: string, lease: Lease, log: Logger, onLost: (reason: Error) => void): { stop: () => void } {
    let expiresAt = lease.expiresAt;
    const lose = (reason: string) => {
      clearInterval(timer);
      onLost(new Error(reason));
    };
    const beat = async () => {
      try {
        const answer = await this.#o.edge.post(`/internal/tasks/${id}/heartbeat`, { token: lease.token });
        const parsed = JobHeartbeatResponse.parse(answer);
        expiresAt = parsed.expiresAt;
        if (parsed.cancel) lose('the task was cancelled');
      } catch (error) {
        const isRefused = error instanceof EdgeError && error.status >= 400 && error.status < 500;
        if (!isRefused && Date.now() < expiresAt) return;
        log.warn({ err: error }, 'the lease is gone; stopping the task');
        lose('the lease is gone');
      }
    };
    const timer = setInterval(() => void beat(), LIMITS.jobs.heartbeatEveryMs);
    return { stop: () => clearInterval(timer) };
  }

  /** Tells the edge how it ended, until it has heard it or the lease is gone. */
  async #finish(id: string, body: TaskFinishRequest, log: Logger): Promise<void> {
    for (let attempt = 0; attempt < 20; attempt++) {
      try {
        await this.#o.edge.post(`/internal/tasks/${id}/finish`, body);
        log.info({ status: body.status }, 'task finished');
        return;
      } catch (error) {
        if (error instanceof EdgeError && error.status >= 400 && error.status < 500) {
          log.warn({ err: error }, 'the edge refused the end of the task');
          return;
        }
        await sleep(Math.min(250 * 2 ** attempt, 3_000));
      }
    }
    log.error('the edge could not be told how the task ended; its lease will run out');
  }
}
