import { availableParallelism } from 'node:os';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { DecodeReply } from './decode-frames.ts';
import { DecodeProcess } from './decode-process.ts';
import { estimateDecodeBytes } from './header.ts';
import { ImageError } from './image-error.ts';
import { normaliseRgb, type PreprocessedImage } from './preprocess.ts';
import type { ImageRecipe } from './recipes.ts';

const L = LIMITS.decode;

export interface DecodePoolOptions {
  /** Child processes; each holds one picture at a time. Default 2, or 1 on a machine with one core. */
  readonly processes?: number;
  /** From the moment a process takes the picture; then it is killed. */
  readonly timeoutMs?: number;
  /** What all pictures in hand may take by their estimates, bytes. Default 1 GiB. */
  readonly budgetBytes?: number;
  /** A process that grows beyond this is killed (checked every 25 ms, where /proc exists), however large its picture. Default 1 GiB. */
  readonly maxRssBytes?: number;
  /** Pictures that may wait; one more is refused with DecodePoolFullError. */
  readonly maxQueued?: number;
  /** Pictures after which a process is replaced. */
  readonly maxPictures?: number;
}

/** Too many pictures wait already: try again later. */
export class DecodePoolFullError extends Error {
  override readonly name = 'DecodePoolFullError';
}

/** Pictures and processes, by what became of them, since the start. */
export interface DecodePoolStats {
  readonly queued: number;
  readonly running: number;
  /** Estimated memory of the pictures in hand, bytes. */
  readonly heldBytes: number;
  readonly done: number;
  /** Pictures refused because they took too long or too much memory, or because no process survived them. */
  readonly timedOut: number;
  readonly tooLarge: number;
  readonly crashed: number;
  /** Processes started, the first ones included, and those that can take a picture or have one. */
  readonly started: number;
  readonly ready: number;
}

interface Task {
  readonly bytes: Uint8Array;
  readonly recipe: ImageRecipe;
  readonly estimate: number;
  /** Processes that died under it. */
  deaths: number;
  readonly resolve: (image: PreprocessedImage) => void;
  readonly reject: (error: Error) => void;
}

interface Slot {
  process: DecodeProcess | null;
  isReady: boolean;
  task: Task | null;
  /** Since the process started. */
  pictures: number;
  idleBytes: number;
  deadline: NodeJS.Timeout | null;
  watch: NodeJS.Timeout | null;
  /** Why the process is being killed, for the picture it held. */
  verdict: 'timedOut' | 'tooLarge' | null;
}

const RSS_CHECK_EVERY_MS = 25;
const MAX_FALSE_STARTS = 4;
const FALSE_START_PAUSE_MS = 50;
const MIB = 2 ** 20;

/**
 * Decodes and preprocesses in child processes, so that a hostile picture costs at most one of them: a process that takes too
 * long, grows too large or crashes is killed and replaced, and only its picture fails (`image_parse_error`). A picture whose
 * process was killed from outside gets one more.
 *
 * Pictures are admitted by the memory their headers say they will take, first come first served, except that what fits may pass
 * what does not, and that heavy pictures leave one of several processes to the others.
 */
export class DecodePool {
  private readonly slots: Slot[];
  private readonly queue: Task[] = [];
  private readonly timeoutMs: number;
  private readonly budgetBytes: number;
  private readonly maxRssBytes: number;
  private readonly maxQueued: number;
  private readonly maxPictures: number;
  private readonly counts = { done: 0, timedOut: 0, tooLarge: 0, crashed: 0, started: 0 };
  private isClosed = false;
  private isWarm = false;
  /** Processes in a row that died before they were ready. */
  private falseStarts = 0;
  private restart: NodeJS.Timeout | null = null;

  constructor(options: DecodePoolOptions = {}) {
    this.timeoutMs = options.timeoutMs ?? L.timeoutMs;
    this.budgetBytes = options.budgetBytes ?? 1024 * MIB;
    this.maxRssBytes = options.maxRssBytes ?? 1024 * MIB;
    this.maxQueued = options.maxQueued ?? L.maxQueued;
    this.maxPictures = options.maxPictures ?? L.maxPictures;
    this.slots = Array.from({ length: options.processes ?? Math.min(2, availableParallelism()) }, () => ({
      process: null,
      isReady: false,
      task: null,
      pictures: 0,
      idleBytes: 0,
      deadline: null,
      watch: null,
      verdict: null,
    }));
  }

