/** Who may ask how much: the limits of one tenant's API keys, as pure state with the clock as an argument. */
import type { KeyLimits } from '../../shared/contract/keys.ts';
import { SlidingWindow } from './window.ts';

/** What one request takes from the limits of its key; minutes are sliding windows, image tokens decoder positions of pictures, bytes those of bodies. */
export type Cost = {
  readonly requests: number;
  readonly images: number;
  readonly imageTokens: number;
  readonly bytes: number;
};

type Minute = {
  readonly name: Exclude<keyof KeyLimits, 'concurrent'>;
  readonly cost: keyof Cost;
  /** Last part of the `x-ratelimit-…` headers; OpenAI's where it has one. */
  readonly header: 'requests' | 'tokens' | 'images' | null;
  readonly words: string;
};

/** In the order of the headers. */
export const MINUTES: readonly Minute[] = [
  { name: 'requestsPerMinute', cost: 'requests', header: 'requests', words: 'requests per minute' },
  { name: 'imageTokensPerMinute', cost: 'imageTokens', header: 'tokens', words: 'image tokens per minute' },
  { name: 'imagesPerMinute', cost: 'images', header: 'images', words: 'images per minute' },
  { name: 'bytesPerMinute', cost: 'bytes', header: null, words: 'bytes of request bodies per minute' },
];

/** How one limit stands after a decision. */
export type Standing = { readonly name: Minute['name']; limit: number; remaining: number; resetMs: number };

/** The limit that holds a request back longest. */
export type Refusal = {
  readonly name: keyof KeyLimits;
  readonly limit: number;
  /** What is left of it now. */
  readonly left: number;
  readonly asked: number;
  /** Null: more than the limit at once, so it never fits. */
  readonly waitMs: number | null;
};

export type Decision = { readonly refusal: Refusal | null; readonly standings: Standing[] };

/** `id` names the slot of a request that counts as running until it is released or its lease ends. */
export type Slot = { readonly id: string; readonly leaseMs: number };

type KeyState = { windows: Map<Minute['name'], SlidingWindow>; slots: Map<string, number>; touchedMs: number };

export type LimiterOptions = {
  readonly windowMs: number;
  /** What is told about a full house; when a slot will be free is not known. */
  readonly concurrentRetryMs: number;
};

/** The state of one tenant. All or nothing: a refused request takes nothing from any limit. */
export class LimiterState {
  readonly #keys = new Map<string, KeyState>();

  constructor(readonly options: LimiterOptions) {}

  /**
   * @param slot where concurrency is limited: what is taken if the request is admitted.
   * @param force charges without asking: for a request that has been answered already.
   */
  admit(
    keyId: string,
    limits: KeyLimits,
    cost: Cost,
    nowMs: number,
    { slot = null, force = false }: { slot?: Slot | null; force?: boolean } = {},
  ): Decision {
    const state = this.#stateOf(keyId, nowMs);
    const refusal = force ? null : this.#refusal(state, limits, cost, slot, nowMs);
    const standings: Standing[] = [];
    for (const { name, cost: kind } of MINUTES) {
      const limit = limits[name];
      if (limit === null) continue;
      const window = this.#window(state, name);
      if (refusal === null) window.add(cost[kind], limit, nowMs);
      const remaining = Math.max(0, limit - window.used(nowMs));
      standings.push({ name, limit, remaining, resetMs: window.resetMs(nowMs) });
    }
    if (refusal === null && slot !== null) state.slots.set(slot.id, nowMs + slot.leaseMs);
    return { refusal, standings };
  }

  #refusal(state: KeyState, limits: KeyLimits, cost: Cost, slot: Slot | null, nowMs: number): Refusal | null {
    let worst: Refusal | null = null;
    const longer = (a: number | null, b: number | null) => b !== null && (a === null || a > b);
    for (const { name, cost: kind } of MINUTES) {
      const limit = limits[name];
      if (limit === null) continue;
      const window = this.#window(state, name);
      const waitMs = window.waitMs(cost[kind], limit, nowMs);
      if (waitMs === 0 || (worst !== null && !longer(waitMs, worst.waitMs))) continue;
      worst = { name, limit, left: Math.max(0, limit - window.used(nowMs)), asked: cost[kind], waitMs };
    }
    if (slot === null || limits.concurrent === null) return worst;
    for (const [id, untilMs] of state.slots) if (untilMs <= nowMs) state.slots.delete(id);
    if (state.slots.size < limits.concurrent) return worst;
    const waitMs = limits.concurrent === 0 ? null : this.options.concurrentRetryMs;
    if (worst !== null && !longer(waitMs, worst.waitMs)) return worst;
    return { name: 'concurrent', limit: limits.concurrent, left: 0, asked: 1, waitMs };
  }

  /** The end of a request. A slot that is not known any more is no error: its lease had ended. */
  release(keyId: string, slotId: string): void {
    this.#keys.get(keyId)?.slots.delete(slotId);
  }

  /** A request goes on. A slot whose lease had ended is taken anew: the request runs, whatever was thought of it. */
  renew(keyId: string, slot: Slot, nowMs: number): void {
    this.#stateOf(keyId, nowMs).slots.set(slot.id, nowMs + slot.leaseMs);
  }

  #window(state: KeyState, name: Minute['name']): SlidingWindow {
    let window = state.windows.get(name);
    if (window === undefined) {
      window = new SlidingWindow(this.options.windowMs);
      state.windows.set(name, window);
    }
    return window;
  }

  #stateOf(keyId: string, nowMs: number): KeyState {
    let state = this.#keys.get(keyId);
    if (state === undefined) {
      this.#forgetIdle(nowMs);
      state = { windows: new Map(), slots: new Map(), touchedMs: nowMs };
      this.#keys.set(keyId, state);
    }
    state.touchedMs = nowMs;
    return state;
  }

  /** Keys that nothing is remembered of. Looked for when a new one comes, so that revoked keys do not pile up. */
  #forgetIdle(nowMs: number): void {
    for (const [id, { slots, touchedMs }] of this.#keys) {
      const isLive = [...slots.values()].some((untilMs) => untilMs > nowMs);
      if (!isLive && touchedMs + this.options.windowMs <= nowMs) this.#keys.delete(id);
    }
  }

  /** Keys remembered. */
  get size(): number {
    return this.#keys.size;
  }
}
