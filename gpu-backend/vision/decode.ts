import sharp, { type Metadata } from 'sharp';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type ImageFormat, sniffFormat } from './header.ts';
import { isSrgbLike, profileSpace } from './icc.ts';
import { ImageError } from './image-error.ts';
import type { RgbImage } from './resample.ts';

/** What becomes of transparency: laid on white, or ignored as Pillow's `convert('RGB')` does (the colour under it shows). */
export type AlphaRule = 'white' | 'drop';

/**
 * What becomes of an embedded colour profile: applied, so that colours are those a person sees, or left alone as the reference
 * processors do (they read the stored numbers as sRGB). Pictures without one, or with an sRGB one, are the same either way.
 */
export type ColourRule = 'managed' | 'stored';

export interface DecodeOptions {
  /** Default 'white'. */
  readonly alpha?: AlphaRule;
  /** Turn the picture as its EXIF orientation says. Default true; the reference processors do not. */
  readonly orient?: boolean;
  /** Default 'managed'; the reference processors' is 'stored'. */
  readonly colour?: ColourRule;
  /** Bounds of size, checked on the header before any pixel is decoded. */
  readonly limits?: DecodeLimits;
}

export interface DecodeLimits {
  readonly maxBytes: number;
  readonly maxSide: number;
  readonly maxPixels: number;
  /** Of AVIF, which takes far more time and memory a pixel than its bytes say. */
  readonly maxAvifPixels: number;
  /** Longer side over shorter. Resizing by the shorter side would otherwise make a small file huge. */
  readonly maxAspectRatio: number;
}

export interface DecodedImage extends RgbImage {
  readonly format: ImageFormat;
}

// Only these five loaders exist as far as this process is concerned: no SVG (which can read files), no TIFF, no PDF, no ImageMagick.
sharp.block({ operation: ['VipsForeignLoad'] });
sharp.unblock({
  operation: [
    'VipsForeignLoadJpegBuffer',
    'VipsForeignLoadPngBuffer',
    'VipsForeignLoadWebpBuffer',
    'VipsForeignLoadNsgifBuffer',
    'VipsForeignLoadHeifBuffer',
  ],
});
// Requests run in parallel already; and nothing of one picture may stay in memory for the next.
sharp.concurrency(1);
sharp.cache(false);

function checkFile(bytes: Uint8Array, limits: DecodeLimits): ImageFormat {
  if (bytes.byteLength === 0) throw new ImageError('empty_image_file', { expected: 'a picture', received: '0 bytes' });
  if (bytes.byteLength > limits.maxBytes) {
    throw new ImageError('image_file_too_large', {
      expected: `at most ${limits.maxBytes} bytes`,
      received: bytes.byteLength,
    });
  }
  const format = sniffFormat(bytes);
  if (!format) {
    throw new ImageError('invalid_image_format', {
      expected: 'a JPEG, PNG, WebP or GIF, or a small AVIF',
      received: 'bytes that are none of these',
    });
  }
  return format;
}

/**
 * Decodes a JPEG, PNG, WebP, GIF or AVIF (the first frame of an animation) to 8-bit RGB. Pixels are those of Pillow's
 * `Image.open(…).convert('RGB')`, which is what the models were trained on: CMYK without a profile goes by Pillow's formula, 16 bits
 * keep their upper 8 (16-bit grey too, which Pillow clips to white instead), grey is repeated, `gAMA` and `cHRM` of PNG are not
 * looked at. Other than Pillow the EXIF orientation is applied, transparency laid on white and colour profiles that are not sRGB
 * applied, unless the options say otherwise.
 *
 * A file that is cut short or damaged is refused (`failOn: 'error'`); stray bytes before a marker and after the end are not damage.
 *
 * @throws ImageError
 */
export async function decodeImage(bytes: Uint8Array, options: DecodeOptions = {}): Promise<DecodedImage> {
  const { alpha = 'white', orient = true, colour = 'managed', limits = LIMITS.images } = options;
  const format = checkFile(bytes, limits);
  const metadata = await readHeader(bytes, format, limits);
  const isManaged = colour === 'managed' && changesColours(metadata);
  const input = sharp(bytes, {
    failOn: 'error',
    limitInputPixels: limits.maxPixels,
    page: 0,
    pages: 1,
    ignoreIcc: !isManaged,
  });
  if (orient) input.autoOrient();
  // With a profile, sharp converts to sRGB on its own (16 bits to Display P3, unless told); without, the file's own samples are wanted.
  if (isManaged && metadata.depth === 'ushort') input.pipelineColourspace('srgb');
  const isCmyk = metadata.space === 'cmyk' && !isManaged;
  const is16Bit = metadata.depth === 'ushort' && !isManaged;
  const space16 = metadata.channels <= 2 ? 'grey16' : 'rgb16';
  if (isCmyk) input.pipelineColourspace('cmyk').toColourspace('cmyk');
  else if (is16Bit) input.pipelineColourspace(space16).toColourspace(space16);
  try {
    const { data, info } = await input
      .raw({ depth: is16Bit ? 'ushort' : 'uchar' })
      .toBuffer({ resolveWithObject: true });
    const samples = is16Bit ? upperBytes(data) : data;
    const pixels_HWC = isCmyk
      ? cmykToRgb(samples, info.width * info.height)
      : toRgb(samples, info.width * info.height, info.channels, alpha);
    return { width: info.width, height: info.height, pixels_HWC, format };
  } catch {
    throw unreadable(format);
  }
}

