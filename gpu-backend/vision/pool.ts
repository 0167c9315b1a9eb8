import { type ChildProcess, fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { ImageError } from './image-error.ts';
import type { PoolJob, PoolReply } from './pool-worker.ts';
import type { PreprocessedImage } from './preprocess.ts';
import type { ImageRecipe } from './recipes.ts';

export interface DecodePoolOptions {
  /** Child processes; each holds one picture at a time. Default 1. */
  readonly processes?: number;
  /** From the moment a process takes the picture; then it is killed. Default 5,000, three times what the largest legal picture takes. */
  readonly timeoutMs?: number;
  /** A process that grows beyond this is killed (checked every 50 ms, where /proc exists). Default 1 GiB. */
  readonly maxRssBytes?: number;
  /** Pictures that may wait; one more is refused with DecodePoolFullError. Default 256. */
  readonly maxQueued?: number;
}

/** Too many pictures wait already: try again later. */
export class DecodePoolFullError extends Error {
  override readonly name = 'DecodePoolFullError';
}

export interface DecodePoolStats {
  readonly queued: number;
  readonly running: number;
  readonly done: number;
  /** Processes that died or were killed with a picture in hand. */
  readonly lost: number;
}

interface Task {
  readonly job: PoolJob;
  readonly resolve: (image: PreprocessedImage) => void;
  readonly reject: (error: Error) => void;
}

interface Slot {
  child: ChildProcess | null;
  isReady: boolean;
  task: Task | null;
  deadline: NodeJS.Timeout | null;
  watch: NodeJS.Timeout | null;
  /** Why the process is being killed, for the picture it held. */
  verdict: string | null;
}

const RSS_CHECK_EVERY_MS = 50;

/**
 * Decodes and preprocesses in child processes, so that a hostile picture costs at most one of them: a process that takes too
 * long, grows too large or crashes is killed and replaced, and only its picture fails (`image_parse_error`).
 * Processes start at first use and keep neither the event loop nor themselves alive once the parent is gone.
 */
export class DecodePool {
  private readonly slots: Slot[];
  private readonly queue: Task[] = [];
  private readonly timeoutMs: number;
  private readonly maxRssBytes: number;
  private readonly maxQueued: number;
  private isClosed = false;
  private done = 0;
  private lost = 0;

  constructor(options: DecodePoolOptions = {}) {
    this.timeoutMs = options.timeoutMs ?? 5_000;
    this.maxRssBytes = options.maxRssBytes ?? 1 << 30;
    this.maxQueued = options.maxQueued ?? 256;
    this.slots = Array.from({ length: options.processes ?? 1 }, () => ({
      child: null,
      isReady: false,
      task: null,
      deadline: null,
      watch: null,
      verdict: null,
    }));
  }

  /**
   * As `preprocessImage`, elsewhere.
   * @throws ImageError for the picture's faults; DecodePoolFullError; Error once closed
   */
  preprocess(bytes: Uint8Array, recipe: ImageRecipe): Promise<PreprocessedImage> {
    if (this.isClosed) return Promise.reject(new Error('the decode pool was closed'));
    if (this.queue.length >= this.maxQueued) {
      return Promise.reject(
        new DecodePoolFullError(`expected at most ${this.maxQueued} waiting pictures; try again later`),
      );
    }
    return new Promise((resolve, reject) => {
      this.queue.push({ job: { bytes, recipe }, resolve, reject });
      this.dispatch();
    });
  }

  stats(): DecodePoolStats {
    return {
      queued: this.queue.length,
      running: this.slots.filter(({ task }) => task).length,
      done: this.done,
      lost: this.lost,
    };
  }

  /** Kills the processes; pictures in hand and in the queue are rejected. */
  async close(): Promise<void> {
    this.isClosed = true;
    for (const task of this.queue.splice(0)) task.reject(new Error('the decode pool was closed'));
    await Promise.all(
      this.slots.map(({ child }) => {
        if (!child || child.exitCode !== null || child.signalCode !== null) return undefined;
        const gone = new Promise((resolve) => child.once('exit', resolve));
        child.kill('SIGKILL');
        return gone;
      }),
    );
  }

  private dispatch(): void {
    for (const slot of this.slots) {
      if (this.queue.length === 0) return;
      if (slot.task) continue;
      slot.child ??= this.start(slot);
      if (!slot.isReady) continue;
      this.hand(slot, slot.child, this.queue.shift()!);
    }
  }

  private start(slot: Slot): ChildProcess {
    const child = fork(new URL('./pool-worker.ts', import.meta.url), [], {
      serialization: 'advanced',
      execArgv: ['--import', import.meta.resolve('tsx')],
      // A decoder needs no secrets. Fewer malloc arenas: memory goes back to the system after a large picture.
      env: { PATH: process.env.PATH, TMPDIR: process.env.TMPDIR, MALLOC_ARENA_MAX: '2' },
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    child.on('message', (reply: PoolReply) => this.receive(slot, reply));
    child.on('exit', (code, signal) => this.bury(slot, child, signal ?? `exit code ${code}`));
    // Not being able to start is reported by 'exit' in all cases but this one.
    child.on('error', () => this.bury(slot, child, 'a process that could not start'));
    return child;
  }

  private hand(slot: Slot, child: ChildProcess, task: Task): void {
    slot.task = task;
    // Work in hand keeps the parent alive; an idle decoder does not.
    child.ref();
    child.channel?.ref();
    slot.deadline = setTimeout(
      () => this.kill(slot, `one that took more than ${this.timeoutMs} ms to decode`),
      this.timeoutMs,
    );
    slot.watch = setInterval(() => {
      if (residentBytes(child.pid) > this.maxRssBytes)
        this.kill(slot, `one that took more than ${this.maxRssBytes} bytes of memory to decode`);
    }, RSS_CHECK_EVERY_MS);
    child.send(task.job);
  }

  private kill(slot: Slot, verdict: string): void {
    slot.verdict ??= verdict;
    slot.child?.kill('SIGKILL');
  }

  private receive(slot: Slot, reply: PoolReply): void {
    if (reply.kind === 'ready') {
      slot.isReady = true;
      slot.child?.unref();
      slot.child?.channel?.unref();
    } else {
      const task = this.release(slot);
      this.done++;
      if (reply.kind === 'image') task?.resolve(reply.image);
      else if (reply.kind === 'refused') task?.reject(new ImageError(reply.code, reply.facts));
      else task?.reject(new Error(`internal: decoder failed: ${reply.message}`));
      slot.child?.unref();
      slot.child?.channel?.unref();
    }
    this.dispatch();
  }

  private bury(slot: Slot, child: ChildProcess, how: string): void {
    if (slot.child !== child) return;
    const wasReady = slot.isReady;
    slot.child = null;
    slot.isReady = false;
    const received = slot.verdict ?? 'one that the decoder did not survive';
    slot.verdict = null;
    const task = this.release(slot);
    if (task) {
      this.lost++;
      task.reject(
        this.isClosed
          ? new Error('the decode pool was closed')
          : new ImageError('image_parse_error', { expected: 'a picture', received }),
      );
    } else if (!wasReady && !this.isClosed) {
      // Died while starting: nothing would ever take the queue, and starting again at once could go on for ever.
      const orphans = this.slots.some(({ isReady }) => isReady) ? [] : this.queue.splice(0);
      for (const orphan of orphans) orphan.reject(new Error(`internal: the picture decoder did not start (${how})`));
      return;
    }
    if (!this.isClosed) this.dispatch();
  }

  private release(slot: Slot): Task | null {
    if (slot.deadline) clearTimeout(slot.deadline);
    if (slot.watch) clearInterval(slot.watch);
    const { task } = slot;
    slot.task = null;
    return task;
  }
}

/** Resident memory of a process in bytes; 0 where there is no /proc. */
function residentBytes(pid: number | undefined): number {
  try {
    return Number(readFileSync(`/proc/${pid}/statm`, 'latin1').split(' ')[1]) * 4096;
  } catch {
    return 0;
  }
}
