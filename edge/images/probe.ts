/**
 * Reads what a picture says of itself — format, size, orientation, frames, how it is stored — from its container, without decoding a pixel. Work is
 * bounded by the number of header segments; sources: ITU T.81 (JPEG), PNG 3rd edition, the WebP container specification, GIF89a, Exif 2.3; AVIF has a
 * file of its own.
 */
import type { ImageInfo, ImageMime } from '../../shared/contract/images.ts';
import { readAvif } from './avif.ts';
import { Bytes, ProbeError } from './bytes.ts';
import { exifOrientation } from './exif.ts';

/** Container walks stop here: no sane header has more segments, and a hostile one must not cost time. */
const MAX_SEGMENTS = 4_096;
/** Pictures with an animation or small blocks have many of them. */
const MAX_CHUNKS = 65_536;

/** As stored, before the picture is turned upright. */
export type Header = Omit<ImageInfo, 'mime'>;

const READERS: Record<ImageMime, (bytes: Bytes) => Header> = {
  'image/jpeg': readJpeg,
  'image/png': readPng,
  'image/webp': readWebp,
  'image/gif': readGif,
  'image/avif': readAvif,
};

/** @throws ProbeError where the header is broken. Width and height are those of the upright picture. */
export function probe(data: Uint8Array, mime: ImageMime): ImageInfo {
  const header = READERS[mime](new Bytes(data));
  const { width, height, orientation } = header;
  if (width === 0 || height === 0) throw new ProbeError(`says it is ${width}x${height} pixels`);
  const sideways = orientation >= 5;
  return { mime, ...header, width: sideways ? height : width, height: sideways ? width : height };
}

/** Walks the marker segments to the first frame header (SOF0–SOF15 without DHT, JPG, DAC), noting APP1 Exif on the way. */
function readJpeg(bytes: Bytes): Header {
  let orientation = 1;
  let hasProfile = false;
  let at = 2;
  for (let segment = 0; segment < MAX_SEGMENTS; segment++) {
    if (bytes.u8(at) !== 0xff) throw new ProbeError(`has no JPEG marker at byte ${at}`);
    while (bytes.u8(at + 1) === 0xff) at++;
    const marker = bytes.u8(at + 1);
    at += 2;
    if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8)) continue;
    if (marker === 0xd9 || marker === 0xda) throw new ProbeError('has no JPEG frame header before its scan');
    const length = bytes.u16(at);
    if (length < 2) throw new ProbeError(`has a JPEG segment of ${length} bytes at byte ${at}`);
    const isFrame = marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc;
    if (isFrame) {
      return {
        width: bytes.u16(at + 5),
        height: bytes.u16(at + 3),
        frames: 1,
        orientation,
        bitDepth: bytes.u8(at + 2),
        channels: bytes.u8(at + 7),
        hasAlpha: false,
        hasProfile,
        // SOF2, SOF6, SOF10, SOF14.
        progressive: (marker & 3) === 2,
      };
    }
    if (marker === 0xe1 && length >= 14 && bytes.ascii(at + 2, 6) === 'Exif\0\0') {
      orientation = exifOrientation(new Bytes(bytes.data.subarray(at + 8, at + length)));
    }
    if (marker === 0xe2 && length >= 16 && bytes.ascii(at + 2, 12) === 'ICC_PROFILE\0') hasProfile = true;
    at += length;
  }
  throw new ProbeError(`has more than ${MAX_SEGMENTS} JPEG segments`);
}

/** Colour types of IHDR. */
const PNG_COLOURS: Readonly<Record<number, { channels: number; hasAlpha: boolean }>> = {
  0: { channels: 1, hasAlpha: false },
  2: { channels: 3, hasAlpha: false },
  3: { channels: 3, hasAlpha: false },
  4: { channels: 1, hasAlpha: true },
  6: { channels: 3, hasAlpha: true },
};

/** IHDR must come first; chunks up to the pixel data may hold an animation (acTL) or Exif (eXIf). The file must end with IEND. */
function readPng(bytes: Bytes): Header {
  if (bytes.ascii(12, 4) !== 'IHDR' || bytes.u32(8) !== 13)
    throw new ProbeError('does not begin with a PNG header chunk');
  const colour = PNG_COLOURS[bytes.u8(25)];
  if (colour === undefined) throw new ProbeError(`has the unknown PNG colour type ${bytes.u8(25)}`);
  const header: Header = {
    width: bytes.u32(16),
    height: bytes.u32(20),
    frames: 1,
    orientation: 1,
    bitDepth: bytes.u8(24),
    ...colour,
    hasProfile: false,
    progressive: bytes.u8(28) === 1,
  };
  let hasPixels = false;
  let at = 8;
  for (let chunk = 0; at + 12 <= bytes.length; chunk++) {
    if (chunk > MAX_CHUNKS) throw new ProbeError('has too many PNG chunks');
    const length = bytes.u32(at);
    const type = bytes.ascii(at + 4, 4);
    if (at + 12 + length > bytes.length)
      throw new ProbeError(`is cut off at byte ${bytes.length}, within the PNG chunk ${JSON.stringify(type)}`);
    if (type === 'acTL') header.frames = Math.max(1, bytes.u32(at + 8));
    if (type === 'tRNS') header.hasAlpha = true;
    if (type === 'iCCP') header.hasProfile = true;
    if (type === 'eXIf') header.orientation = exifOrientation(new Bytes(bytes.data.subarray(at + 8, at + 8 + length)));
    if (type === 'IDAT') hasPixels = true;
    if (type === 'IEND') {
      if (!hasPixels) throw new ProbeError('has no PNG pixel data');
      return header;
    }
    at += 12 + length;
  }
  throw new ProbeError(`ends at byte ${bytes.length} without the PNG end chunk`);
}

