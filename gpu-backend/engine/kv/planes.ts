/**
 * The buffers of an arena: all layers' planes [rows, outer, T, unit] (`span.ts`), with room for `positions` ≥ rows · T positions.
 * It moves numbers; which rows there are and how long, and when buffers grow and shrink, is the arena's business.
 */
import { appendInt8 } from './append-int8.ts';
import { copyKeys, type KeyRun } from './key-tiles.ts';
import {
  copyRuns,
  type FreshKv,
  type KvArray,
  type KvShape,
  type KvSpan,
  keyTileTokens,
  type PlaneLayout,
  planeLayouts,
  swapBlocks,
} from './span.ts';

export class KvPlanes {
  readonly shape: KvShape;
  /** Planes of one layer: 2, or 4 with scales. */
  readonly perLayer: number;
  /** Rows are moved in multiples of this many positions. */
  readonly tile: number;
  readonly #layouts: readonly PlaneLayout[];
  /** [layer · perLayer + plane] */
  #planes: KvArray[];
  #positions = 0;
  #T: number;

  constructor(shape: KvShape, T: number) {
    this.shape = shape;
    this.#layouts = planeLayouts(shape);
    this.perLayer = this.#layouts.length;
    this.tile = shape.format === 'int8' ? keyTileTokens(shape) : 1;
    this.#T = T;
    this.#planes = this.#empty();
  }

  /** Positions of every row. */
  get T(): number {
    return this.#T;
  }

  get positions(): number {
    return this.#positions;
  }

  get count(): number {
    return this.#planes.length;
  }

  /** Rows first … first+count-1 of plane `index` of a layer. */
  view(layer: number, index: number, first: number, count: number): KvArray {
    const { outer, unit } = this.#layouts[index]!;
    const size = outer * this.#T * unit;
    return this.#planes[layer * this.perLayer + index]!.subarray(first * size, (first + count) * size);
  }

