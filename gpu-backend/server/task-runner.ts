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
  /** Aborted when others wait and this task has had its turn: a handler that can go on later stops then and throws `TurnOver`. */
  readonly turn: AbortSignal;
  /** Whether a client has cancelled the task: asked of the edge, which a handler that was refused has not heard it from yet. */
  readonly wasCancelled: () => Promise<boolean>;
  /** Checkpoint folder of a base model, or `null` when this backend does not have it. */
  readonly baseDirOf: (model: string) => string | null;
  /** Name under which this backend is known. */
  readonly backendId: string;
}

/**
 * Does a task of one kind and gives its result, JSON. What it throws gives the task back, to be tried again, here or elsewhere; `TaskFailure` ends it, `TurnOver`
 * has it wait for its next turn.
 */
export type TaskHandler<Spec extends TaskSpec = TaskSpec> = (
  task: {
    readonly id: string;
    readonly tenant: string;
    readonly spec: Spec;
    readonly leaseToken: number;
    /** It has ended so, and only its report is wanted. */
    readonly reportOnly?: TaskClaim['reportOnly'];
  },
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
    /** What there is of a result in spite of it. */
    readonly result: unknown = null,
  ) {
    super(message);
  }
}

/** Others have their turn. What was done is kept. */
export class TurnOver extends Error {
  override readonly name = 'TurnOver';
  constructor() {
    super('the turn is over');
  }
}

const CANCELLED = 'the task was cancelled';

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
  /** Tasks that it works on at once. Default 1. */
  readonly atOnce?: number;
  /** Called when a task begins and ends. */
  readonly observe: (running: number) => void;
}

interface Running {
  readonly stop: AbortController;
  readonly turn: AbortController;
}

/**
 * Takes tasks from the edge, one or a few at a time, beside jobs and other runners. As with jobs, all truth is at the edge: whatever is lost here, the lease runs out and the task is
 * done again.
 */
export class TaskRunner {
  readonly #o: TaskRunnerOptions;
  #wake: (() => void) | null = null;
  #isWoken = false;
  #draining = false;
  readonly #running = new Set<Running>();
  readonly #works = new Set<Promise<void>>();
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
    for (const { stop } of this.#running) stop.abort(new Error('the server goes down'));
    this.wake();
    await this.#loop;
  }

  async #run(): Promise<void> {
    const atOnce = this.#o.atOnce ?? 1;
    while (!this.#draining) {
      const claimed = this.#works.size < atOnce ? await this.#claim() : null;
      if (claimed === null) {
        await this.#idle(this.#works.size >= atOnce);
        continue;
      }
      const work = this.#work(claimed).finally(() => {
        this.#works.delete(work);
        this.wake();
      });
      this.#works.add(work);
    }
    await Promise.all(this.#works);
  }

  /** @param isFull nothing is asked for before a task has ended */
  async #idle(isFull: boolean): Promise<void> {
    if (!this.#isWoken && !this.#draining) {
      const timer = new AbortController();
      await Promise.race([
        ...(isFull ? [] : [sleep(this.#o.pollEveryMs ?? 5_000, undefined, { signal: timer.signal }).catch(() => {})]),
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

  async #work({ id, tenant, spec, lease, reportOnly }: TaskClaim): Promise<void> {
    const log = this.#o.log.child({ task: id, lease: lease.token });
    log.info({ kind: spec.kind, base: spec.baseModel }, 'task claimed');
    const workDir = join(this.#o.dataDir, 'tasks', id);
    const running: Running = { stop: new AbortController(), turn: new AbortController() };
    const { stop, turn } = running;
    this.#running.add(running);
    this.#o.observe(this.#running.size);
    if (this.#draining) stop.abort(new Error('the server goes down'));
    let isLost = false;
    let isCancelled = false;
    const onLost = (reason: string) => {
      isLost = true;
      isCancelled = reason === CANCELLED;
      stop.abort(new Error(reason));
    };
    // What has ended has nothing to keep or to end.
    const heart = reportOnly === undefined ? this.#keepLease(id, lease, log, running, onLost) : null;
    let end: Omit<TaskFinishRequest, 'token'>;
    try {
      await rm(workDir, { recursive: true, force: true });
      await mkdir(workDir, { recursive: true });
      const { threads, baseDirOf, edge, backendId } = this.#o;
      const context: TaskContext = {
        edge,
        workDir,
        threads,
        log,
        signal: stop.signal,
        turn: turn.signal,
        wasCancelled: async () => isCancelled || (await this.#isCancelled(id, lease)),
        baseDirOf,
        backendId,
      };
      const handler = this.#o.handlers[spec.kind] as TaskHandler | undefined;
      if (handler === undefined) throw new Error(`this backend does no tasks of kind ${spec.kind}`);
      const task = { id, tenant, spec, leaseToken: lease.token, ...(reportOnly === undefined ? {} : { reportOnly }) };
      const result = await handler(task, context);
      end = { status: 'succeeded', result, error: null };
    } catch (error) {
      if (error instanceof TaskFailure) {
        const { code, message, param, result } = error;
        end = { status: 'failed', result, error: { code, message, param } };
      } else if (error instanceof TurnOver) end = { status: 'paused', result: null, error: null };
      else {
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
    heart?.stop();
    this.#running.delete(running);
    if (!isLost && reportOnly === undefined) await this.#finish(id, { token: lease.token, ...end }, log);
    await rm(workDir, { recursive: true, force: true }).catch(() => {});
    this.#o.observe(this.#running.size);
  }

  async #isCancelled(id: string, { token }: Lease): Promise<boolean> {
    const answer = await this.#o.edge.post(`/internal/tasks/${id}/heartbeat`, { token }).catch(() => null);
    return answer !== null && JobHeartbeatResponse.parse(answer).cancel;
  }

  #keepLease(
    id: string,
    lease: Lease,
    log: Logger,
    { turn }: Running,
    onLost: (reason: string) => void,
  ): { stop: () => void } {
    let expiresAt = lease.expiresAt;
    const lose = (reason: string) => {
      clearInterval(timer);
      onLost(reason);
    };
    const beat = async () => {
      try {
        const answer = await this.#o.edge.post(`/internal/tasks/${id}/heartbeat`, { token: lease.token });
        const parsed = JobHeartbeatResponse.parse(answer);
        expiresAt = parsed.expiresAt;
        if (parsed.cancel) lose(CANCELLED);
        else if (parsed.othersWait === true && this.#isFull()) turn.abort();
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

  /** One gives its place at a time: the next is asked for when it has. */
  #isFull(): boolean {
    const isGiving = [...this.#running].some(({ turn }) => turn.signal.aborted);
    return !isGiving && this.#running.size >= (this.#o.atOnce ?? 1);
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