/** Simple lossy (VP8), lossless (VP8L) and extended (VP8X) files; frames are counted by ANMF chunks. */
function readWebp(bytes: Bytes): Header {
  const riffEnd = 8 + bytes.u32(4, true);
  if (riffEnd > bytes.length) throw new ProbeError(`is cut off: ${bytes.length} of ${riffEnd} bytes`);
  const plain = {
    frames: 1,
    orientation: 1,
    bitDepth: 8,
    channels: 3,
    hasAlpha: false,
    hasProfile: false,
    progressive: false,
  };
  const kind = bytes.ascii(12, 4);
  if (kind === 'VP8 ') {
    if (bytes.u24le(23) !== 0x2a019d) throw new ProbeError('has no VP8 start code');
    return { ...plain, width: bytes.u16(26, true) & 0x3fff, height: bytes.u16(28, true) & 0x3fff };
  }
  if (kind === 'VP8L') {
    if (bytes.u8(20) !== 0x2f) throw new ProbeError('has no VP8L signature');
    const bits = bytes.u32(21, true);
    const hasAlpha = ((bits >>> 28) & 1) === 1;
    return { ...plain, width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1, hasAlpha };
  }
  if (kind !== 'VP8X') throw new ProbeError(`has an unknown WebP chunk ${JSON.stringify(kind)}`);
  const header = {
    ...plain,
    width: bytes.u24le(24) + 1,
    height: bytes.u24le(27) + 1,
    hasAlpha: (bytes.u8(20) & 0x10) !== 0,
  };
  let frames = 0;
  let at = 12;
  for (let chunk = 0; at + 8 <= riffEnd; chunk++) {
    if (chunk > MAX_CHUNKS) throw new ProbeError(`has more than ${MAX_CHUNKS} WebP chunks`);
    const type = bytes.ascii(at, 4);
    const length = bytes.u32(at + 4, true);
    if (at + 8 + length > bytes.length)
      throw new ProbeError(`is cut off at byte ${bytes.length}, within the WebP chunk ${JSON.stringify(type)}`);
    if (type === 'ANMF') frames++;
    if (type === 'ICCP') header.hasProfile = true;
    if (type === 'EXIF') {
      const exif = bytes.data.subarray(at + 8, at + 8 + length);
      const start = String.fromCharCode(...exif.subarray(0, 6)) === 'Exif\0\0' ? 6 : 0;
      header.orientation = exifOrientation(new Bytes(exif.subarray(start)));
    }
    at += 8 + length + (length & 1);
  }
  return { ...header, frames: Math.max(frames, 1) };
}

/** Counts image descriptors, stopping at the second: the first frame is all that is used. */
function readGif(bytes: Bytes): Header {
  const size = { width: bytes.u16(6, true), height: bytes.u16(8, true) };
  const colorTable = (flags: number) => ((flags & 0x80) === 0 ? 0 : 3 << ((flags & 7) + 1));
  let at = 13 + colorTable(bytes.u8(10));
  let frames = 0;
  let hasAlpha = false;
  let progressive = false;
  const skipBlocks = () => {
    for (let size = bytes.u8(at++); size !== 0; size = bytes.u8(at++)) at += size;
  };
  for (let block = 0; block < MAX_SEGMENTS && frames < 2; block++) {
    const kind = bytes.u8(at);
    if (kind === 0x3b) break;
    if (kind === 0x21) {
      // A graphic control extension before the first frame names its transparent colour.
      if (frames === 0 && bytes.u8(at + 1) === 0xf9) hasAlpha = (bytes.u8(at + 3) & 1) === 1;
      at += 2;
      skipBlocks();
    } else if (kind === 0x2c) {
      frames++;
      if (frames === 1) progressive = (bytes.u8(at + 9) & 0x40) !== 0;
      at += 10 + colorTable(bytes.u8(at + 9)) + 1;
      skipBlocks();
    } else if (frames > 0) {
      // Decoders take what came before rubbish at the end.
      break;
    } else {
      throw new ProbeError(`has an unknown GIF block 0x${kind.toString(16)} at byte ${at}`);
    }
  }
  if (frames === 0) throw new ProbeError('has no GIF picture');
  return { ...size, frames, orientation: 1, bitDepth: 8, channels: 3, hasAlpha, hasProfile: false, progressive };
}