  /** Copies row `from` over row `to`. */
  copyRow(from: number, to: number): void {
    this.#each((plane, outer, unit) => {
      const size = outer * this.#T * unit;
      plane.copyWithin(to * size, from * size, (from + 1) * size);
    });
  }

  swapRows(a: number, b: number): void {
    this.#each((plane, outer, unit) => {
      const size = outer * this.#T * unit;
      swapBlocks(plane, a * size, b * size, size);
    });
  }

  /** Zeroes a row's scales of positions from … to-1. */
  clearScales(slot: number, from: number, to: number): void {
    this.#eachScale((plane, kvHeads) => {
      for (let run = slot * kvHeads; run < (slot + 1) * kvHeads; run++)
        plane.fill(0, run * this.#T + from, run * this.#T + to);
    });
  }

  /** Zeroes whatever is not a stored position of the rows. */
  wipeUnused(lengths: readonly number[]): void {
    this.#each((plane, outer, unit) => {
      const size = this.#T * unit;
      const runs = lengths.length * outer;
      for (let run = 0; run < runs; run++)
        plane.fill(0, run * size + lengths[(run / outer) | 0]! * unit, (run + 1) * size);
      plane.fill(0, runs * size);
    });
  }

  /** Writes `tokens` new positions of a row from position `start` on. */
  append(slot: number, start: number, tokens: number, fresh: FreshKv): void {
    if (this.shape.format === 'int8') {
      appendInt8(this.#planes, this.shape, this.#T, slot, start, tokens, fresh);
      return;
    }
    const { kvHeads, headDim, layers } = this.shape;
    const size = this.#T * headDim;
    const stride = fresh.stride * headDim;
    const from = fresh.batchRow * kvHeads * stride;
    const to = slot * kvHeads * size + start * headDim;
    for (let layer = 0; layer < layers; layer++) {
      copyRuns(this.#planes[2 * layer]!, to, size, fresh.keys[layer]!, from, stride, kvHeads, tokens * headDim);
      copyRuns(this.#planes[2 * layer + 1]!, to, size, fresh.values[layer]!, from, stride, kvHeads, tokens * headDim);
    }
  }

  /** Fills an empty span with the row's positions from `span.start` on. */
  save(slot: number, span: KvSpan): void {
    const { start, tokens } = span;
    this.#each((plane, outer, unit, index) => {
      const size = this.#T * unit;
      const saved = span.planes[index]!;
      const begin = slot * outer * size;
      if (this.#isTiled(index))
        for (let head = 0; head < outer; head++) {
          const row = this.#keys(plane, begin + head * size);
          copyKeys(savedKeys(span, saved, head, unit, this.tile), 0, row, start, tokens, unit, this.tile);
        }
      else copyRuns(saved, 0, tokens * unit, plane, begin + start * unit, size, outer, tokens * unit);
    });
  }

  /** Writes positions from … to-1 of a span to a row from position `start` on. */
  restore(slot: number, start: number, span: KvSpan, from: number, to: number): void {
    const tokens = to - from;
    this.#each((plane, outer, unit, index) => {
      const size = this.#T * unit;
      const saved = span.planes[index]!;
      const begin = slot * outer * size;
      if (this.#isTiled(index))
        for (let head = 0; head < outer; head++) {
          const row = this.#keys(plane, begin + head * size);
          copyKeys(row, start, savedKeys(span, saved, head, unit, this.tile), from, tokens, unit, this.tile);
        }
      else copyRuns(plane, begin + start * unit, size, saved, from * unit, span.tokens * unit, outer, tokens * unit);
    });
  }

  /** Forgets all rows and keeps the buffers. */
  empty(T: number): void {
    this.#T = T;
  }

  /** Lets go of all buffers. */
  release(T: number): void {
    this.#planes = this.#empty();
    this.#positions = 0;
    this.#T = T;
  }

  /** New buffers with the same layout. One plane at a time, so that there is never a second copy of everything. */
  resize(positions: number, rows: number): void {
    for (let index = 0; index < this.#planes.length; index++) {
      const { outer, unit, bytesPerNumber } = this.#layouts[index % this.perLayer]!;
      const size = positions * outer * unit;
      const next = bytesPerNumber === 4 ? new Float32Array(size) : new Int8Array(size);
      next.set(this.#planes[index]!.subarray(0, rows * this.#T * outer * unit));
      this.#planes[index] = next;
    }
    this.#positions = positions;
  }

  /** Changes T in place: rows move apart from the last on, or together from the first on. There is room for rows · T. */
  setT(T: number, lengths: readonly number[]): void {
    const old = this.#T;
    this.#each((plane, outer, unit) => {
      const runs = lengths.length * outer;
      for (let step = 0; step < runs; step++) {
        const run = T > old ? runs - 1 - step : step;
        const length = Math.ceil(lengths[(run / outer) | 0]! / this.tile) * this.tile * unit;
        const from = run * old * unit;
        if (length > 0) plane.copyWithin(run * T * unit, from, from + length);
      }
    });
    this.#T = T;
    for (const [slot, length] of lengths.entries()) this.clearScales(slot, length, T);
  }

  #isTiled(index: number): boolean {
    return this.tile > 1 && index % this.perLayer === 0;
  }

  /** The keys of one head of one row. */
  #keys(array: KvArray, begin: number): KeyRun {
    return { array, begin, tokens: this.#T, lead: 0 };
  }

  #each(visit: (plane: KvArray, outer: number, unit: number, index: number) => void): void {
    for (let index = 0; index < this.#planes.length; index++) {
      const { outer, unit } = this.#layouts[index % this.perLayer]!;
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

  #empty(): KvArray[] {
    return Array.from({ length: this.shape.layers }, () =>
      this.#layouts.map(({ bytesPerNumber }) => (bytesPerNumber === 4 ? new Float32Array(0) : new Int8Array(0))),
    ).flat();
  }
}

/** The keys of one head of a span. */
function savedKeys(span: KvSpan, array: KvArray, head: number, D: number, tile: number): KeyRun {
  return { array, begin: head * span.tokens * D, tokens: span.tokens, lead: span.start % tile };
}
