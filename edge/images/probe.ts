/**
 * Reads what a picture says of itself — format, size, orientation, frames — from its container, without decoding a pixel. Work is bounded by the
 * number of header segments; sources: ITU T.81 (JPEG), PNG 3rd edition, the WebP container specification, GIF89a, Exif 2.3.
 */
import type { ImageInfo, ImageMime } from '../../shared/contract/images.ts';
import { Bytes, ProbeError } from './bytes.ts';
import { exifOrientation } from './exif.ts';

/** Container walks stop here: no sane header has more segments, and a hostile one must not cost time. */
const MAX_SEGMENTS = 4_096;

/** Format by magic bytes, or null. The declared type is not looked at. */
export function sniff(data: Uint8Array): ImageMime | null {
  const head = String.fromCharCode(...data.subarray(0, 16));
  if (head.startsWith('\xff\xd8\xff')) return 'image/jpeg';
  if (head.startsWith('\x89PNG\r\n\x1a\n')) return 'image/png';
  if (head.startsWith('RIFF') && head.startsWith('WEBP', 8)) return 'image/webp';
  if (head.startsWith('GIF87a') || head.startsWith('GIF89a')) return 'image/gif';
  return null;
}

/** @throws ProbeError where the header is broken. Width and height are those of the upright picture. */
export function probe(data: Uint8Array, mime: ImageMime): ImageInfo {
  const bytes = new Bytes(data);
  const { width, height, frames, orientation } = READERS[mime](bytes);
  if (width === 0 || height === 0) throw new ProbeError(`says it is ${width}x${height} pixels`);
  const sideways = orientation >= 5;
  return { mime, width: sideways ? height : width, height: sideways ? width : height, frames, orientation };
}

type Header = { width: number; height: number; frames: number; orientation: number };

const READERS: Record<ImageMime, (bytes: Bytes) => Header> = {
  'image/jpeg': readJpeg,
  'image/png': readPng,
  'image/webp': readWebp,
  'image/gif': readGif,
};

/** Walks the marker segments to the first frame header (SOF0–SOF15 without DHT, JPG, DAC), noting APP1 Exif on the way. */
function readJpeg(bytes: Bytes): Header {
  let orientation = 1;
  let at = 2;
  for (let segment = 0; segment < MAX_SEGMENTS; segment++) {
    if (bytes.u8(at) !== 0xff) throw new ProbeError(`no JPEG marker at byte ${at}`);
    while (bytes.u8(at + 1) === 0xff) at++;
    const marker = bytes.u8(at + 1);
    at += 2;
    if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8)) continue;
    if (marker === 0xd9 || marker === 0xda) throw new ProbeError('has no JPEG frame header before its scan');
    const length = bytes.u16(at);
    if (length < 2) throw new ProbeError(`JPEG segment of ${length} bytes at byte ${at}`);
    const isFrame = marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc;
    if (isFrame) return { width: bytes.u16(at + 5), height: bytes.u16(at + 3), frames: 1, orientation };
    if (marker === 0xe1 && length >= 14 && bytes.ascii(at + 2, 6) === 'Exif\0\0') {
      orientation = exifOrientation(new Bytes(bytes.data.subarray(at + 8, at + length)));
    }
    at += length;
  }
  throw new ProbeError(`has more than ${MAX_SEGMENTS} JPEG segments`);
}

/** IHDR must come first; chunks up to the pixel data may hold an animation (acTL) or Exif (eXIf). The file must end with IEND. */
function readPng(bytes: Bytes): Header {
  if (bytes.ascii(12, 4) !== 'IHDR' || bytes.u32(8) !== 13)
    throw new ProbeError('does not begin with a PNG header chunk');
  const size = { width: bytes.u32(16), height: bytes.u32(20) };
  let frames = 1;
  let orientation = 1;
  let hasPixels = false;
  let at = 8;
  for (let chunk = 0; at + 12 <= bytes.length; chunk++) {
    if (chunk > MAX_SEGMENTS * 16) throw new ProbeError('has too many PNG chunks');
    const length = bytes.u32(at);
    const type = bytes.ascii(at + 4, 4);
    if (at + 12 + length > bytes.length)
      throw new ProbeError(`PNG chunk ${JSON.stringify(type)} is cut off at byte ${bytes.length}`);
    if (type === 'acTL') frames = bytes.u32(at + 8);
    if (type === 'eXIf') orientation = exifOrientation(new Bytes(bytes.data.subarray(at + 8, at + 8 + length)));
    if (type === 'IDAT') hasPixels = true;
    if (type === 'IEND') {
      if (!hasPixels) throw new ProbeError('has no PNG pixel data');
      return { ...size, frames, orientation };
    }
    at += 12 + length;
  }
  throw new ProbeError(`PNG ends at byte ${bytes.length} without its end chunk`);
}