/** Whether the picture has a profile that fits it and is not sRGB. One that does not fit (an RGB profile in a grey picture) is ignored, as browsers do. */
function changesColours({ icc, space, channels, depth }: Metadata): boolean {
  // libvips leaves 16-bit grey as it is.
  if (icc === undefined || (depth === 'ushort' && channels <= 2)) return false;
  const expected = space === 'cmyk' ? 'CMYK' : channels <= 2 ? 'GRAY' : 'RGB';
  return profileSpace(icc) === expected && !isSrgbLike(icc);
}

/**
 * Size of the upright picture by its header alone, pixels.
 * @throws ImageError for what `decodeImage` refuses before it decodes
 */
export async function readPictureSize(
  bytes: Uint8Array,
  limits: DecodeLimits = LIMITS.images,
): Promise<{ width: number; height: number }> {
  const { autoOrient } = await readHeader(bytes, checkFile(bytes, limits), limits);
  return { width: autoOrient.width, height: autoOrient.height };
}

function unreadable(format: ImageFormat): ImageError {
  return new ImageError('image_parse_error', {
    expected: `a whole ${format.toUpperCase()}`,
    received: 'one that is damaged or cut short',
  });
}

async function readHeader(bytes: Uint8Array, format: ImageFormat, limits: DecodeLimits): Promise<Metadata> {
  // The limit is ours to name, with the numbers, so the header is read without sharp's own.
  const metadata = await sharp(bytes, { failOn: 'error', limitInputPixels: false, page: 0, pages: 1 })
    .metadata()
    .catch(() => {
      throw unreadable(format);
    });
  const { width, height } = metadata;
  const refuse = (expected: string, received: string): ImageError =>
    new ImageError('image_too_large', { expected, received });
  if (width > limits.maxSide || height > limits.maxSide)
    throw refuse(`sides of at most ${limits.maxSide} pixels`, `${width}x${height}`);
  const maxPixels = format === 'avif' ? Math.min(limits.maxAvifPixels, limits.maxPixels) : limits.maxPixels;
  if (width * height > maxPixels)
    throw refuse(
      `at most ${maxPixels} pixels${format === 'avif' ? ' in an AVIF' : ''}`,
      `${width * height} (${width}x${height})`,
    );
  if (Math.max(width / height, height / width) > limits.maxAspectRatio)
    throw refuse(`an aspect ratio of at most ${limits.maxAspectRatio}:1`, `${width}x${height}`);
  return metadata;
}

function upperBytes(data: Buffer): Uint8Array {
  const out = new Uint8Array(data.byteLength / 2);
  for (let i = 0; i < out.length; i++) out[i] = data[2 * i + 1]!;
  return out;
}

/** Samples with 1 (grey), 2 (grey, alpha), 3 or 4 (RGB, alpha) channels to RGB. */
function toRgb(samples: Uint8Array, pixels: number, channels: number, alpha: AlphaRule): Uint8Array {
  if (channels === 3) return new Uint8Array(samples.buffer, samples.byteOffset, pixels * 3);
  const out = new Uint8Array(pixels * 3);
  const [green, blue] = channels < 3 ? [0, 0] : [1, 2];
  const opacityAt = channels % 2 === 0 && alpha === 'white' ? channels - 1 : null;
  for (let from = 0, to = 0; to < out.length; from += channels, to += 3) {
    out[to] = samples[from]!;
    out[to + 1] = samples[from + green]!;
    out[to + 2] = samples[from + blue]!;
    const opacity = opacityAt === null ? 255 : samples[from + opacityAt]!;
    if (opacity === 255) continue;
    for (let c = 0; c < 3; c++) out[to + c] = divideBy255(out[to + c]! * opacity + 255 * (255 - opacity));
  }
  return out;
}

/** Pillow's MULDIV255: exact rounding of x / 255 for products of two bytes. */
function divideBy255(x: number): number {
  const t = x + 128;
  return ((t >> 8) + t) >> 8;
}

/** Pillow's cmyk2rgb: (255 − k) − c · (255 − k) / 255. */
function cmykToRgb(samples: Uint8Array, pixels: number): Uint8Array {
  const out = new Uint8Array(pixels * 3);
  for (let i = 0; i < pixels; i++) {
    const light = 255 - samples[i * 4 + 3]!;
    for (let c = 0; c < 3; c++) out[i * 3 + c] = Math.max(0, light - divideBy255(samples[i * 4 + c]! * light));
  }
  return out;
}
