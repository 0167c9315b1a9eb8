/**
 * What a picture looks like, in a few bytes: a difference hash (neighbouring cells of a 9×8 grid, which is brighter) for finding pictures that look alike,
 * and a 16×16 thumbnail for making sure. Source of the hash: N. Krawetz, "Kind of Like That", hackerfactor.com, 2013.
 */

/** As the model gets it, channel first; any mean and deviation, since only differences count. */
export interface Planes {
  readonly pixels_CHW: Float32Array;
  readonly width: number;
  readonly height: number;
}

export const THUMB_SIDE = 16;
export const THUMB_BYTES = THUMB_SIDE * THUMB_SIDE * 3;

export interface PictureSignature {
  readonly hash: bigint;
  /** 8 bits, channel first. */
  readonly thumb_CHW: Uint8Array;
  /** Largest difference of two cells of the thumbnail, of 255. */
  readonly range: number;
}

/**
 * @param scale from stored numbers to 0 … 1: `value · std + mean` by channel, as the recipe's
 */
export function signPicture(
  planes: Planes,
  scale: { readonly mean: readonly number[]; readonly std: readonly number[] },
): PictureSignature {
  const { width, height, pixels_CHW } = planes;
  const plane = width * height;
  const grey: number[] = new Array(9 * 8).fill(0);
  const thumb_CHW = new Uint8Array(THUMB_BYTES);
  // Rec. 601: what a picture looks like is mostly its green.
  const luma = [0.299, 0.587, 0.114];
  for (let c = 0; c < 3; c++) {
    const channel = pixels_CHW.subarray(c * plane, (c + 1) * plane);
    const { [c]: std = 1 } = scale.std;
    const { [c]: mean = 0 } = scale.mean;
    const coarse = shrink(channel, width, height, 9, 8);
    for (let i = 0; i < coarse.length; i++) grey[i] = (grey[i] ?? 0) + (luma[c] ?? 0) * ((coarse[i] ?? 0) * std + mean);
    const small = shrink(channel, width, height, THUMB_SIDE, THUMB_SIDE);
    for (let i = 0; i < small.length; i++) {
      const value = Math.max(0, Math.min(255, Math.round(255 * ((small[i] ?? 0) * std + mean))));
      thumb_CHW[c * THUMB_SIDE * THUMB_SIDE + i] = value;
    }
  }
  const cells = THUMB_SIDE * THUMB_SIDE;
  const ranges = [0, 1, 2].map((c) => {
    const own = thumb_CHW.subarray(c * cells, (c + 1) * cells);
    return Math.max(...own) - Math.min(...own);
  });
  let hash = 0n;
  for (let y = 0; y < 8; y++)
    for (let x = 0; x < 8; x++)
      // A difference must be more than rounding, so that flat areas are the same whatever they were saved as.
      hash = (hash << 1n) | ((grey[y * 9 + x] ?? 0) > (grey[y * 9 + x + 1] ?? 0) + 1 / 255 ? 1n : 0n);
  return { hash, thumb_CHW, range: Math.max(...ranges) };
}

/** Means over equal cells; where the picture is smaller than the grid, cells repeat pixels. */
function shrink(channel: Float32Array, width: number, height: number, wide: number, high: number): Float64Array {
  const out = new Float64Array(wide * high);
  for (let j = 0; j < high; j++) {
    const y0 = Math.floor((j * height) / high);
    const y1 = Math.max(y0 + 1, Math.floor(((j + 1) * height) / high));
    for (let i = 0; i < wide; i++) {
      const x0 = Math.floor((i * width) / wide);
      const x1 = Math.max(x0 + 1, Math.floor(((i + 1) * width) / wide));
      let sum = 0;
      for (let y = y0; y < y1; y++) {
        const row = y * width;
        for (let x = x0; x < x1; x++) sum += channel[row + x] ?? 0;
      }
      out[j * wide + i] = sum / ((y1 - y0) * (x1 - x0));
    }
  }
  return out;
}

/** Bits in which two hashes differ, 0 … 64. */
export function hashDistance(a: bigint, b: bigint): number {
  return bitCount(a ^ b);
}

function bitCount(value: bigint): number {
  return bits32(Number(value & 0xffffffffn)) + bits32(Number(value >> 32n));
}

function bits32(value: number): number {
  let v = value - ((value >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/** Mean difference of two thumbnails, grey levels of 255. */
export function thumbDistance(a: Uint8Array, b: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < THUMB_BYTES; i++) sum += Math.abs((a[i] ?? 0) - (b[i] ?? 0));
  return sum / THUMB_BYTES;
}
