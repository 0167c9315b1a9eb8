import type { PictureFacts } from '../../vision/header.ts';

export interface Oddity {
  readonly code:
    | 'image_small'
    | 'image_elongated'
    | 'image_animated'
    | 'image_cmyk'
    | 'image_16_bit'
    | 'image_transparent'
    | 'image_oversized'
    | 'image_uniform';
  readonly message: string;
}

/** A side below this is less than one patch of every family here; Mantis's own loader scales such pictures up. */
export const MIN_SIDE = 16;
/** Squeezed into a square, or cropped to one, little is left of what is longer. Beyond `LIMITS.images.maxAspectRatio` a picture is refused. */
export const MAX_ASPECT_RATIO = 20;
/** Pixels of the file for each that the model sees; beyond it decoding is what training's start waits for. */
export const MAX_OVERSIZE = 64;

/**
 * What is odd about a picture that can be used, by its header. It is trained on as the model's recipe makes it.
 * @param seen size that the model gets, pixels
 */
export function oddities(
  file: Uint8Array,
  facts: PictureFacts,
  seen: { readonly width: number; readonly height: number },
): Oddity[] {
  const { width, height, channels, bitDepth, format } = facts;
  const found: Oddity[] = [];
  const size = `${width}x${height}`;
  if (Math.min(width, height) < MIN_SIDE)
    found.push({
      code: 'image_small',
      message: `expected sides of at least ${MIN_SIDE} pixels, received ${size}; it is scaled up`,
    });
  const ratio = Math.max(width / height, height / width);
  if (ratio > MAX_ASPECT_RATIO)
    found.push({
      code: 'image_elongated',
      message: `expected an aspect ratio of at most ${MAX_ASPECT_RATIO}:1, received ${size} (${ratio.toFixed(0)}:1)`,
    });
  const oversize = (width * height) / (seen.width * seen.height);
  if (oversize > MAX_OVERSIZE)
    found.push({
      code: 'image_oversized',
      message: `received ${size}, the model sees ${seen.width}x${seen.height}: ${oversize.toFixed(0)} times the pixels; scale it down to save bytes and time`,
    });
  if (isAnimated(file, format))
    found.push({ code: 'image_animated', message: 'received an animation; its first frame is used' });
  if (format === 'jpeg' && channels === 4)
    found.push({ code: 'image_cmyk', message: 'received CMYK; it is turned into RGB, and colours may be off' });
  if (bitDepth === 16) found.push({ code: 'image_16_bit', message: 'received 16 bits a sample; the upper 8 are used' });
  if (isTransparent(file, format))
    found.push({
      code: 'image_transparent',
      message: "received a picture with transparency; what shows is as the model's recipe says",
    });
  return found;
}

const ascii = (b: Uint8Array, at: number, length: number): string =>
  String.fromCharCode(...b.subarray(at, at + length));
const u32 = (b: Uint8Array, at: number): number =>
  (((b[at] ?? 0) << 24) | ((b[at + 1] ?? 0) << 16) | ((b[at + 2] ?? 0) << 8) | (b[at + 3] ?? 0)) >>> 0;

function isAnimated(b: Uint8Array, format: PictureFacts['format']): boolean {
  if (format === 'gif') return gifFrames(b) > 1;
  if (format === 'webp') return ascii(b, 12, 4) === 'VP8X' && ((b[20] ?? 0) & 0x02) !== 0;
  if (format === 'png') return pngChunk(b, 'acTL');
  return format === 'avif' && ascii(b, 8, 4) === 'avis';
}

function isTransparent(b: Uint8Array, format: PictureFacts['format']): boolean {
  if (format === 'png') return b[25] === 4 || b[25] === 6 || pngChunk(b, 'tRNS');
  if (format === 'webp') {
    const kind = ascii(b, 12, 4);
    if (kind === 'VP8X') return ((b[20] ?? 0) & 0x10) !== 0;
    // Lossless: 14 bits of width and height each, then whether alpha is used.
    return kind === 'VP8L' && ((b[24] ?? 0) & 0x10) !== 0;
  }
  return false;
}

/** Whether a chunk of this name comes before the pixels. */
function pngChunk(b: Uint8Array, name: string): boolean {
  for (let at = 8, chunks = 0; at + 8 <= b.length && chunks < 4_096; chunks++) {
    const kind = ascii(b, at + 4, 4);
    if (kind === name) return true;
    if (kind === 'IDAT' || kind === 'IEND') return false;
    at += 12 + u32(b, at);
  }
  return false;
}

/** Pictures in a GIF, counted up to two. */
function gifFrames(b: Uint8Array): number {
  const tableBytes = (flags: number): number => ((flags & 0x80) !== 0 ? 3 * 2 ** ((flags & 7) + 1) : 0);
  const afterBlocks = (from: number): number => {
    let at = from;
    while (at < b.length && b[at] !== 0) at += 1 + (b[at] ?? 0);
    return at + 1;
  };
  let at = 13 + tableBytes(b[10] ?? 0);
  let frames = 0;
  while (at < b.length && frames < 2) {
    const kind = b[at];
    if (kind === 0x21) at = afterBlocks(at + 2);
    else if (kind === 0x2c) {
      frames++;
      at = afterBlocks(at + 11 + tableBytes(b[at + 9] ?? 0));
    } else break;
  }
  return frames;
}
