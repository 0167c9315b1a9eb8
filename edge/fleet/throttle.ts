/**
 * Refusals that cost nothing. While the fleet refuses for want of room, an isolate refuses a growing share itself, before a body is read or the fleet is
 * asked, so that what is turned away does not take the processor from what is answered ("Handling Overload", Site Reliability Engineering, 2016: the
 * share is (requests - K x accepts) / (requests + 1)). Pure; time and chance come in.
 */
import { LIMITS } from '../../shared/contract/limits.ts';

const F = LIMITS.fleet;

export class Throttle {
  /** Requests that lately wanted room, and those of them that found it: sums that halve every `throttleHalfLifeMs`. What was refused for its content wanted none. */
  #requests = 0;
  #accepts = 0;
  #atMs = 0;
  #retryAfterMs = 1_000;

  /**
   * Counts a request when it comes, not when the fleet has decided: by then as many more have come as a decision takes.
   * @param roll in [0, 1)
   * @returns null to go on, or after how long the client may come back
   */
  refuses(nowMs: number, roll: number): number | null {
    this.#decay(nowMs);
    this.#requests++;
    // Fewer may be a burst that is not decided yet.
    if (this.#requests < F.throttleMinRequests) return null;
    const share = (this.#requests - F.throttleRatio * this.#accepts) / (this.#requests + 1);
    return roll < share ? this.#retryAfterMs : null;
  }

  /** The fleet had room for it, or refused it for another reason than want of room. */
  accepted(nowMs: number): void {
    this.#decay(nowMs);
    this.#accepts++;
  }

  /** The fleet had no room for it. */
  refused(retryAfterMs: number): void {
    this.#retryAfterMs = retryAfterMs;
  }

  /** It was refused for its content, and wanted no room. */
  withdrew(nowMs: number): void {
    this.#decay(nowMs);
    this.#requests = Math.max(0, this.#requests - 1);
  }

  #decay(nowMs: number): void {
    const factor = 0.5 ** (Math.max(0, nowMs - this.#atMs) / F.throttleHalfLifeMs);
    this.#requests *= factor;
    this.#accepts *= factor;
    this.#atMs = nowMs;
  }
}

/** The isolate's. */
export const throttle = new Throttle();
