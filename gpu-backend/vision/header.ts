/**
 * What the first bytes of a picture say, read without a codec: enough to guess what decoding it will cost before a process is
 * given to it. Nothing here is trusted: what a codec then does is bounded by time and memory of its own.
 */

export type ImageFormat = 'jpeg' | 'png' | 'webp' | 'gif' | 'avif';

const MAGIC: readonly (readonly [ImageFormat, (bytes: Uint8Array) => boolean])[] = [
  ['jpeg', (b) => b[0] === 0xff && b[1] === 0xd8 && b[2] === 0xff],
  ['png', (b) => ascii(b, 1, 3) === 'PNG' && b[0] === 0x89],
  ['gif', (b) => ascii(b, 0, 6) === 'GIF87a' || ascii(b, 0, 6) === 'GIF89a'],
  ['webp', (b) => ascii(b, 0, 4) === 'RIFF' && ascii(b, 8, 4) === 'WEBP'],
  ['avif', isAvif],
];

/** The format by the first bytes, or null; a file's name and declared type play no part. */
export function sniffFormat(bytes: Uint8Array): ImageFormat | null {
  return MAGIC.find(([, matches]) => matches(bytes))?.[0] ?? null;
}

/** `avif` (or its sequences, `avis`) among the brands of the first box; HEIC and other relatives are not. */
function isAvif(bytes: Uint8Array): boolean {
  if (ascii(bytes, 4, 4) !== 'ftyp') return false;
  const end = Math.min(u32(bytes, 0), bytes.length, 256);
  for (let at = 8; at + 4 <= end; at += at === 8 ? 8 : 4) {
    const brand = ascii(bytes, at, 4);
    if (brand === 'avif' || brand === 'avis') return true;
  }
  return false;
}

/** What decoding costs depends on. */
export interface PictureFacts {
  readonly format: ImageFormat;
  readonly width: number;
  readonly height: number;
  /** Samples of a pixel in the file. */
  readonly channels: number;
  readonly bitDepth: number;
  /** A progressive JPEG or an interlaced PNG: held whole before the first row comes out. */
  readonly isProgressive: boolean;
}

/** Facts of the header, or null where it is too broken to say: then decoding will end there too. */
export function readFacts(bytes: Uint8Array): PictureFacts | null {
  const format = sniffFormat(bytes);
  if (format === null) return null;
  const facts = READERS[format](bytes);
  return facts === null || facts.width === 0 || facts.height === 0 ? null : { format, ...facts };
}

type Facts = Omit<PictureFacts, 'format'> | null;

const READERS: Readonly<Record<ImageFormat, (bytes: Uint8Array) => Facts>> = {
  jpeg: readJpeg,
  png: readPng,
  webp: readWebp,
  gif: (b) => (b.length < 10 ? null : still(u16le(b, 6), u16le(b, 8), 4)),
  avif: readAvif,
};

const still = (width: number, height: number, channels: number): Facts => ({
  width,
  height,
  channels,
  bitDepth: 8,
  isProgressive: false,
});

/** Markers up to the first frame header; SOF2, 6, 10 and 14 are progressive (ITU T.81, table B.1). */
function readJpeg(b: Uint8Array): Facts {
  for (let at = 2, steps = 0; at + 9 < b.length && steps < 4_096; steps++) {
    if (b[at] !== 0xff) {
      // Decoders skip what stands between segments.
      at++;
      continue;
    }
    const marker = b[at + 1]!;
    if (marker === 0xff) at++;
    else if (marker === 0x01 || marker === 0x00 || (marker >= 0xd0 && marker <= 0xd8)) at += 2;
    else if (marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc) {
      const [bitDepth, height, width, channels] = [b[at + 4]!, u16(b, at + 5), u16(b, at + 7), b[at + 9]!];
      return { width, height, channels, bitDepth, isProgressive: (marker & 3) === 2 };
    } else at += 2 + u16(b, at + 2);
  }
  return null;
}

const PNG_CHANNELS: Readonly<Record<number, number>> = { 0: 1, 2: 3, 3: 3, 4: 2, 6: 4 };

function readPng(b: Uint8Array): Facts {
  if (b.length < 29 || ascii(b, 12, 4) !== 'IHDR') return null;
  return {
    width: u32(b, 16),
    height: u32(b, 20),
    bitDepth: b[24]!,
    channels: PNG_CHANNELS[b[25]!] ?? 4,
    isProgressive: b[28] === 1,
  };
}

function readWebp(b: Uint8Array): Facts {
  if (b.length < 30) return null;
  const kind = ascii(b, 12, 4);
  if (kind === 'VP8 ') return still(u16le(b, 26) & 0x3fff, u16le(b, 28) & 0x3fff, 3);
  if (kind === 'VP8L') {
    const bits = (u16le(b, 21) | (u16le(b, 23) << 16)) >>> 0;
    return still((bits & 0x3fff) + 1, ((bits >>> 14) & 0x3fff) + 1, 4);
  }
  if (kind !== 'VP8X') return null;
  return still(u24le(b, 24) + 1, u24le(b, 27) + 1, 4);
}

/** The largest of the sizes its boxes name (`ispe`), wherever they stand in the first 64 KiB: a file may hold several pictures. */
function readAvif(b: Uint8Array): Facts {
  let [width, height] = [0, 0];
  for (let at = 4; at + 16 <= Math.min(b.length, 65_536); at++) {
    if (b[at] !== 0x69 || ascii(b, at, 4) !== 'ispe') continue;
    const [wide, high] = [u32(b, at + 8), u32(b, at + 12)];
    if (wide * high > width * height) [width, height] = [wide, high];
  }
  return { width, height, channels: 4, bitDepth: 10, isProgressive: false };
}

/**
 * Memory that decoding takes at its height, bytes, above what an idle decoder holds: bytes a pixel of each kind as measured
 * with `npm run bench -- preprocess --memory`, rounded up. Kinds that hold the picture twice (coefficients and samples, or planes
 * and samples) cost several times what the pixels alone do.
 */
export function estimateDecodeBytes(bytes: Uint8Array): number {
  const facts = readFacts(bytes);
  const fixed = FIXED_BYTES + 2 * bytes.byteLength;
  if (facts === null) return fixed;
  return fixed + facts.width * facts.height * bytesPerPixel(facts);
}

/** Buffers that do not grow with the picture, and what the resampler holds of it. */
const FIXED_BYTES = 32 * 2 ** 20;

function bytesPerPixel({ format, channels, bitDepth, isProgressive }: PictureFacts): number {
  // As the codec gives it, as it is turned or converted, and as RGB.
  const wide = bitDepth > 8 ? 2 : 1;
  const samples = Math.max(channels, 3) * wide + (channels === 3 && wide === 1 ? 3 : 6);
  switch (format) {
    case 'jpeg':
      return samples + (isProgressive ? 2 * channels : 0);
    case 'png':
      return samples + (isProgressive ? channels * wide : 0);
    case 'webp':
      return samples + 8;
    case 'gif':
      return samples + 8;
    case 'avif':
      return 40;
  }
}

function ascii(bytes: Uint8Array, start: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(start, start + length));
}
const u16 = (b: Uint8Array, at: number): number => ((b[at] ?? 0) << 8) | (b[at + 1] ?? 0);
const u16le = (b: Uint8Array, at: number): number => (b[at] ?? 0) | ((b[at + 1] ?? 0) << 8);
const u24le = (b: Uint8Array, at: number): number => u16le(b, at) | ((b[at + 2] ?? 0) << 16);
const u32 = (b: Uint8Array, at: number): number => u16(b, at) * 65_536 + u16(b, at + 2);
