import { createHash } from 'node:crypto';
import { type DecodedImage, type DecodeOptions, decodeImage } from './decode.ts';
import { formatRecipe, type ImageRecipe, type ResizeRule } from './recipes.ts';
import { cropRgb, type RgbImage, resizeRgb } from './resample.ts';

/** A picture as the vision tower takes it: channel first (3, height, width), rescaled and normalised. */
export interface PreprocessedImage {
  readonly pixels_CHW: Float32Array;
  readonly width: number;
  readonly height: number;
  /** SHA-256 over recipe, size, channels, type and 8-bit pixels after resizing: equal digests mean equal features. */
  readonly digest: string;
}

/** Bytes of a file to 8-bit pixels of the size the model sees, and their digest. @throws ImageError */
export async function fitImage(
  bytes: Uint8Array,
  recipe: ImageRecipe,
  options: Omit<DecodeOptions, 'alpha'> = {},
): Promise<{
  readonly image: RgbImage;
  readonly digest: string;
  readonly source: Pick<DecodedImage, 'format' | 'width' | 'height'>;
}> {
  const { format, ...decoded } = await decodeImage(bytes, { ...options, alpha: recipe.alpha });
  const image = fitRgb(decoded, recipe);
  const { width, height } = decoded;
  return { image, digest: digestPixels(image, recipe), source: { format, width, height } };
}

/** Bytes of a file to model input. @throws ImageError */
export async function preprocessImage(
  bytes: Uint8Array,
  recipe: ImageRecipe,
  options: Omit<DecodeOptions, 'alpha'> = {},
): Promise<PreprocessedImage & { readonly source: Pick<DecodedImage, 'format' | 'width' | 'height'> }> {
  const { image, digest, source } = await fitImage(bytes, recipe, options);
  return { pixels_CHW: normaliseRgb(image, recipe), width: image.width, height: image.height, digest, source };
}

/** Decoded pixels to model input; pure. */
export function preprocessRgb(image: RgbImage, recipe: ImageRecipe): PreprocessedImage {
  const fitted = fitRgb(image, recipe);
  return {
    pixels_CHW: normaliseRgb(fitted, recipe),
    width: fitted.width,
    height: fitted.height,
    digest: digestPixels(fitted, recipe),
  };
}

/** Resizing, cropping and filling alone: 8-bit pixels of the size the model sees. */
export function fitRgb(image: RgbImage, recipe: ImageRecipe): RgbImage {
  const fitted = cropOrKeep(image, recipe);
  return recipe.padTo === undefined ? fitted : padRgb(fitted, recipe.padTo.multiple, recipe.padTo.value);
}

/** The size the model sees of a picture of this size, without looking at pixels. */
export function modelSize(width: number, height: number, recipe: ImageRecipe): { width: number; height: number } {
  const planned = recipe.centerCrop ?? planSize(width, height, recipe.resize);
  const multiple = recipe.padTo?.multiple ?? 1;
  const up = (side: number): number => Math.ceil(side / multiple) * multiple;
  return { width: up(planned.width), height: up(planned.height) };
}

/** Filled up at the right and bottom with one grey value. */
function padRgb({ width, height, pixels_HWC }: RgbImage, multiple: number, value: number): RgbImage {
  const [wide, high] = [Math.ceil(width / multiple) * multiple, Math.ceil(height / multiple) * multiple];
  if (wide === width && high === height) return { width, height, pixels_HWC };
  const padded = new Uint8Array(wide * high * 3).fill(value);
  for (let y = 0; y < height; y++) padded.set(pixels_HWC.subarray(y * width * 3, (y + 1) * width * 3), y * wide * 3);
  return { width: wide, height: high, pixels_HWC: padded };
}

function cropOrKeep(image: RgbImage, recipe: ImageRecipe): RgbImage {
  const { width, height } = planSize(image.width, image.height, recipe.resize);
  const crop = recipe.centerCrop;
  if (!crop) return resizeRgb(image, width, height, recipe.filter);
  // Where the crop is larger, the reference pads more on the top and left by one.
  const left = crop.width <= width ? Math.floor((width - crop.width) / 2) : -Math.ceil((crop.width - width) / 2);
  const top = crop.height <= height ? Math.floor((height - crop.height) / 2) : -Math.ceil((crop.height - height) / 2);
  if (left >= 0 && top >= 0) return resizeRgb(image, width, height, recipe.filter, { left, top, ...crop });
  return cropRgb(resizeRgb(image, width, height, recipe.filter), left, top, crop.width, crop.height);
}