/** Simple lossy (VP8), lossless (VP8L) and extended (VP8X) files; frames are counted by ANMF chunks. */
function readWebp(bytes: Bytes): Header {
  const riffEnd = 8 + bytes.u32(4, true);
  if (riffEnd > bytes.length) throw new ProbeError(`WebP is cut off: ${bytes.length} of ${riffEnd} bytes`);
  const kind = bytes.ascii(12, 4);
  if (kind === 'VP8 ') {
    if (bytes.u24le(23) !== 0x2a019d) throw new ProbeError('has no VP8 start code');
    return { width: bytes.u16(26, true) & 0x3fff, height: bytes.u16(28, true) & 0x3fff, frames: 1, orientation: 1 };
  }
  if (kind === 'VP8L') {
    if (bytes.u8(20) !== 0x2f) throw new ProbeError('has no VP8L signature');
    const bits = bytes.u32(21, true);
    return { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1, frames: 1, orientation: 1 };
  }
  if (kind !== 'VP8X') throw new ProbeError(`has an unknown WebP chunk ${JSON.stringify(kind)}`);
  const size = { width: bytes.u24le(24) + 1, height: bytes.u24le(27) + 1 };
  let frames = 0;
  let orientation = 1;
  let at = 12;
  for (let chunk = 0; at + 8 <= riffEnd; chunk++) {
    if (chunk > MAX_SEGMENTS) throw new ProbeError(`has more than ${MAX_SEGMENTS} WebP chunks`);
    const type = bytes.ascii(at, 4);
    const length = bytes.u32(at + 4, true);
    if (at + 8 + length > bytes.length)
      throw new ProbeError(`WebP chunk ${JSON.stringify(type)} is cut off at byte ${bytes.length}`);
    if (type === 'ANMF') frames++;
    if (type === 'EXIF') {
      const exif = bytes.data.subarray(at + 8, at + 8 + length);
      const start = String.fromCharCode(...exif.subarray(0, 6)) === 'Exif\0\0' ? 6 : 0;
      orientation = exifOrientation(new Bytes(exif.subarray(start)));
    }
    at += 8 + length + (length & 1);
  }
  return { ...size, frames: Math.max(frames, 1), orientation };
}

/** Counts image descriptors, stopping at the second: more than one frame is all that matters. */
function readGif(bytes: Bytes): Header {
  const size = { width: bytes.u16(6, true), height: bytes.u16(8, true) };
  const colorTable = (flags: number) => ((flags & 0x80) === 0 ? 0 : 3 << ((flags & 7) + 1));
  let at = 13 + colorTable(bytes.u8(10));
  let frames = 0;
  const skipBlocks = () => {
    for (let size = bytes.u8(at++); size !== 0; size = bytes.u8(at++)) at += size;
  };
  for (let block = 0; block < MAX_SEGMENTS && frames < 2; block++) {
    const kind = bytes.u8(at);
    if (kind === 0x3b) break;
    if (kind === 0x21) {
      at += 2;
      skipBlocks();
    } else if (kind === 0x2c) {
      frames++;
      at += 10 + colorTable(bytes.u8(at + 9)) + 1;
      skipBlocks();
    } else {
      throw new ProbeError(`has an unknown GIF block 0x${kind.toString(16)} at byte ${at}`);
    }
  }
  if (frames === 0) throw new ProbeError('has no GIF picture');
  return { ...size, frames, orientation: 1 };
}
