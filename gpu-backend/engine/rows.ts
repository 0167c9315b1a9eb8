import type { KvArena } from './kv/arena.ts';
import { KvPool } from './kv/pool.ts';
import type { KvShape } from './kv/span.ts';
import type { Live } from './live-request.ts';

interface Group {
  /** By slot. */
  readonly rows: Live[];
  /** Slots 0 … decoding-1 decode. */
  decoding: number;
}

/**
 * Which request's keys and values are in which slot. Always true: in each class, slots 0 … decoding-1 hold decoding rows and
 * later slots rows whose prompt is still being read; `live.held` is the length of its row.
 */
export class Rows {
  readonly pool: KvPool;
  readonly #groups = new Map<number, Group>();

  constructor(shape: KvShape, kvTokens: number, stepTokens: number) {
    this.pool = new KvPool(shape, kvTokens, stepTokens, true);
  }

  get count(): number {
    return this.pool.rows;
  }

  /** Rows that decode, by class, in the order of their slots. */
  decoding(): { readonly class: number; readonly rows: readonly Live[] }[] {
    return [...this.#groups]
      .filter(([, { decoding }]) => decoding > 0)
      .sort(([a], [b]) => a - b)
      .map(([index, { rows, decoding }]) => ({ class: index, rows: rows.slice(0, decoding) }));
  }

  prefilling(): Live[] {
    return [...this.#groups.values()].flatMap(({ rows, decoding }) => rows.slice(decoding));
  }

  arena(live: Live): KvArena {
    return this.pool.arena(live.class);
  }

  slot(live: Live): number {
    const slot = this.#group(live.class).rows.indexOf(live);
    if (slot < 0) throw new Error(`internal: ${live.request.id} has no row`);
    return slot;
  }

  has(live: Live): boolean {
    return this.#groups.get(live.class)?.rows.includes(live) === true;
  }

  /** Gives a request an empty row in the arena of class `index`. */
  add(live: Live, index: number): void {
    this.pool.addRow(index);
    live.class = index;
    live.held = 0;
    this.#group(index).rows.push(live);
  }

  /** Its prompt is done: the row moves to the decoding ones. */
  startDecoding(live: Live): void {
    const group = this.#group(live.class);
    this.#swap(live.class, group, this.slot(live), group.decoding);
    group.decoding++;
  }

  /** @param scrub the row may hold numbers that are not finite */
  remove(live: Live, scrub: boolean): void {
    const group = this.#group(live.class);
    let hole = this.slot(live);
    if (hole < group.decoding) {
      // Close the gap among the decoding rows first, so that the row moved into the hole is never a prefilling one.
      group.decoding--;
      this.#swap(live.class, group, hole, group.decoding);
      hole = group.decoding;
    }
    this.pool.arena(live.class).removeRow(hole, scrub);
    const last = group.rows.pop()!;
    if (hole < group.rows.length) group.rows[hole] = last;
    live.held = 0;
  }

  #group(index: number): Group {
    let group = this.#groups.get(index);
    if (group === undefined) {
      group = { rows: [], decoding: 0 };
      this.#groups.set(index, group);
    }
    return group;
  }

  #swap(index: number, group: Group, a: number, b: number): void {
    if (a === b) return;
    this.pool.arena(index).swapRows(a, b);
    const first = group.rows[a]!;
    group.rows[a] = group.rows[b]!;
    group.rows[b] = first;
  }
}
