/** A job among those that train in one process. */
export interface Turn {
  /** Resolves when it is this job's turn to compute one micro-batch. */
  take(): Promise<void>;
  /** The job has ended; the others no longer reckon with it. */
  end(): void;
}

interface Entry {
  /** Processor time taken so far, ms; a job that comes later begins with what those before it have. */
  usedMs: number;
  waiting: (() => void) | undefined;
}

export interface TurnsOptions {
  /** Whether somebody else wants the processor right now. */
  readonly isBusy?: () => boolean;
  /** Longest wait for that, before each micro-batch. Default 1 s. */
  readonly yieldMs?: number;
  readonly now?: () => number;
}

/** How often a waiting process looks whether the machine is free. */
const LOOK_MS = 5;

/**
 * Turns of jobs that train in one thread: a micro-batch blocks it, so whoever computes has it to itself, and between two micro-batches the one that has had
 * least goes next. Nobody holds a turn while it waits for a disk or a network. The order does not change what a job computes.
 */
export class Turns {
  readonly #entries = new Set<Entry>();
  readonly #o: Required<TurnsOptions>;
  #running: { readonly entry: Entry; readonly sinceMs: number } | null = null;
  #isPlanned = false;
  #busySinceMs: number | null = null;

  constructor(options: TurnsOptions = {}) {
    this.#o = { isBusy: () => false, yieldMs: 1_000, now: () => performance.now(), ...options };
  }

  join(): Turn {
    const least = Math.min(...[...this.#entries].map(({ usedMs }) => usedMs));
    const entry: Entry = { usedMs: Number.isFinite(least) ? least : 0, waiting: undefined };
    this.#entries.add(entry);
    return {
      take: () =>
        new Promise((resolve) => {
          entry.waiting = resolve;
          this.#plan();
        }),
      end: () => {
        this.#entries.delete(entry);
        // Somebody may still wait for it to go on to its end.
        entry.waiting?.();
        entry.waiting = undefined;
      },
    };
  }

  #plan(delayMs = 0): void {
    if (this.#isPlanned) return;
    this.#isPlanned = true;
    const next = (): void => {
      this.#isPlanned = false;
      this.#next();
    };
    // In the event loop's own turn: messages and files of the other jobs come in before.
    if (delayMs === 0) setImmediate(next);
    else setTimeout(next, delayMs);
  }

  #next(): void {
    const now = this.#o.now();
    if (this.#running !== null) {
      this.#running.entry.usedMs += now - this.#running.sinceMs;
      this.#running = null;
    }
    const waiting = [...this.#entries].filter((entry) => entry.waiting !== undefined);
    if (waiting.length === 0) return;
    if (this.#o.isBusy()) {
      this.#busySinceMs ??= now;
      if (now - this.#busySinceMs < this.#o.yieldMs) {
        this.#plan(LOOK_MS);
        return;
      }
    }
    this.#busySinceMs = null;
    const entry = waiting.reduce((a, b) => (b.usedMs < a.usedMs ? b : a));
    const resume = entry.waiting;
    entry.waiting = undefined;
    this.#running = { entry, sinceMs: now };
    resume?.();
    // Its micro-batch is computed before the event loop comes to this, which ends what it is charged for.
    this.#plan();
  }
}
