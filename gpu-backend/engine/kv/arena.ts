/**
 * Keys and values of running rows, per layer dense planes with the batch outermost (`span.ts` says how they lie): the first B
 * rows are one contiguous view that the runtime reads without a copy, and row k alone is a view for a batch-1 prefill. The
 * graph returns only the keys and values of new tokens; `append` writes them behind the row's own, quantising them on the
 * way when the format is int8.
 *
 * Always true: rows 0 … rows-1 have no hole between them; 0 ≤ length(row) ≤ T; numbers at or beyond length(row) are finite
 * and never attended (the bias of `biasFor` says -1e9 there), and scales there are 0.
 */
import { appendInt8 } from './append-int8.ts';
import { copyKeys, type KeyRun } from './key-tiles.ts';
import {
  allocateSpan,
  copyRuns,
  type FreshKv,
  type KvArray,
  type KvShape,
  type KvSpan,
  keyTileTokens,
  kvBytesPerToken,
  planeLayouts,
  swapBlocks,
} from './span.ts';

/** Attention bias of a position that does not exist: far below any score, yet finite, so that softmax never divides 0 by 0. */
const MASKED = -1e9;
/** T shrinks when the longest row would fit in this share of it; buffers when all rows would. */
const SHRINK_LENGTH_BELOW = 1 / 2;
const SHRINK_BUFFER_BELOW = 1 / 4;
/** Buffers grow by at least this factor, so that rows joining one by one do not copy everything each time. */
const GROWTH = 1.5;

/**
 * One layer's rows first … first+count-1. f32: k, v [count, kvHeads, T, D]. int8: k [count, kvHeads, T / tile, D, tile],
 * v [count, kvHeads, T, D], scales [count, kvHeads, 1, T].
 */
export interface KvLayerView {
  readonly k: KvArray;
  readonly v: KvArray;
  /** `null` for f32. */
  readonly kScale: Float32Array | null;
  readonly vScale: Float32Array | null;
}

export class KvArena {
  readonly shape: KvShape;
  readonly stepTokens: number;
  readonly #layouts: ReturnType<typeof planeLayouts>;
  readonly #bytesPerToken: number;
  /** Rows are moved in multiples of this many positions. */
  readonly #tile: number;
  readonly #spare: () => number;
  /** [layer · planes + plane], each [rows, outer, T, unit] with room for `#positions` ≥ rows · T positions. */
  #planes: KvArray[];
  #positions = 0;
  #capacity: number;
  #lengths: number[] = [];
  #views = new Map<number, readonly KvLayerView[]>();

