/**
 * Pillow's separable resampling for 8-bit pictures (src/libImaging/Resample.c), reproduced bit for bit: models were trained on
 * pictures that went through it, and other resizers differ by several grey levels when they shrink. Two passes, horizontal
 * then vertical, 8 bits between them; the filter widens with the shrinking factor (antialiasing); coefficients are 22-bit fixed point.
 */

import { createResampleKernel, LOW_BITS, PRECISION_BITS, type ResampleKernel } from './resample-kernel.ts';

/** A picture of 8-bit RGB, row by row, three bytes a pixel (HWC). */
export interface RgbImage {
  readonly width: number;
  readonly height: number;
  readonly pixels_HWC: Uint8Array;
}

export type ResampleFilter = 'box' | 'bilinear' | 'hamming' | 'bicubic' | 'lanczos';

interface Filter {
  /** Half width at scale 1, in input pixels. */
  readonly support: number;
  readonly weight: (x: number) => number;
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

/** Each formula in Pillow's order of operations, so that doubles round alike. */
const FILTERS: Readonly<Record<ResampleFilter, Filter>> = {
  box: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: {
    support: 1,
    weight: (x) => {
      const distance = Math.abs(x);
      return distance < 1 ? 1 - distance : 0;
    },
  },
  hamming: {
    support: 1,
    weight: (x) => {
      const distance = Math.abs(x);
      if (distance === 0) return 1;
      if (distance >= 1) return 0;
      const angle = distance * Math.PI;
      return (Math.sin(angle) / angle) * (0.54 + 0.46 * Math.cos(angle));
    },
  },
  bicubic: {
    support: 2,
    weight: (x) => {
      const a = -0.5;
      const d = Math.abs(x);
      if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
      if (d < 2) return (((d - 5) * d + 8) * d - 4) * a;
      return 0;
    },
  },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** For each output position the first input position, how many are used, and their fixed-point weights. */
interface Coefficients {
  readonly size: number;
  readonly first: Int32Array;
  readonly count: Int32Array;
  readonly weights: Int32Array;
}

/** Of the output positions `from` to `from + length`. */
function computeCoefficients(
  inSize: number,
  outSize: number,
  filter: Filter,
  from: number,
  length: number,
): Coefficients {
  const scale = inSize / outSize;
  const filterScale = Math.max(scale, 1);
  const support = filter.support * filterScale;
  const size = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(length);
  const count = new Int32Array(length);
  const weights = new Int32Array(length * size);
  const row = new Float64Array(size);
  const inverse = 1 / filterScale;
  for (let out = 0; out < length; out++) {
    const center = (out + from + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const used = Math.min(inSize, Math.trunc(center + support + 0.5)) - start;
    let sum = 0;
    for (let i = 0; i < used; i++) {
      const weight = filter.weight((i + start - center + 0.5) * inverse);
      row[i] = weight;
      sum += weight;
    }
    for (let i = 0; i < used; i++) {
      const fixed = (sum === 0 ? row[i]! : row[i]! / sum) * (1 << PRECISION_BITS);
      weights[out * size + i] = Math.trunc(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
    }
    first[out] = start;
    count[out] = used;
  }
  return { size, first, count, weights };
}

/**
 * Coefficients as the kernel reads them; an odd last tap is paired with weight 0.
 * @param unit bytes between neighbouring inputs
 * @param base input at the kernel's source address
 */
function kernelTable({ size, first, count, weights }: Coefficients, unit: number, base: number): Int32Array {
  let words = 2 * first.length;
  for (const taps of count) words += 2 * ((taps + 1) >> 1);
  const table = new Int32Array(words);
  const low = (weight: number): number => weight & ((1 << LOW_BITS) - 1);
  let at = 0;
  for (let out = 0; out < first.length; out++) {
    const pairs = (count[out]! + 1) >> 1;
    table[at++] = (first[out]! - base) * unit;
    table[at++] = pairs;
    for (let i = out * size; i < out * size + 2 * pairs; i += 2) {
      const [one, two] = [weights[i]!, i + 1 < out * size + count[out]! ? weights[i + 1]! : 0];
      table[at++] = low(one) | (low(two) << 16);
      table[at++] = ((one >> LOW_BITS) & 0xffff) | ((two >> LOW_BITS) << 16);
    }
  }
  return table;
}

/** A part of the resized picture. */
export interface Window {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

let kernel: ResampleKernel | null = null;

/** Rows that are copied in at once, and rows between the two passes: both stay in the processor's second cache. */
const STRIP_BYTES = 256 * 1024;
const MIDDLE_BYTES = 512 * 1024;
const PAGE_BYTES = 65_536;

/** Rounded up, so that 16 bytes may be read or written at the last one. */
const padded = (bytes: number): number => ((bytes + 15) & ~15) + 16;

/**
 * `Image.resize((width, height), filter)` of Pillow, or a window of it: equal pixel for pixel. The same size gives the same
 * pixels back. Works through the picture in bands, so that memory beyond source and target stays small.
 */
export function resizeRgb(
  image: RgbImage,
  width: number,
  height: number,
  filterName: ResampleFilter,
  window: Window = { left: 0, top: 0, width, height },
): RgbImage {
  for (const [name, value] of [
    ['width', width],
    ['height', height],
  ] as const) {
    if (!Number.isInteger(value) || value < 1)
      throw new Error(`expected a ${name} of at least one pixel, got ${value}`);
  }
  if (width === image.width && height === image.height)
    return cropRgb(image, window.left, window.top, window.width, window.height);
  const filter = FILTERS[filterName];
  const across = computeCoefficients(image.width, width, filter, window.left, window.width);
  const down = computeCoefficients(image.height, height, filter, window.top, window.height);
  // Pillow leaves out the pass of a side that keeps its length.
  return resample(image, width === image.width ? null : across, height === image.height ? null : down, window);
}

function resample(image: RgbImage, across: Coefficients | null, down: Coefficients | null, window: Window): RgbImage {
  kernel ??= createResampleKernel();
  const { memory } = kernel;
  const outBytes = window.width * 3;
  const inBytes = image.width * 3;
  const pitch = padded(outBytes);
  const rowTable = across === null ? new Int32Array(0) : kernelTable(across, 3, 0);
  // Of the rows between the passes as many as one output row needs must fit.
  const taps = down === null ? 1 : down.count.reduce((most, count) => Math.max(most, count), 1);
  const middleRows = Math.max(taps, Math.floor(MIDDLE_BYTES / pitch));
  const stripRows = Math.max(2, Math.floor(STRIP_BYTES / inBytes) & ~1);
  // Rows beyond the last: of an odd number of rows, or taps, one more is read, and its weight is 0.
  const tableWords = down === null ? 0 : 2 * down.first.length + down.count.reduce((sum, n) => sum + n + 1, 0);
  const rowTableAt = 0;
  const columnTableAt = padded(rowTable.byteLength);
  const stripAt = columnTableAt + padded(tableWords * 4);
  const middleAt = stripAt + (across === null ? 0 : padded((stripRows + 1) * inBytes));
  const targetAt = middleAt + (middleRows + 2) * pitch;
  const neededBytes = targetAt + (down === null ? 0 : middleRows * pitch) + PAGE_BYTES;
  if (memory.buffer.byteLength < neededBytes)
    memory.grow(Math.ceil((neededBytes - memory.buffer.byteLength) / PAGE_BYTES));
  const heap = new Uint8Array(memory.buffer);
  heap.set(new Uint8Array(rowTable.buffer), rowTableAt);

  /** Input rows `from` to `to`, resampled across, to `middle` row `at`. */
  const fill = (from: number, to: number, at: number): void => {
    for (let row = from; row < to; row += stripRows) {
      const rows = Math.min(stripRows, to - row);
      const target = middleAt + (at + row - from) * pitch;
      if (across === null) {
        for (let y = 0; y < rows; y++) {
          const start = (row + y) * inBytes + window.left * 3;
          heap.set(image.pixels_HWC.subarray(start, start + outBytes), target + y * pitch);
        }
      } else {
        heap.set(image.pixels_HWC.subarray(row * inBytes, (row + rows) * inBytes), stripAt);
        kernel!.rows(stripAt, inBytes, target, pitch, (rows + 1) >> 1, rowTableAt, window.width);
      }
    }
  };
  const pixels_HWC = new Uint8Array(outBytes * window.height);
  /** Finished rows at an address to the result, without their padding. */
  const take = (at: number, row: number, rows: number): void => {
    for (let y = 0; y < rows; y++)
      pixels_HWC.set(heap.subarray(at + y * pitch, at + y * pitch + outBytes), (row + y) * outBytes);
  };
  if (down === null) {
    for (let y = 0; y < window.height; y += middleRows) {
      const rows = Math.min(middleRows, window.height - y);
      fill(window.top + y, window.top + y + rows, 0);
      take(middleAt, y, rows);
    }
    return { width: window.width, height: window.height, pixels_HWC };
  }
  let [have, until] = [0, 0];
  for (let y = 0; y < window.height; ) {
    const start = down.first[y]!;
    let end = start;
    let rows = 0;
    while (y + rows < window.height && rows < middleRows) {
      const needed = down.first[y + rows]! + down.count[y + rows]!;
      if (needed - start > middleRows) break;
      end = Math.max(end, needed);
      rows++;
    }
    const kept = Math.max(0, until - start);
    if (kept > 0) heap.copyWithin(middleAt, middleAt + (start - have) * pitch, middleAt + (until - have) * pitch);
    if (end > start + kept) fill(start + kept, end, kept);
    [have, until] = [start, Math.max(end, start + kept)];
    const band: Coefficients = {
      size: down.size,
      first: down.first.subarray(y, y + rows),
      count: down.count.subarray(y, y + rows),
      weights: down.weights.subarray(y * down.size, (y + rows) * down.size),
    };
    heap.set(new Uint8Array(kernelTable(band, pitch, start).buffer), columnTableAt);
    kernel.columns(middleAt, pitch, targetAt, pitch, (outBytes + 15) & ~15, columnTableAt, rows);
    take(targetAt, y, rows);
    y += rows;
  }
  return { width: window.width, height: window.height, pixels_HWC };
}

/** The rectangle at (left, top); what lies outside the picture is black. */
export function cropRgb(image: RgbImage, left: number, top: number, width: number, height: number): RgbImage {
  if (left === 0 && top === 0 && width === image.width && height === image.height) return image;
  const pixels_HWC = new Uint8Array(width * height * 3);
  const fromX = Math.max(0, left);
  const toX = Math.min(image.width, left + width);
  for (let y = Math.max(0, top); y < Math.min(image.height, top + height) && fromX < toX; y++) {
    const row = image.pixels_HWC.subarray((y * image.width + fromX) * 3, (y * image.width + toX) * 3);
    pixels_HWC.set(row, ((y - top) * width + fromX - left) * 3);
  }
  return { width, height, pixels_HWC };
}