  /** Starts the processes before the first picture comes, one after the other, and from now on each again as soon as it ends. */
  warm(): void {
    this.isWarm = true;
    this.startNext();
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
    const estimate = estimateDecodeBytes(bytes);
    if (estimate > this.budgetBytes) {
      return Promise.reject(
        new ImageError('image_too_large', {
          expected: `a picture that takes at most ${Math.floor(this.budgetBytes / MIB)} MiB to decode`,
          received: `one that takes about ${Math.ceil(estimate / MIB)} MiB`,
          remedy: 'Scale it down, or save it without progressive scans.',
        }),
      );
    }
    return new Promise((resolve, reject) => {
      this.queue.push({ bytes, recipe, estimate, deaths: 0, resolve, reject });
      this.dispatch();
    });
  }

  stats(): DecodePoolStats {
    const running = this.slots.filter(({ task }) => task !== null);
    const ready = this.slots.filter(({ isReady }) => isReady).length;
    return { queued: this.queue.length, running: running.length, heldBytes: this.heldBytes(), ...this.counts, ready };
  }

  /** Resident memory of all its processes, bytes; 0 where there is no /proc. */
  residentBytes(): number {
    return this.slots.reduce((sum, slot) => sum + (slot.process?.residentBytes() ?? 0), 0);
  }

  /** Of its processes, for those who watch them. */
  processIds(): number[] {
    return this.slots.flatMap(({ process }) => process?.pid ?? []);
  }

  /** Kills the processes; pictures in hand and in the queue are rejected. */
  async close(): Promise<void> {
    this.isClosed = true;
    if (this.restart !== null) clearTimeout(this.restart);
    for (const task of this.queue.splice(0)) task.reject(new Error('the decode pool was closed'));
    await Promise.all(this.slots.map((slot) => slot.process?.kill()));
  }

  private heldBytes(): number {
    return this.slots.reduce((sum, { task }) => sum + (task?.estimate ?? 0), 0);
  }

  private dispatch(): void {
    for (const slot of this.slots) {
      if (slot.task !== null || slot.process === null || !slot.isReady) continue;
      const next = this.queue.findIndex((task) => this.fits(task));
      if (next < 0) break;
      this.hand(slot, slot.process, this.queue.splice(next, 1)[0]!);
    }
    let starting = this.slots.filter(({ process, isReady }) => process !== null && !isReady).length;
    for (const slot of this.slots) {
      if (slot.process !== null || starting >= this.queue.length || this.restart !== null) continue;
      this.startIn(slot);
      starting++;
    }
    // Work keeps the parent alive; idle decoders do not.
    const hasWork = this.queue.length > 0 || this.slots.some(({ task }) => task !== null);
    for (const { process } of this.slots) process?.hold(hasWork);
  }

  /** Whether the picture may be decoded beside those in hand. */
  private fits({ estimate }: Task): boolean {
    if (this.heldBytes() + estimate > this.budgetBytes) return false;
    if (estimate <= L.heavyBytes || this.slots.length === 1) return true;
    const heavy = this.slots.filter(({ task }) => task !== null && task.estimate > L.heavyBytes);
    return heavy.length < this.slots.length - 1;
  }

  /** Keeps a warm pool full; one at a time, since starting takes a core for a while. */
  private startNext(): void {
    if (
      !this.isWarm ||
      this.restart !== null ||
      this.slots.some(({ process, isReady }) => process !== null && !isReady)
    )
      return;
    const empty = this.slots.find(({ process }) => process === null);
    if (empty !== undefined) this.startIn(empty);
  }

  private startIn(slot: Slot): void {
    if (slot.process !== null || this.isClosed) return;
    this.counts.started++;
    slot.isReady = false;
    slot.pictures = 0;
    try {
      const process: DecodeProcess = new DecodeProcess({
        onReply: (reply, body) => this.receive(slot, process, reply, body),
        onExit: (how) => this.bury(slot, process, how),
      });
      process.hold(false);
      slot.process = process;
    } catch (error) {
      // Out of memory or processes.
      this.noteFalseStart(error instanceof Error ? error.message : String(error));
    }
  }

