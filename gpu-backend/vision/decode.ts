import sharp from 'sharp';
import { LIMITS } from '../../shared/contract/limits.ts';
import { ImageError } from './image-error.ts';
import type { RgbImage } from './resample.ts';

export type ImageFormat = 'jpeg' | 'png' | 'webp' | 'gif';

/** What becomes of transparency: laid on white, or ignored as Pillow's `convert('RGB')` does (the colour under it shows). */
export type AlphaRule = 'white' | 'drop';

export interface DecodeOptions {
  /** Default 'white'. */
  readonly alpha?: AlphaRule;
  /** Turn the picture as its EXIF orientation says. Default true; the reference processors do not. */
  readonly orient?: boolean;
  /** Bounds of size, checked on the header before any pixel is decoded. */
  readonly limits?: DecodeLimits;
}

export interface DecodeLimits {
  readonly maxBytes: number;
  readonly maxSide: number;
  readonly maxPixels: number;
  /** Longer side over shorter. Resizing by the shorter side would otherwise make a small file huge. */
  readonly maxAspectRatio: number;
}

export interface DecodedImage extends RgbImage {
  readonly format: ImageFormat;
}

// Only these four loaders exist as far as this process is concerned: no SVG (which can read files), no TIFF, no PDF, no ImageMagick.
sharp.block({ operation: ['VipsForeignLoad'] });
sharp.unblock({
  operation: [
    'VipsForeignLoadJpegBuffer',
    'VipsForeignLoadPngBuffer',
    'VipsForeignLoadWebpBuffer',
    'VipsForeignLoadNsgifBuffer',
  ],
});
// Requests run in parallel already; and nothing of one picture may stay in memory for the next.
sharp.concurrency(1);
sharp.cache(false);

const MAGIC: readonly (readonly [ImageFormat, (bytes: Uint8Array) => boolean])[] = [
  ['jpeg', (b) => b[0] === 0xff && b[1] === 0xd8 && b[2] === 0xff],
  ['png', (b) => ascii(b, 1, 3) === 'PNG' && b[0] === 0x89],
  ['gif', (b) => ascii(b, 0, 6) === 'GIF87a' || ascii(b, 0, 6) === 'GIF89a'],
  ['webp', (b) => ascii(b, 0, 4) === 'RIFF' && ascii(b, 8, 4) === 'WEBP'],
];

function ascii(bytes: Uint8Array, start: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(start, start + length));
}

/** The format by the first bytes, or null; a file's name and declared type play no part. */
export function sniffFormat(bytes: Uint8Array): ImageFormat | null {
  return MAGIC.find(([, matches]) => matches(bytes))?.[0] ?? null;
}

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
      expected: 'a JPEG, PNG, WebP or GIF',
      received: 'bytes that are none of these',
    });
  }
  return format;
}

/**
 * Decodes a JPEG, PNG, WebP or GIF (first frame) to 8-bit RGB. Colours as Pillow's `Image.open(…).convert('RGB')` gives
 * them, which is what the models were trained on: colour profiles are not applied, CMYK goes by Pillow's formula, 16 bits keep
 * their upper 8 (for 16-bit grey too, which Pillow clips to white instead), grey is repeated. Other than Pillow the EXIF orientation is applied and transparency laid on white, unless
 * the options say otherwise.
 *
 * @throws ImageError
 */
export async function decodeImage(bytes: Uint8Array, options: DecodeOptions = {}): Promise<DecodedImage> {
  const { alpha = 'white', orient = true, limits = LIMITS.images } = options;
  const format = checkFile(bytes, limits);
  const { isCmyk, is16Bit, isGrey } = await readHeader(bytes, format, limits);
  // Animations: page 0 alone is decoded.
  const input = sharp(bytes, {
    failOn: 'error',
    limitInputPixels: limits.maxPixels,
    page: 0,
    pages: 1,
    ignoreIcc: true,
  });
  if (orient) input.autoOrient();
  if (isCmyk) input.pipelineColourspace('cmyk').toColourspace('cmyk');
  else if (is16Bit) input.pipelineColourspace(isGrey ? 'grey16' : 'rgb16').toColourspace(isGrey ? 'grey16' : 'rgb16');
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

/**
 * Size of the upright picture by its header alone, pixels.
 * @throws ImageError for what `decodeImage` refuses before it decodes
 */
export async function readPictureSize(
  bytes: Uint8Array,
  limits: DecodeLimits = LIMITS.images,
): Promise<{ width: number; height: number }> {
  const { width, height } = await readHeader(bytes, checkFile(bytes, limits), limits);
  return { width, height };
}

function unreadable(format: ImageFormat): ImageError {
  return new ImageError('image_parse_error', {
    expected: `a whole ${format.toUpperCase()}`,
    received: 'one that is damaged or cut short',
  });
}

async function readHeader(
  bytes: Uint8Array,
  format: ImageFormat,
  limits: DecodeLimits,
): Promise<{ isCmyk: boolean; is16Bit: boolean; isGrey: boolean; width: number; height: number }> {
  // The limit is ours to name, with the numbers, so the header is read without sharp's own.
  const metadata = await sharp(bytes, { failOn: 'error', limitInputPixels: false, page: 0, pages: 1 })
    .metadata()
    .catch(() => {
      throw unreadable(format);
    });
  const { width, height } = metadata;
  if (width > limits.maxSide || height > limits.maxSide) {
    throw new ImageError('image_too_large', {
      expected: `sides of at most ${limits.maxSide} pixels`,
      received: `${width}x${height}`,
    });
  }
  if (width * height > limits.maxPixels) {
    throw new ImageError('image_too_large', {
      expected: `at most ${limits.maxPixels} pixels`,
      received: `${width * height} (${width}x${height})`,
    });
  }
  if (Math.max(width / height, height / width) > limits.maxAspectRatio) {
    throw new ImageError('image_too_large', {
      expected: `an aspect ratio of at most ${limits.maxAspectRatio}:1`,
      received: `${width}x${height}`,
    });
  }
  return {
    isCmyk: metadata.space === 'cmyk',
    is16Bit: metadata.depth === 'ushort',
    isGrey: metadata.channels <= 2,
    width: metadata.autoOrient.width,
    height: metadata.autoOrient.height,
  };
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
  const isGrey = channels < 3;
  const hasAlpha = channels % 2 === 0;
  for (let i = 0; i < pixels; i++) {
    const from = i * channels;
    const opacity = hasAlpha && alpha === 'white' ? samples[from + channels - 1]! : 255;
    for (let c = 0; c < 3; c++) {
      const value = samples[isGrey ? from : from + c]!;
      out[i * 3 + c] = opacity === 255 ? value : divideBy255(value * opacity + 255 * (255 - opacity));
    }
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
