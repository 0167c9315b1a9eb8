import type { FeatureCache } from './feature-cache.ts';

/** What requests that are on their way or running have in the feature cache, from `hold` to their end. */
export class HeldFeatures {
  readonly #cache: FeatureCache;
  readonly #held = new Map<string, string[]>();
  /** Key → the request that wants a copy once it is computed. */
  readonly #wanted = new Map<string, string>();

  constructor(cache: FeatureCache) {
    this.#cache = cache;
  }

  /** Pins the cached ones among `keys`; gives the indices of the others. */
  hold(request: string, keys: readonly string[]): number[] {
    const pinned: string[] = [];
    const missing: number[] = [];
    for (const [index, key] of keys.entries()) {
      if (this.#cache.acquire(key) === null) missing.push(index);
      else pinned.push(key);
    }
    this.#held.set(request, pinned);
    return missing;
  }

  /** Adds features that were kept elsewhere, pinned for a request that already holds; `want` names those it will compute. */
  restore(
    request: string,
    found: readonly { readonly key: string; readonly features: Float32Array }[],
    want: readonly string[],
  ): void {
    const pinned = this.#held.get(request);
    if (pinned === undefined) throw new Error(`internal: ${request} holds nothing, so nothing can be restored for it`);
    for (const { key, features } of found) {
      this.#cache.restore(key, features);
      pinned.push(key);
    }
    for (const key of want) this.#wanted.set(key, request);
  }

  /** The request that wants a copy of what was just computed, once; `null` = none. */
  takeWanted(key: string): string | null {
    const request = this.#wanted.get(key) ?? null;
    this.#wanted.delete(key);
    return request;
  }

  release(request: string): void {
    for (const key of this.#held.get(request) ?? []) this.#cache.release(key);
    this.#held.delete(request);
    for (const [key, by] of this.#wanted) if (by === request) this.#wanted.delete(key);
  }
}
