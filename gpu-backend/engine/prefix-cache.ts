import type { KvArena } from './kv/arena.ts';
import { type PrefixCounters, PrefixTree } from './kv/prefix-tree.ts';
import { commonLength } from './kv/prompt-symbols.ts';
import { type Live, symbolsOf } from './live-request.ts';

/**
 * A beginning that is a smaller share of a prompt than this is computed again: a prompt without a past is read by a faster kernel
 * than the rest of one. (Every two prompts of a chat template begin alike.)
 */
const LEAST_SHARE = 1 / 4;

/** Keys and values of prompts and answers that were computed before, put back instead of being computed again. */
export class PrefixCache {
  readonly #tree: PrefixTree;

  /** @param budgetBytes 0 = no reuse */
  constructor(budgetBytes: number) {
    this.#tree = new PrefixTree(budgetBytes);
  }

  get bytes(): number {
    return this.#tree.bytes;
  }

  get counters(): PrefixCounters {
    return this.#tree.counters;
  }

  /**
   * Puts back what is stored of a request behind what its row holds already. At least one position is left to compute, since
   * somebody wants its logits, and all that `readFrom` asks about.
   * @param makeRoom makes the row long enough for so many positions
   * @returns positions put back
   */
  restore(live: Live, arena: KvArena, slot: number, makeRoom: (tokens: number) => void): number {
    const { request, count } = live;
    const limit = Math.min(count, request.readFrom ?? count) - 1;
    if (this.#tree.budgetBytes === 0 || limit <= live.held) return 0;
    const { length, pieces } = this.#tree.lookup(request.cacheScope, symbolsOf(live), limit);
    if (length <= live.held || (live.held === 0 && length < count * LEAST_SHARE)) return 0;
    makeRoom(length);
    let start = 0;
    for (const { span, from, to } of pieces) {
      const end = start + to - from;
      const skipped = Math.max(0, live.held - start);
      if (end > live.held) arena.restore(slot, span, from + skipped, to);
      start = end;
    }
    const restored = length - live.held;
    live.held = length;
    return restored;
  }

  /** Stores what a row holds. */
  store(live: Live, arena: KvArena, slot: number): void {
    if (this.#tree.budgetBytes === 0 || live.held === 0) return;
    const symbols = symbolsOf(live, live.held);
    this.#tree.insert(live.request.cacheScope, symbols, live.held, (from, to) => arena.save(slot, from, to));
  }

  /** Among rows that are reading their prompts, the one that is computing the most of what `live` needs. */
  findSharer(live: Live, prefilling: readonly Live[]): Live['sharing'] {
    if (this.#tree.budgetBytes === 0) return null;
    const mine = symbolsOf(live);
    let best: Live['sharing'] = null;
    for (const other of prefilling) {
      if (other === live || other.request.cacheScope !== live.request.cacheScope) continue;
      const limit = Math.min(other.count, live.count - 1, (live.request.readFrom ?? live.count) - 1);
      const length = commonLength(mine, 0, symbolsOf(other), 0, Math.max(0, limit));
      if (length > Math.max(live.held, best?.length ?? 0)) best = { with: other, length };
    }
    return best;
  }
}