  /**
   * A process died before it was ready, or did not come to be: tried again with growing pauses, then given up until the next
   * picture. Nothing would ever take the queue, so that it is told.
   */
  private noteFalseStart(how: string): void {
    this.falseStarts++;
    if (this.falseStarts < MAX_FALSE_STARTS) {
      this.restart ??= setTimeout(
        () => {
          this.restart = null;
          this.dispatch();
          this.startNext();
        },
        FALSE_START_PAUSE_MS * 2 ** this.falseStarts,
      );
      return;
    }
    this.falseStarts = 0;
    const orphans = this.slots.some(({ isReady }) => isReady) ? [] : this.queue.splice(0);
    for (const orphan of orphans) orphan.reject(new Error(`internal: the picture decoder did not start (${how})`));
  }

  private hand(slot: Slot, process: DecodeProcess, task: Task): void {
    slot.task = task;
    // From what it holds now, which may be more than at its start: the next picture is not to pay for the last.
    const maxBytes = Math.min(this.maxRssBytes, process.residentBytes() + 2 * task.estimate + L.slackBytes);
    // After what has already come from the pipe: an event loop that was held up must not kill a process that had answered.
    slot.deadline = setTimeout(
      () => setImmediate(() => slot.task === task && this.kill(slot, 'timedOut')),
      this.timeoutMs,
    );
    slot.watch = setInterval(() => {
      if (process.residentBytes() > maxBytes) this.kill(slot, 'tooLarge');
    }, RSS_CHECK_EVERY_MS);
    process.send(task.bytes, task.recipe);
  }

  private kill(slot: Slot, verdict: NonNullable<Slot['verdict']>): void {
    slot.verdict ??= verdict;
    void slot.process?.kill();
  }

  private receive(slot: Slot, process: DecodeProcess, reply: DecodeReply, body: Uint8Array<ArrayBuffer>): void {
    if (slot.process !== process) return;
    slot.isReady = true;
    this.falseStarts = 0;
    const task = this.release(slot);
    if (reply.kind === 'ready') slot.idleBytes = process.residentBytes();
    else {
      slot.pictures++;
      this.counts.done++;
      // Its verdict came too late: the picture is through.
      slot.verdict = null;
      this.replaceWhereGrown(slot, process);
    }
    this.dispatch();
    this.startNext();
    if (task !== null) settle(task, reply, body);
  }

  /** Memory that codecs lost, one way or the other, goes back with the process. */
  private replaceWhereGrown(slot: Slot, process: DecodeProcess): void {
    const growth = process.residentBytes() - slot.idleBytes;
    if (slot.pictures < this.maxPictures && growth <= L.maxGrowthBytes) return;
    slot.process = null;
    slot.isReady = false;
    void process.kill();
    this.startNext();
  }

  private bury(slot: Slot, process: DecodeProcess, how: string): void {
    if (slot.process !== process) return;
    const wasReady = slot.isReady;
    const { verdict } = slot;
    slot.process = null;
    slot.isReady = false;
    slot.verdict = null;
    const task = this.release(slot);
    if (this.isClosed) task?.reject(new Error('the decode pool was closed'));
    else if (task !== null) this.mourn(task, verdict);
    else if (!wasReady) {
      this.noteFalseStart(how);
      return;
    }
    if (!this.isClosed) this.dispatch();
    this.startNext();
  }

  /** What becomes of a picture whose process died. */
  private mourn(task: Task, verdict: Slot['verdict']): void {
    task.deaths++;
    if (verdict === null && task.deaths < 2) {
      this.queue.unshift(task);
      return;
    }
    this.counts[verdict ?? 'crashed']++;
    const received =
      verdict === 'timedOut'
        ? `one that took more than ${this.timeoutMs} ms to decode`
        : verdict === 'tooLarge'
          ? 'one that took more memory to decode than its header says'
          : 'one that the decoder did not survive';
    task.reject(new ImageError('image_parse_error', { expected: 'a picture', received }));
  }

  private release(slot: Slot): Task | null {
    if (slot.deadline) clearTimeout(slot.deadline);
    if (slot.watch) clearInterval(slot.watch);
    const { task } = slot;
    slot.task = null;
    return task;
  }
}

function settle(task: Task, reply: DecodeReply, body: Uint8Array<ArrayBuffer>): void {
  if (reply.kind === 'image') {
    const { width, height, digest } = reply;
    const pixels_CHW = normaliseRgb({ width, height, pixels_HWC: body }, task.recipe);
    task.resolve({ pixels_CHW, width, height, digest });
  } else if (reply.kind === 'refused') task.reject(new ImageError(reply.code, reply.facts));
  else if (reply.kind === 'failed') task.reject(new Error(`internal: decoder failed: ${reply.message}`));
}
