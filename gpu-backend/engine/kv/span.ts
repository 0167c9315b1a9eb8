import { KEY_TILE_TOKENS } from '../../models/decode.ts';

/**
 * How keys and values lie in memory, for the arena of running rows and for compact copies of it alike.
 *
 * A *plane* is one tensor [outer, T, unit]: `outer` runs of T positions with `unit` numbers each. One layer has
 *  - f32:  k [kvHead, T, D], v [kvHead, T, D];
 *  - int8: k and v likewise, but keys in tiles (`key-tiles.ts`): k [kvHead, T / tile, D, tile]; and a scale per token and head
 *          for both, f32 [kvHead, T, 1]. A value is q·scale with q in −127…127 and scale = max|x| / 127.
 * Growing and moving rows only needs these three numbers.
 */
export interface KvShape {
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly format: 'f32' | 'int8';
  /** Tokens in a tile of int8 keys. Default: as the decoder graph reads them. */
  readonly keyTileTokens?: number;
}

/** Of the int8 keys of a shape. */
export function keyTileTokens(shape: KvShape): number {
  return shape.keyTileTokens ?? KEY_TILE_TOKENS;
}

export type KvArray = Float32Array | Int8Array;

export interface PlaneLayout {
  readonly name: 'k' | 'v' | 'kScale' | 'vScale';
  readonly outer: number;
  readonly unit: number;
  readonly bytesPerNumber: 1 | 4;
}

/** Keys and values of new tokens as the graph returns them: per layer f32 [batch, kvHeads, stride, headDim]. */
export interface FreshKv {
  readonly keys: readonly Float32Array[];
  readonly values: readonly Float32Array[];
  readonly batchRow: number;
  readonly stride: number;
}

/** The planes of one layer, always in the same order. */
export function planeLayouts(shape: KvShape): readonly PlaneLayout[] {
  const { kvHeads, headDim } = shape;
  if (shape.format === 'f32')
    return [
      { name: 'k', outer: kvHeads, unit: headDim, bytesPerNumber: 4 },
      { name: 'v', outer: kvHeads, unit: headDim, bytesPerNumber: 4 },
    ];
  return [
    { name: 'k', outer: kvHeads, unit: headDim, bytesPerNumber: 1 },
    { name: 'v', outer: kvHeads, unit: headDim, bytesPerNumber: 1 },
    { name: 'kScale', outer: kvHeads, unit: 1, bytesPerNumber: 4 },
    { name: 'vScale', outer: kvHeads, unit: 1, bytesPerNumber: 4 },
  ];
}

/** Bytes of one position of one row, all layers. */
export function kvBytesPerToken(shape: KvShape): number {
  return (
    shape.layers *
    planeLayouts(shape).reduce((sum, { outer, unit, bytesPerNumber }) => sum + outer * unit * bytesPerNumber, 0)
  );
}

/** A compact copy of consecutive positions of one row, outside the arena. Immutable once made. */
export interface KvSpan {
  readonly tokens: number;
  /** Position of the first token in its row; tiles of keys are cut there. */
  readonly start: number;
  /** Of the one buffer behind all planes. */
  readonly bytes: number;
  /** [layer · planes + plane], each [outer, tokens, unit]. */
  readonly planes: readonly KvArray[];
}

/** An empty span; the arena fills it. */
export function allocateSpan(shape: KvShape, start: number, tokens: number): KvSpan {
  const layouts = planeLayouts(shape);
  const buffer = new ArrayBuffer(kvBytesPerToken(shape) * tokens);
  const planes = new Array<KvArray>(shape.layers * layouts.length);
  let offset = 0;
  // The planes of four-byte numbers come first, so that all of them are aligned whatever the number of tokens.
  for (const width of [4, 1] as const)
    for (let layer = 0; layer < shape.layers; layer++)
      for (const [index, { outer, unit, bytesPerNumber }] of layouts.entries()) {
        if (bytesPerNumber !== width) continue;
        const length = outer * tokens * unit;
        planes[layer * layouts.length + index] =
          width === 4 ? new Float32Array(buffer, offset, length) : new Int8Array(buffer, offset, length);
        offset += length * width;
      }
  return { tokens, start, bytes: buffer.byteLength, planes };
}

/** Below this many numbers a loop is cheaper than making two array views for `set`. */
const LOOP_BELOW = 96;

/**
 * Copies `runs` runs of `length` numbers; run i starts at `from + i·fromStride` and at `to + i·toStride`.
 * The two arrays are of the same kind and do not overlap.
 */
export function copyRuns(
  target: KvArray,
  to: number,
  toStride: number,
  source: KvArray,
  from: number,
  fromStride: number,
  runs: number,
  length: number,
): void {
  if (length === fromStride && length === toStride) {
    target.set(source.subarray(from, from + runs * length), to);
    return;
  }
  if (length >= LOOP_BELOW) {
    for (let run = 0; run < runs; run++) {
      const start = from + run * fromStride;
      target.set(source.subarray(start, start + length), to + run * toStride);
    }
  } else if (target instanceof Float32Array) copySmallF32(target, to, toStride, source, from, fromStride, runs, length);
  else copySmallI8(target, to, toStride, source, from, fromStride, runs, length);
}

/** Twins, one for each kind of array: a loop that sees both kinds is compiled to the slow general access. */
function copySmallF32(
  target: Float32Array,
  to: number,
  toStride: number,
  source: KvArray,
  from: number,
  fromStride: number,
  runs: number,
  length: number,
): void {
  for (let run = 0; run < runs; run++) {
    const read = from + run * fromStride;
    const write = to + run * toStride;
    for (let index = 0; index < length; index++) target[write + index] = source[read + index]!;
  }
}

function copySmallI8(
  target: Int8Array,
  to: number,
  toStride: number,
  source: KvArray,
  from: number,
  fromStride: number,
  runs: number,
  length: number,
): void {
  for (let run = 0; run < runs; run++) {
    const read = from + run * fromStride;
    const write = to + run * toStride;
    for (let index = 0; index < length; index++) target[write + index] = source[read + index]!;
  }
}

const SCRATCH_NUMBERS = 16_384;
let scratchF32 = new Float32Array(0);
let scratchI8 = new Int8Array(0);

/** Exchanges two disjoint blocks of `length` numbers within an array, a piece at a time through a small scratch. */
export function swapBlocks(array: KvArray, a: number, b: number, length: number): void {
  if (scratchF32.length === 0) {
    scratchF32 = new Float32Array(SCRATCH_NUMBERS);
    scratchI8 = new Int8Array(SCRATCH_NUMBERS);
  }
  const scratch = array instanceof Float32Array ? scratchF32 : scratchI8;
  for (let at = 0; at < length; at += SCRATCH_NUMBERS) {
    const size = Math.min(SCRATCH_NUMBERS, length - at);
    scratch.set(array.subarray(a + at, a + at + size));
    array.copyWithin(a + at, b + at, b + at + size);
    array.set(size === SCRATCH_NUMBERS ? scratch : scratch.subarray(0, size), b + at);
  }
}
