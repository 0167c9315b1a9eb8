/** How many lines of a batch are under way: as many as the backends take, found by trying. Time comes in as an argument. */
import { LIMITS } from '../../shared/contract/limits.ts';

const B = LIMITS.batches;

export class Window {
  #size: number = B.firstLinesInFlight;
  #refusalsInARow = 0;
  #notBeforeMs = 0;

  /** Lines that may be under way at once; not whole while it grows. */
  get size(): number {
    return this.#size;
  }

  /** Before this time (Unix ms) nothing new is begun. */
  get notBeforeMs(): number {
    return this.#notBeforeMs;
  }

  /** Whether one more may begin. */
  admits(inFlight: number, nowMs: number): boolean {
    return nowMs >= this.#notBeforeMs && inFlight < Math.floor(this.#size);
  }

  /**
   * A line was answered. Those that find a place at once make room for more, one for each until there are as many as at first, then one for a whole window;
   * those that wait in line for long are more than backends take.
   * @param waitedMs in the fleet's line
   */
  answered(waitedMs: number): void {
    this.#refusalsInARow = 0;
    if (waitedMs > B.longWaitMs) this.#size = Math.max(1, this.#size - 1 / this.#size);
    else if (waitedMs <= B.shortWaitMs)
      this.#size = Math.min(B.maxLinesInFlight, this.#size + (this.#size < B.firstLinesInFlight ? 1 : 1 / this.#size));
  }

  /**
   * A line was refused for want of room: what else is under way is what fits. Where nothing else is, nobody has room for batches, and one line asks
   * again after growing pauses.
   * @param others lines under way beside the refused one
   * @param retryAfterMs what the refusal said, if anything
   * @returns when the line may be tried again, Unix ms
   */
  refused(others: number, retryAfterMs: number | null, nowMs: number): number {
    this.#size = Math.max(1, Math.min(this.#size, others));
    const pauseMs = Math.min(B.maxPauseMs, Math.max(B.minPauseMs * 2 ** this.#refusalsInARow, retryAfterMs ?? 0));
    if (others === 0) {
      this.#refusalsInARow++;
      this.#notBeforeMs = nowMs + pauseMs;
    }
    return nowMs + pauseMs;
  }
}
