/**
 * Keys and values of all running rows, per layer two dense arrays [slot, kvHead, T, headDim]. The batch is the outermost
 * dimension, so the first B slots are one contiguous view that the runtime reads without a copy, and slot k alone is a view
 * for a batch-1 prefill. The graph returns only the keys and values of new tokens; `append` writes them behind the row's own.
 *
 * Always true: slots 0 … rows-1 are in use, with no hole between them; 0 ≤ length[slot] ≤ T; values at or beyond
 * length[slot] are never attended (the bias of `biasFor` says -1e9 there).
 */
export interface KvShape {
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Attention bias of a position that does not exist: far below any score, yet finite, so that softmax never divides 0 by 0. */
const MASKED = -1e9;

export class KvArena {
  readonly shape: KvShape;
  readonly stepTokens: number;
  /** Per layer [slots, kvHeads, T, headDim]. */
  #keys: Float32Array[];
  #values: Float32Array[];
  #slots = 0;
  #capacity: number;
  #lengths: number[] = [];

  /** `stepTokens`: T grows in multiples of this (compute follows T, re-layout costs a copy; 64 is the measured optimum). */
  constructor(shape: KvShape, stepTokens: number) {
    this.shape = shape;
    this.stepTokens = stepTokens;
    this.#capacity = stepTokens;
    this.#keys = Array.from({ length: shape.layers }, () => new Float32Array(0));
    this.#values = Array.from({ length: shape.layers }, () => new Float32Array(0));
  }

  /** Rows in use. */
  get rows(): number {
    return this.#lengths.length;
  }

  /** T: positions that every slot has. */
  get capacityTokens(): number {
    return this.#capacity;
  }

  get bytes(): number {
    return 2 * this.shape.layers * this.#slots * this.#slotFloats() * 4;
  }

  /** Tokens stored in a row. */
  length(slot: number): number {
    return this.#lengths[slot]!;
  }

  /** Takes the next slot, empty. */
  addRow(): number {
    const slot = this.#lengths.length;
    if (slot === this.#slots) this.#relayout(Math.max(slot + 1, Math.ceil(slot * 1.5)), this.#capacity);
    this.#lengths.push(0);
    return slot;
  }

  /** Frees a slot by moving the last row into it. Returns the slot that moved (`null` when the freed one was last). */
  removeRow(slot: number): number | null {
    const last = this.rows - 1;
    if (slot < 0 || slot > last) throw new Error(`internal: slot ${slot} is not in use; ${this.rows} rows are.`);
    if (slot !== last) {
      this.#copyRow(last, slot);
      this.#lengths[slot] = this.#lengths[last]!;
    }
    this.#lengths.pop();
    if (this.rows === 0) {
      // Nothing to keep: give the memory back to small loads after a large one.
      this.#slots = 0;
      this.#capacity = this.stepTokens;
      this.#keys = this.#keys.map(() => new Float32Array(0));
      this.#values = this.#values.map(() => new Float32Array(0));
    }
    return slot === last ? null : last;
  }

  /** Exchanges two rows, e.g. to bring a freshly prefilled row next to the decoding ones. */
  swapRows(a: number, b: number): void {
    if (a === b) return;
    const floats = this.#slotFloats();
    for (const layer of [...this.#keys, ...this.#values]) {
      const first = layer.slice(a * floats, (a + 1) * floats);
      layer.copyWithin(a * floats, b * floats, (b + 1) * floats);
      layer.set(first, b * floats);
    }
    const lengthA = this.#lengths[a]!;
    this.#lengths[a] = this.#lengths[b]!;
    this.#lengths[b] = lengthA;
  }

  /** Makes room for rows of `tokens` positions. */
  ensureCapacity(tokens: number): void {
    if (tokens <= this.#capacity) return;
    this.#relayout(this.#slots, Math.ceil(tokens / this.stepTokens) * this.stepTokens);
  }

  /** Zero-copy view of one layer's rows first … first+count-1, each [kvHeads, T, headDim]. */
  keys(layer: number, first: number, count: number): Float32Array {
    return this.#view(this.#keys[layer]!, first, count);
  }

  values(layer: number, first: number, count: number): Float32Array {
    return this.#view(this.#values[layer]!, first, count);
  }

  /** Additive attention bias [count, 1, 1, T] over past positions: 0 where stored, -1e9 where not. */
  biasFor(first: number, count: number): Float32Array {
    const bias = new Float32Array(count * this.#capacity).fill(MASKED);
    for (let row = 0; row < count; row++)
      bias.fill(0, row * this.#capacity, row * this.#capacity + this.#lengths[first + row]!);
    return bias;
  }

  /**
   * Stores the keys and values of `tokens` new positions of one row, all layers.
   * `newKeys[layer]`, `newValues[layer]`: [batch, kvHeads, stride, headDim], of which row `batchRow`, positions 0 … tokens-1 are taken.
   */
  append(
    slot: number,
    tokens: number,
    fresh: {
      readonly keys: readonly Float32Array[];
      readonly values: readonly Float32Array[];
      readonly batchRow: number;
      readonly stride: number;
    },
  ): void {
    const { kvHeads, headDim, layers } = this.shape;
    const start = this.#lengths[slot]!;
    if (start + tokens > this.#capacity)
      throw new Error(
        `internal: row ${slot} holds ${start} tokens and was given ${tokens} more; the arena has ${this.#capacity} positions.`,
      );
    for (let layer = 0; layer < layers; layer++)
      for (const [target, source] of [
        [this.#keys[layer]!, fresh.keys[layer]!],
        [this.#values[layer]!, fresh.values[layer]!],
      ] as const)
        for (let head = 0; head < kvHeads; head++) {
          const from = (fresh.batchRow * kvHeads + head) * fresh.stride * headDim;
          const to = ((slot * kvHeads + head) * this.#capacity + start) * headDim;
          target.set(source.subarray(from, from + tokens * headDim), to);
        }
    this.#lengths[slot] = start + tokens;
  }

  #slotFloats(): number {
    return this.shape.kvHeads * this.#capacity * this.shape.headDim;
  }

  #view(layer: Float32Array, first: number, count: number): Float32Array {
    const floats = this.#slotFloats();
    return layer.subarray(first * floats, (first + count) * floats);
  }

  #copyRow(from: number, to: number): void {
    const floats = this.#slotFloats();
    for (const layer of [...this.#keys, ...this.#values])
      layer.copyWithin(to * floats, from * floats, (from + 1) * floats);
  }

  #relayout(slots: number, capacity: number): void {
    const { kvHeads, headDim } = this.shape;
    const move = (old: Float32Array): Float32Array => {
      const next = new Float32Array(slots * kvHeads * capacity * headDim);
      for (let slot = 0; slot < this.rows; slot++)
        for (let head = 0; head < kvHeads; head++) {
          const from = (slot * kvHeads + head) * this.#capacity * headDim;
          next.set(
            old.subarray(from, from + this.#lengths[slot]! * headDim),
            (slot * kvHeads + head) * capacity * headDim,
          );
        }
      return next;
    };
    this.#keys = this.#keys.map(move);
    this.#values = this.#values.map(move);
    this.#slots = slots;
    this.#capacity = capacity;
  }
}