  /**
   * @param stepTokens T grows in multiples of this: compute follows T and a re-layout costs a copy; 64 is the measured optimum
   * @param spare positions by which buffers may grow ahead of need
   */
  constructor(shape: KvShape, stepTokens = 64, spare: () => number = () => Number.POSITIVE_INFINITY) {
    this.shape = shape;
    this.stepTokens = stepTokens;
    this.#layouts = planeLayouts(shape);
    this.#bytesPerToken = kvBytesPerToken(shape);
    this.#tile = shape.format === 'int8' ? keyTileTokens(shape) : 1;
    if (stepTokens % this.#tile !== 0)
      throw new Error(
        `internal: rows grow by ${stepTokens} tokens, expected a multiple of the ${this.#tile} of a tile of keys.`,
      );
    this.#spare = spare;
    this.#capacity = stepTokens;
    this.#planes = this.#empty();
  }

  /** Rows in use. */
  get rows(): number {
    return this.#lengths.length;
  }

  /** T: positions that every row has. */
  get capacityTokens(): number {
    return this.#capacity;
  }

  /** Bytes of the buffers, room ahead of need included. */
  get bytes(): number {
    return this.#positions * this.#bytesPerToken;
  }

  /** Positions for which there are buffers; rows · T are in use. */
  get positions(): number {
    return this.#positions;
  }

  /** Tokens stored in a row. */
  length(slot: number): number {
    return this.#lengths[this.#checked(slot)]!;
  }

  /** Takes the next slot, empty. */
  addRow(): number {
    const slot = this.rows;
    this.#reserve((slot + 1) * this.#capacity);
    this.#lengths.push(0);
    this.#eachScale((plane, kvHeads) =>
      plane.fill(0, slot * kvHeads * this.#capacity, this.rows * kvHeads * this.#capacity),
    );
    return slot;
  }

  /**
   * Frees a slot by moving the last row into it. Returns the slot that moved (`null` when the freed one was last).
   * @param scrub the row may hold numbers that are not finite (its logits were not): wipe what is left of them, since even
   * a masked NaN is one. Only f32 needs it; an int8 cache has such numbers in its scales only, which are 0 where unused.
   */
  removeRow(slot: number, scrub = false): number | null {
    const last = this.rows - 1;
    this.#checked(slot);
    if (slot !== last) {
      this.#eachPlane((plane, outer, unit) => {
        const size = outer * this.#capacity * unit;
        plane.copyWithin(slot * size, last * size, (last + 1) * size);
      });
      this.#lengths[slot] = this.#lengths[last]!;
    }
    this.#lengths.pop();
    this.#giveBack();
    if (scrub && this.shape.format === 'f32') this.#wipeUnused();
    return slot === last ? null : last;
  }

  /** Exchanges two rows, e.g. to bring a freshly prefilled row next to the decoding ones. */
  swapRows(a: number, b: number): void {
    this.#checked(a);
    this.#checked(b);
    if (a === b) return;
    this.#eachPlane((plane, outer, unit) => {
      const size = outer * this.#capacity * unit;
      swapBlocks(plane, a * size, b * size, size);
    });
    const lengthA = this.#lengths[a]!;
    this.#lengths[a] = this.#lengths[b]!;
    this.#lengths[b] = lengthA;
  }

  /** Makes room for rows of `tokens` positions. */
  ensureCapacity(tokens: number): void {
    if (tokens > this.#capacity) this.#setCapacity(this.#rounded(tokens));
  }

  /** Gives back everything beyond what the rows hold now; `removeRow` does so only when it is much. */
  trim(): void {
    const needed = this.#rounded(this.#longest());
    if (needed < this.#capacity) this.#setCapacity(needed);
    if (this.#positions > this.rows * needed) this.#resize(this.rows * needed);
  }

  /**
   * Stores the keys and values of `tokens` new positions of one row, all layers, taken from `fresh` row `batchRow`,
   * positions 0 … tokens-1.
   */
  append(slot: number, tokens: number, fresh: FreshKv): void {
    const start = this.#room(slot, tokens);
    if (this.shape.format === 'f32') this.#appendF32(slot, start, tokens, fresh);
    else appendInt8(this.#planes, this.shape, this.#capacity, slot, start, tokens, fresh);
    this.#lengths[slot] = start + tokens;
  }

  /** Forgets the last `tokens` positions of a row. */
  truncate(slot: number, tokens: number): void {
    const length = this.length(slot);
    if (tokens < 0 || tokens > length)
      throw new Error(`internal: row ${slot} holds ${length} tokens, so its last ${tokens} cannot be forgotten.`);
    const T = this.#capacity;
    this.#eachScale((plane, kvHeads) => {
      for (let run = slot * kvHeads; run < (slot + 1) * kvHeads; run++)
        plane.fill(0, run * T + length - tokens, run * T + length);
    });
    this.#lengths[slot] = length - tokens;
  }

  /**
   * Zero-copy views of rows first … first+count-1, by layer. The same objects until a layout changes (`addRow`,
   * `removeRow`, `ensureCapacity` and `trim` may), so what is built over them can be kept by their identity.
   */
  views(first: number, count: number): readonly KvLayerView[] {
    const key = first * 0x10000 + count;
    const known = this.#views.get(key);
    if (known !== undefined) return known;
    const planes = this.#layouts.length;
    const view = (layer: number, index: number): KvArray => {
      const { outer, unit } = this.#layouts[index]!;
      const size = outer * this.#capacity * unit;
      return this.#planes[layer * planes + index]!.subarray(first * size, (first + count) * size);
    };
    const scale = (layer: number, index: number) => (planes === 4 ? (view(layer, index) as Float32Array) : null);
    const made = Array.from({ length: this.shape.layers }, (_, layer) => ({
      k: view(layer, 0),
      v: view(layer, 1),
      kScale: scale(layer, 2),
      vScale: scale(layer, 3),
    }));
    this.#views.set(key, made);
    return made;
  }

  /** Additive attention bias [count, 1, 1, T] over past positions: 0 where stored, -1e9 where not. */
  biasFor(first: number, count: number): Float32Array {
    const T = this.#capacity;
    const bias = new Float32Array(count * T);
    for (let row = 0; row < count; row++)
      bias.fill(MASKED, row * T + this.#lengths[this.#checked(first + row)]!, (row + 1) * T);
    return bias;
  }

  /** A compact copy of positions from … to-1 of a row. */
  save(slot: number, from: number, to: number): KvSpan {
    const length = this.length(slot);
    if (from < 0 || from >= to || to > length)
      throw new Error(`internal: row ${slot} holds ${length} tokens; positions ${from} to ${to} cannot be saved.`);
    const span = allocateSpan(this.shape, from, to - from);
    this.#eachPlane((plane, outer, unit, index) => {
      const size = this.#capacity * unit;
      const saved = span.planes[index]!;
      const begin = slot * outer * size;
      if (this.#isTiled(index))
        for (let head = 0; head < outer; head++)
          copyKeys(
            savedKeys(span, saved, head, unit, this.#tile),
            0,
            this.#keys(plane, begin + head * size),
            from,
            span.tokens,
            unit,
            this.#tile,
          );
      else copyRuns(saved, 0, span.tokens * unit, plane, begin + from * unit, size, outer, span.tokens * unit);
    });
    return span;
  }

  /** Appends positions from … to-1 of a saved span to a row. */
  restore(slot: number, span: KvSpan, from: number, to: number): void {
    if (from < 0 || from > to || to > span.tokens || span.planes.length !== this.#planes.length)
      throw new Error(
        `internal: positions ${from} to ${to} were asked of a span with ${span.tokens} tokens and ` +
          `${span.planes.length} planes; the arena has ${this.#planes.length} planes.`,
      );
    const start = this.#room(slot, to - from);
    this.#eachPlane((plane, outer, unit, index) => {
      const size = this.#capacity * unit;
      const saved = span.planes[index]!;
      const begin = slot * outer * size;
      if (this.#isTiled(index))
        for (let head = 0; head < outer; head++)
          copyKeys(
            this.#keys(plane, begin + head * size),
            start,
            savedKeys(span, saved, head, unit, this.#tile),
            from,
            to - from,
            unit,
            this.#tile,
          );
      else
        copyRuns(plane, begin + start * unit, size, saved, from * unit, span.tokens * unit, outer, (to - from) * unit);
    });
    this.#lengths[slot] = start + (to - from);
  }

  #appendF32(slot: number, start: number, tokens: number, fresh: FreshKv): void {
    const { kvHeads, headDim, layers } = this.shape;
    const size = this.#capacity * headDim;
    const stride = fresh.stride * headDim;
    const from = fresh.batchRow * kvHeads * stride;
    const to = slot * kvHeads * size + start * headDim;
    for (let layer = 0; layer < layers; layer++) {
      copyRuns(this.#planes[2 * layer]!, to, size, fresh.keys[layer]!, from, stride, kvHeads, tokens * headDim);
      copyRuns(this.#planes[2 * layer + 1]!, to, size, fresh.values[layer]!, from, stride, kvHeads, tokens * headDim);
    }
  }

  #isTiled(index: number): boolean {
    return this.#tile > 1 && index % this.#layouts.length === 0;
  }

  /** The keys of one head of one row. */
  #keys(array: KvArray, begin: number): KeyRun {
    return { array, begin, tokens: this.#capacity, lead: 0 };
  }

  #checked(slot: number): number {
    if (!(slot >= 0 && slot < this.rows))
      throw new Error(`internal: slot ${slot} is not in use; ${this.rows} rows are.`);
    return slot;
  }

  /** Where the next position of the row goes. */
  #room(slot: number, tokens: number): number {
    const start = this.length(slot);
    if (start + tokens > this.#capacity)
      throw new Error(
        `internal: row ${slot} holds ${start} tokens and was given ${tokens} more; the arena has ${this.#capacity} positions.`,
      );
    return start;
  }

  #rounded(tokens: number): number {
    return Math.max(1, Math.ceil(tokens / this.stepTokens)) * this.stepTokens;
  }

  #longest(): number {
    let longest = 0;
    for (const length of this.#lengths) if (length > longest) longest = length;
    return longest;
  }

  #eachPlane(visit: (plane: KvArray, outer: number, unit: number, index: number) => void): void {
    const count = this.#layouts.length;
    for (let index = 0; index < this.#planes.length; index++) {
      const { outer, unit } = this.#layouts[index % count]!;
      visit(this.#planes[index]!, outer, unit, index);
    }
  }

  #eachScale(visit: (plane: KvArray, kvHeads: number) => void): void {
    if (this.shape.format === 'f32') return;
    for (let layer = 0; layer < this.shape.layers; layer++) {
      visit(this.#planes[4 * layer + 2]!, this.shape.kvHeads);
      visit(this.#planes[4 * layer + 3]!, this.shape.kvHeads);
    }
  }

  /** Zeroes whatever is not a stored position. */
  #wipeUnused(): void {
    this.#eachPlane((plane, outer, unit) => {
      const size = this.#capacity * unit;
      const runs = this.rows * outer;
      for (let run = 0; run < runs; run++)
        plane.fill(0, run * size + this.#lengths[(run / outer) | 0]! * unit, (run + 1) * size);
      plane.fill(0, runs * size);
    });
  }

  #giveBack(): void {
    if (this.rows === 0) {
      this.#planes = this.#empty();
      this.#positions = 0;
      this.#capacity = this.stepTokens;
      this.#views.clear();
      return;
    }
    const needed = this.#rounded(this.#longest());
    if (needed <= this.#capacity * SHRINK_LENGTH_BELOW) this.#setCapacity(needed);
    if (this.rows * this.#capacity <= this.#positions * SHRINK_BUFFER_BELOW) this.#resize(this.rows * this.#capacity);
  }

  /** Makes room for rows · T positions in the buffers. */
  #reserve(positions: number): void {
    if (positions <= this.#positions) return;
    const ahead = Math.min(Math.ceil(this.#positions * GROWTH), this.#positions + this.#spare());
    this.#resize(Math.max(positions, ahead));
  }

  /** New buffers with the same layout. One plane at a time, so that there is never a second copy of everything. */
  #resize(positions: number): void {
    const used = this.rows * this.#capacity;
    const layouts = this.#layouts;
    for (let index = 0; index < this.#planes.length; index++) {
      const { outer, unit, bytesPerNumber } = layouts[index % layouts.length]!;
      const size = positions * outer * unit;
      const next = bytesPerNumber === 4 ? new Float32Array(size) : new Int8Array(size);
      next.set(this.#planes[index]!.subarray(0, used * outer * unit));
      this.#planes[index] = next;
    }
    this.#positions = positions;
    this.#views.clear();
  }

  /** Changes T in place: rows move apart from the last on, or together from the first on. */
  #setCapacity(T: number): void {
    const old = this.#capacity;
    if (T === old) return;
    if (T > old) this.#reserve(this.rows * T);
    this.#eachPlane((plane, outer, unit) => {
      const runs = this.rows * outer;
      for (let step = 0; step < runs; step++) {
        const run = T > old ? runs - 1 - step : step;
        const length = Math.ceil(this.#lengths[(run / outer) | 0]! / this.#tile) * this.#tile * unit;
        const from = run * old * unit;
        const to = run * T * unit;
        if (length > 0) plane.copyWithin(to, from, from + length);
      }
    });
    this.#eachScale((plane, kvHeads) => {
      for (let run = 0; run < this.rows * kvHeads; run++)
        plane.fill(0, run * T + this.#lengths[(run / kvHeads) | 0]!, (run + 1) * T);
    });
    this.#capacity = T;
    this.#views.clear();
  }

  #empty(): KvArray[] {
    return Array.from({ length: this.shape.layers }, () =>
      this.#layouts.map(({ bytesPerNumber }) => (bytesPerNumber === 4 ? new Float32Array(0) : new Int8Array(0))),
    ).flat();
  }
}

function savedKeys(span: KvSpan, array: KvArray, head: number, D: number, tile: number): KeyRun {
  return { array, begin: head * span.tokens * D, tokens: span.tokens, lead: span.start % tile };
}