/** The size a picture is resized to; integer parts as Python's `int()` takes them. */
export function planSize(width: number, height: number, rule: ResizeRule): { width: number; height: number } {
  switch (rule.kind) {
    case 'none':
      return { width, height };
    case 'exact':
      return { width: rule.width, height: rule.height };
    case 'shortest': {
      const long = Math.max(1, Math.trunc((rule.shortest * Math.max(width, height)) / Math.min(width, height)));
      return width <= height ? { width: rule.shortest, height: long } : { width: long, height: rule.shortest };
    }
    case 'fit': {
      if (width <= rule.width && height <= rule.height) return { width, height };
      const factor = Math.min(rule.height / height, rule.width / width);
      return { width: Math.max(1, Math.trunc(width * factor)), height: Math.max(1, Math.trunc(height * factor)) };
    }
    case 'bounds': {
      const aspect = width / height;
      let [w, h] = [width, height];
      if (width >= height && width > rule.longest) [w, h] = [rule.longest, Math.trunc(rule.longest / aspect)];
      else if (height > width && height > rule.longest) [w, h] = [Math.trunc(rule.longest * aspect), rule.longest];
      return { width: Math.max(w, rule.shortest), height: Math.max(h, rule.shortest) };
    }
  }
}

/** (value · rescale − mean) / std for each of the 256 values a channel can take, in float32 as the reference computes it. */
export function normaliseRgb({ width, height, pixels_HWC }: RgbImage, recipe: ImageRecipe): Float32Array {
  const plane = width * height;
  const pixels_CHW = new Float32Array(3 * plane);
  const [redTable, greenTable, blueTable] = tablesOf(recipe) as [Float32Array, Float32Array, Float32Array];
  for (let i = 0, from = 0; i < plane; i++, from += 3) {
    pixels_CHW[i] = redTable[pixels_HWC[from]!]!;
    pixels_CHW[i + plane] = greenTable[pixels_HWC[from + 1]!]!;
    pixels_CHW[i + 2 * plane] = blueTable[pixels_HWC[from + 2]!]!;
  }
  return pixels_CHW;
}

const knownTables = new WeakMap<ImageRecipe, Float32Array[]>();

/** What each byte of a channel becomes; a model has one recipe for all its pictures. */
function tablesOf(recipe: ImageRecipe): Float32Array[] {
  const known = knownTables.get(recipe);
  if (known !== undefined) return known;
  const { rescale, mean, std } = recipe;
  const normalised = (byte: number, c: number) =>
    Math.fround(Math.fround(byte * rescale) - Math.fround(mean[c]!)) / Math.fround(std[c]!);
  const tables = mean.map((_, c) => Float32Array.from({ length: 256 }, (_, byte) => normalised(byte, c)));
  knownTables.set(recipe, tables);
  return tables;
}

/** Width and height are part of what is hashed: 30x100 pixels must never stand for 100x30. */
export function digestPixels({ width, height, pixels_HWC }: RgbImage, recipe: ImageRecipe): string {
  return createHash('sha256')
    .update(`${JSON.stringify(formatRecipe(recipe))}\n${width} ${height} 3 u8\n`)
    .update(pixels_HWC)
    .digest('hex');
}

/** Pictures of one batch, padded at the right and bottom to the largest. */
export interface PaddedBatch {
  /** N, 3, H, W; 0 where there is no picture. */
  readonly pixels_NCHW: Float32Array;
  /** N, H, W; 1 where there is picture. */
  readonly mask_NHW: Uint8Array;
  readonly width: number;
  readonly height: number;
}

export function padBatch(images: readonly PreprocessedImage[]): PaddedBatch {
  const width = Math.max(...images.map((image) => image.width));
  const height = Math.max(...images.map((image) => image.height));
  const plane = width * height;
  const pixels_NCHW = new Float32Array(images.length * 3 * plane);
  const mask_NHW = new Uint8Array(images.length * plane);
  for (const [n, image] of images.entries()) {
    for (let y = 0; y < image.height; y++) {
      mask_NHW.fill(1, n * plane + y * width, n * plane + y * width + image.width);
      for (let c = 0; c < 3; c++) {
        const from = (c * image.height + y) * image.width;
        pixels_NCHW.set(image.pixels_CHW.subarray(from, from + image.width), (n * 3 + c) * plane + y * width);
      }
    }
  }
  return { pixels_NCHW, mask_NHW, width, height };
}
