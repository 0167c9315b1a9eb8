/**
 * Pillow's resampling (src/libImaging/Resample.c) as plain loops, kept as the definition that the SIMD kernel is compared with.
 */
import type { ResampleFilter, RgbImage } from '../../../gpu-backend/vision/resample.ts';

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

/** 32 bits, less 8 for the value and 2 for the overshoot of negative lobes. */
const PRECISION_BITS = 32 - 8 - 2;
const ROUND = 1 << (PRECISION_BITS - 1);

/** For each output position the first input position, how many are used, and their fixed-point weights. */
interface Coefficients {
  readonly size: number;
  readonly first: Int32Array;
  readonly count: Int32Array;
  readonly weights: Int32Array;
}

function computeCoefficients(inSize: number, outSize: number, filter: Filter): Coefficients {
  const scale = inSize / outSize;
  const filterScale = Math.max(scale, 1);
  const support = filter.support * filterScale;
  const size = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(outSize);
  const count = new Int32Array(outSize);
  const weights = new Int32Array(outSize * size);
  const row = new Float64Array(size);
  const inverse = 1 / filterScale;
  for (let out = 0; out < outSize; out++) {
    const center = (out + 0.5) * scale;
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

function clip8(sum: number): number {
  const value = sum >> PRECISION_BITS;
  return value < 0 ? 0 : Math.min(value, 255);
}

function resampleRows(source: Uint8Array, inWidth: number, rows: number, outWidth: number, filter: Filter): Uint8Array {
  const { size, first, count, weights } = computeCoefficients(inWidth, outWidth, filter);
  const target = new Uint8Array(outWidth * rows * 3);
  for (let y = 0; y < rows; y++) {
    const rowAt = y * inWidth * 3;
    let to = y * outWidth * 3;
    for (let x = 0; x < outWidth; x++) {
      const weightAt = x * size;
      const weightEnd = weightAt + count[x]!;
      let at = rowAt + first[x]! * 3;
      let red = ROUND;
      let green = ROUND;
      let blue = ROUND;
      for (let i = weightAt; i < weightEnd; i++) {
        const weight = weights[i]!;
        red = (red + Math.imul(source[at]!, weight)) | 0;
        green = (green + Math.imul(source[at + 1]!, weight)) | 0;
        blue = (blue + Math.imul(source[at + 2]!, weight)) | 0;
        at += 3;
      }
      target[to] = clip8(red);
      target[to + 1] = clip8(green);
      target[to + 2] = clip8(blue);
      to += 3;
    }
  }
  return target;
}

function resampleColumns(
  source: Uint8Array,
  width: number,
  inHeight: number,
  outHeight: number,
  filter: Filter,
): Uint8Array {
  const { size, first, count, weights } = computeCoefficients(inHeight, outHeight, filter);
  const stride = width * 3;
  const target = new Uint8Array(stride * outHeight);
  const sums = new Int32Array(stride);
  for (let y = 0; y < outHeight; y++) {
    sums.fill(ROUND);
    for (let i = 0; i < count[y]!; i++) {
      const weight = weights[y * size + i]!;
      const at = (first[y]! + i) * stride;
      for (let x = 0; x < stride; x++) sums[x] = sums[x]! + Math.imul(source[at + x]!, weight);
    }
    const to = y * stride;
    for (let x = 0; x < stride; x++) target[to + x] = clip8(sums[x]!);
  }
  return target;
}

/** `Image.resize((width, height), filter)`. */
export function referenceResize(image: RgbImage, width: number, height: number, filterName: ResampleFilter): RgbImage {
  const filter = FILTERS[filterName];
  let pixels_HWC = image.pixels_HWC;
  if (width !== image.width) pixels_HWC = resampleRows(pixels_HWC, image.width, image.height, width, filter);
  if (height !== image.height) pixels_HWC = resampleColumns(pixels_HWC, width, image.height, height, filter);
  return { width, height, pixels_HWC };
}
