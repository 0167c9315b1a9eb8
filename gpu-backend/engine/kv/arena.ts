/**
 * Keys and values of running rows, per layer dense planes with the batch outermost (`span.ts` says how they lie): the first B
 * rows are one contiguous view that the runtime reads without a copy, and row k alone is a view for a batch-1 prefill. The
 * graph returns only the keys and values of new tokens; `append` writes them behind the row's own, quantising them on the
 * way when the format is int8.
 *
 * Always true: rows 0 … rows-1 have no hole between them; 0 ≤ length(row) ≤ T; numbers at or beyond length(row) are finite
 * and never attended (the bias of `biasFor` says -1e9 there), and scales there are 0.
 */
import { KvPlanes } from './planes.ts';
import { allocateSpan, type FreshKv, type KvArray, type KvShape, type KvSpan, kvBytesPerToken } from './span.ts';

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
  readonly #bytesPerToken: number;
  readonly #spare: () => number;
  readonly #keepsBuffers: boolean;
  readonly #planes: KvPlanes;
  readonly #lengths: number[] = [];
  readonly #views = new Map<number, readonly KvLayerView[]>();

  /**
   * @param stepTokens T grows in multiples of this: compute follows T and a re-layout costs a copy; 64 is the measured optimum
   * @param spare positions by which buffers may grow ahead of need
   * @param keepsBuffers whether buffers are kept until `trim`: fresh memory costs a page fault for every 4 KiB
   */
  constructor(
    shape: KvShape,
    stepTokens = 64,
    spare: () => number = () => Number.POSITIVE_INFINITY,
    keepsBuffers = false,
  ) {
    this.#keepsBuffers = keepsBuffers;
    this.shape = shape;
    this.stepTokens = stepTokens;
    this.#bytesPerToken = kvBytesPerToken(shape);
    this.#spare = spare;
    this.#planes = new KvPlanes(shape, stepTokens);
    const { tile } = this.#planes;
    if (stepTokens % tile !== 0)
      throw new Error(
        `internal: rows grow by ${stepTokens} tokens, expected a multiple of the ${tile} of a tile of keys.`,
      );
  }

  /** Rows in use. */
  get rows(): number {
    return this.#lengths.length;
  }

  /** T: positions that every row has. */
  get capacityTokens(): number {
    return this.#planes.T;
  }

  /** Bytes of the buffers, room ahead of need included. */
  get bytes(): number {
    return this.positions * this.#bytesPerToken;
  }

  /** Positions for which there are buffers; rows · T are in use. */
  get positions(): number {
    return this.#planes.positions;
  }

  /** Tokens stored in a row. */
  length(slot: number): number {
    return this.#lengths[this.#checked(slot)]!;
  }

  /** Takes the next slot, empty. */
  addRow(): number {
    const slot = this.rows;
    this.#reserve((slot + 1) * this.capacityTokens);
    this.#lengths.push(0);
    this.#planes.clearScales(slot, 0, this.capacityTokens);
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
      this.#planes.copyRow(last, slot);
      this.#lengths[slot] = this.#lengths[last]!;
    }
    this.#lengths.pop();
    this.#giveBack();
    if (scrub && this.shape.format === 'f32') this.#planes.wipeUnused(this.#lengths);
    return slot === last ? null : last;
  }

  /** Exchanges two rows, e.g. to bring a freshly prefilled row next to the decoding ones. */
  swapRows(a: number, b: number): void {
    const lengthA = this.length(a);
    const lengthB = this.length(b);
    if (a === b) return;
    this.#planes.swapRows(a, b);
    this.#lengths[a] = lengthB;
    this.#lengths[b] = lengthA;
  }

  /** Makes room for rows of `tokens` positions. */
  ensureCapacity(tokens: number): void {
    if (tokens > this.capacityTokens) this.#setCapacity(this.#rounded(tokens));
  }

  /** Gives back everything beyond what the rows hold now; `removeRow` does so only when it is much. */
  trim(): void {
    const needed = this.#needed();
    if (needed < this.capacityTokens) this.#setCapacity(needed);
    if (this.positions > this.rows * needed) this.#resize(this.rows * needed);
  }

  /**
   * Stores the keys and values of `tokens` new positions of one row, all layers, taken from `fresh` row `batchRow`,
   * positions 0 … tokens-1.
   */
  append(slot: number, tokens: number, fresh: FreshKv): void {
    const start = this.#room(slot, tokens);
    this.#planes.append(slot, start, tokens, fresh);
    this.#lengths[slot] = start + tokens;
  }

  /** Counts `tokens` new positions that were written into the row's own memory by others. Of an f32 arena only. */
  extend(slot: number, tokens: number): void {
    if (this.shape.format !== 'f32') throw new Error('internal: a quantised row is extended by append alone');
    this.#lengths[slot] = this.#room(slot, tokens) + tokens;
  }

  /** Forgets the last `tokens` positions of a row. */
  truncate(slot: number, tokens: number): void {
    const length = this.length(slot);
    if (tokens < 0 || tokens > length)
      throw new Error(`internal: row ${slot} holds ${length} tokens, so its last ${tokens} cannot be forgotten.`);
    this.#planes.clearScales(slot, length - tokens, length);
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
    const planes = this.#planes;
    const scale = (layer: number, index: number) =>
      planes.perLayer === 4 ? (planes.view(layer, index, first, count) as Float32Array) : null;
    const made = Array.from({ length: this.shape.layers }, (_, layer) => ({
      k: planes.view(layer, 0, first, count),
      v: planes.view(layer, 1, first, count),
      kScale: scale(layer, 2),
      vScale: scale(layer, 3),
    }));
    this.#views.set(key, made);
    return made;
  }

  /** Additive attention bias [count, 1, 1, T] over past positions: 0 where stored, -1e9 where not. */
  biasFor(first: number, count: number): Float32Array {
    const T = this.capacityTokens;
    const bias = new Float32Array(count * T);
    for (let row = 0; row < count; row++) bias.fill(MASKED, row * T + this.length(first + row), (row + 1) * T);
    return bias;
  }

  /** A compact copy of positions from … to-1 of a row. */
  save(slot: number, from: number, to: number): KvSpan {
    const length = this.length(slot);
    if (from < 0 || from >= to || to > length)
      throw new Error(`internal: row ${slot} holds ${length} tokens; positions ${from} to ${to} cannot be saved.`);
    const span = allocateSpan(this.shape, from, to - from);
    this.#planes.save(slot, span);
    return span;
  }

  /** Appends positions from … to-1 of a saved span to a row. Cheapest at the positions that they were saved from. */
  restore(slot: number, span: KvSpan, from: number, to: number): void {
    if (from < 0 || from > to || to > span.tokens || span.planes.length !== this.#planes.count)
      throw new Error(
        `internal: positions ${from} to ${to} were asked of a span with ${span.tokens} tokens and ` +
          `${span.planes.length} planes; the arena has ${this.#planes.count} planes.`,
      );
    const start = this.#room(slot, to - from);
    this.#planes.restore(slot, start, span, from, to);
    this.#lengths[slot] = start + (to - from);
  }

  #checked(slot: number): number {
    if (!(slot >= 0 && slot < this.rows))
      throw new Error(`internal: slot ${slot} is not in use; ${this.rows} rows are.`);
    return slot;
  }

  /** Where the next position of the row goes. */
  #room(slot: number, tokens: number): number {
    const start = this.length(slot);
    if (start + tokens > this.capacityTokens)
      throw new Error(
        `internal: row ${slot} holds ${start} tokens and was given ${tokens} more; the arena has ${this.capacityTokens} positions.`,
      );
    return start;
  }

  #rounded(tokens: number): number {
    return Math.max(1, Math.ceil(tokens / this.stepTokens)) * this.stepTokens;
  }

  /** The T that the longest row needs. */
  #needed(): number {
    let longest = 0;
    for (const length of this.#lengths) if (length > longest) longest = length;
    return this.#rounded(longest);
  }

  #giveBack(): void {
    if (this.rows === 0) {
      if (this.#keepsBuffers) this.#planes.empty(this.stepTokens);
      else this.#planes.release(this.stepTokens);
      this.#views.clear();
      return;
    }
    const needed = this.#needed();
    if (needed <= this.capacityTokens * SHRINK_LENGTH_BELOW) this.#setCapacity(needed);
    const used = this.rows * this.capacityTokens;
    if (!this.#keepsBuffers && used <= this.positions * SHRINK_BUFFER_BELOW) this.#resize(used);
  }

  /** Makes sure of buffers for so many positions. */
  #reserve(positions: number): void {
    if (positions <= this.positions) return;
    const ahead = Math.min(Math.ceil(this.positions * GROWTH), this.positions + this.#spare());
    this.#resize(Math.max(positions, ahead));
  }

  #resize(positions: number): void {
    this.#planes.resize(positions, this.rows);
    this.#views.clear();
  }

  #setCapacity(T: number): void {
    if (T > this.capacityTokens) this.#reserve(this.rows * T);
    this.#planes.setT(T, this.#lengths);
    this.#views.clear();
  }
}
