/**
 * A sliding window over amounts, exact at both ends within one hundredth of the limit. A fixed window would let twice the limit through around its
 * edge, and so would a token bucket that holds a window's worth; a plain log of all events would be as long as the limit is large.
 *
 * Neighbouring events share an entry while together they are at most 1 % of the limit, and an entry expires with its oldest event. So
 * - whoever stays within the limit in every window is never refused: what is counted is a part of the last window,
 * - at most 1 % more than the limit gets through in any window: only the entry at the window's edge may be forgotten too early,
 * - there are at most about 200 entries, since two neighbours are together more than 1 % of the limit.
 */
export class SlidingWindow {
  readonly #windowMs: number;
  #entries: { firstMs: number; amount: number }[] = [];
  #used = 0;
  #nowMs = 0;

  constructor(windowMs: number) {
    this.#windowMs = windowMs;
  }

  /** What was added within the last window. Time that runs backwards stands still. */
  used(nowMs: number): number {
    this.#nowMs = Math.max(this.#nowMs, nowMs);
    let gone = 0;
    for (const { firstMs, amount } of this.#entries) {
      if (firstMs + this.#windowMs > this.#nowMs) break;
      this.#used -= amount;
      gone++;
    }
    if (gone > 0) this.#entries.splice(0, gone);
    return this.#used;
  }

  /** Milliseconds until `amount` fits under `limit`: 0 when it does now, null when it never will. */
  waitMs(amount: number, limit: number, nowMs: number): number | null {
    if (amount > limit) return null;
    let left = this.used(nowMs) + amount - limit;
    if (left <= 0) return 0;
    for (const entry of this.#entries) {
      left -= entry.amount;
      if (left <= 0) return entry.firstMs + this.#windowMs - this.#nowMs;
    }
    return 0;
  }

  add(amount: number, limit: number, nowMs: number): void {
    if (amount <= 0) return;
    this.used(nowMs);
    this.#used += amount;
    const last = this.#entries.at(-1);
    if (last !== undefined && last.amount + amount <= limit / 100) {
      last.amount += amount;
    } else {
      this.#entries.push({ firstMs: this.#nowMs, amount });
    }
  }

  /** Milliseconds until nothing is counted any more, if nothing is added. */
  resetMs(nowMs: number): number {
    this.used(nowMs);
    const last = this.#entries.at(-1);
    return last === undefined ? 0 : last.firstMs + this.#windowMs - this.#nowMs;
  }

  /** Entries kept, which is bounded. */
  get size(): number {
    return this.#entries.length;
  }
}
