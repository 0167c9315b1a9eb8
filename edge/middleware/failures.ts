const WINDOW_MS = 60_000;
const MAX_ADDRESSES = 10_000;

/** Counts what went wrong by client address, in windows of a minute, in this isolate. Time comes in as an argument. */
export class FailureCounter {
  readonly #windows = new Map<string, { startMs: number; failures: number }>();

  /** @param most failures of one address in a window that are answered as what they are */
  constructor(readonly most: number) {}

  /** One more. @returns null, or above the most how long to wait, in ms. @param address null = unknown: not counted */
  count(address: string | null, nowMs: number): number | null {
    if (address === null) return null;
    let window = this.#windows.get(address);
    if (window === undefined || nowMs - window.startMs >= WINDOW_MS) {
      window = { startMs: nowMs, failures: 0 };
      // Whoever came first goes first.
      for (const oldest of this.#windows.keys()) {
        if (this.#windows.size < MAX_ADDRESSES) break;
        this.#windows.delete(oldest);
      }
      this.#windows.delete(address);
      this.#windows.set(address, window);
    }
    window.failures++;
    return window.failures > this.most ? window.startMs + WINDOW_MS - nowMs : null;
  }

  isOver(address: string | null, nowMs: number): boolean {
    const window = address === null ? undefined : this.#windows.get(address);
    return window !== undefined && nowMs - window.startMs < WINDOW_MS && window.failures >= this.most;
  }
}
