/** Headers of pictures, built byte by byte: enough for a probe, nothing more. */

const ascii = (text: string) => [...text].map((char) => char.charCodeAt(0));
const be = (value: number, bytes: number) =>
  Array.from({ length: bytes }, (_, i) => (value / 2 ** (8 * (bytes - 1 - i))) & 0xff);
const le = (value: number, bytes: number) => be(value, bytes).reverse();

function chunk(type: string, data: number[]): number[] {
  return [...be(data.length, 4), ...ascii(type), ...data, 0, 0, 0, 0];
}

/** A TIFF block whose only entry is the orientation. */
export function exif(orientation: number, littleEndian: boolean): number[] {
  const n = littleEndian ? le : be;
  const head = [...ascii(littleEndian ? 'II' : 'MM'), ...n(42, 2), ...n(8, 4)];
  return [...head, ...n(1, 2), ...n(0x0112, 2), ...n(3, 2), ...n(1, 4), ...n(orientation, 2), 0, 0, ...n(0, 4)];
}

export function png(
  width: number,
  height: number,
  options: { frames?: number; orientation?: number } = {},
): Uint8Array {
  const { frames, orientation } = options;
  return new Uint8Array([
    ...[0x89, ...ascii('PNG\r\n'), 0x1a, 0x0a],
    ...chunk('IHDR', [...be(width, 4), ...be(height, 4), 8, 2, 0, 0, 0]),
    ...(frames === undefined ? [] : chunk('acTL', [...be(frames, 4), 0, 0, 0, 0])),
    ...(orientation === undefined ? [] : chunk('eXIf', exif(orientation, false))),
    ...chunk('IDAT', [1, 2, 3]),
    ...chunk('IEND', []),
  ]);
}

export function jpeg(
  width: number,
  height: number,
  options: { orientation?: number; littleEndian?: boolean; padding?: number } = {},
): Uint8Array {
  const { orientation, littleEndian = true, padding = 0 } = options;
  const block = orientation === undefined ? [] : [...ascii('Exif'), 0, 0, ...exif(orientation, littleEndian)];
  const app1 = orientation === undefined ? [] : [0xff, 0xe1, ...be(block.length + 2, 2), ...block];
  const comment = [0xff, 0xfe, ...be(padding + 2, 2), ...Array<number>(padding).fill(0x41)];
  return new Uint8Array([
    0xff,
    0xd8,
    ...app1,
    ...comment,
    0xff,
    0xff,
    0xc2,
    ...be(11, 2),
    8,
    ...be(height, 2),
    ...be(width, 2),
    1,
    1,
    0x11,
    0,
    0xff,
    0xd9,
  ]);
}

function riff(chunks: number[]): Uint8Array {
  return new Uint8Array([...ascii('RIFF'), ...le(chunks.length + 4, 4), ...ascii('WEBP'), ...chunks]);
}

export function webpLossy(width: number, height: number): Uint8Array {
  const data = [0, 0, 0, 0x9d, 0x01, 0x2a, ...le(width, 2), ...le(height, 2)];
  return riff([...ascii('VP8 '), ...le(data.length, 4), ...data]);
}

export function webpLossless(width: number, height: number): Uint8Array {
  const data = [0x2f, ...le((width - 1) | ((height - 1) << 14), 4), 0];
  return riff([...ascii('VP8L'), ...le(data.length, 4), ...data]);
}

export function webpExtended(
  width: number,
  height: number,
  options: { frames?: number; orientation?: number } = {},
): Uint8Array {
  const { frames = 0, orientation } = options;
  const head = [...ascii('VP8X'), ...le(10, 4), 0, 0, 0, 0, ...le(width - 1, 3), ...le(height - 1, 3)];
  const frame = [...ascii('ANMF'), ...le(3, 4), 1, 2, 3, 0];
  const block = orientation === undefined ? [] : exif(orientation, true);
  const tail = orientation === undefined ? [] : [...ascii('EXIF'), ...le(block.length, 4), ...block];
  return riff([...head, ...Array.from({ length: frames }, () => frame).flat(), ...tail]);
}

export function gif(width: number, height: number, frames = 1): Uint8Array {
  const frame = [0x21, 0xf9, 4, 0, 0, 0, 0, 0, 0x2c, 0, 0, 0, 0, ...le(width, 2), ...le(height, 2), 0, 2, 1, 0x44, 0];
  return new Uint8Array([
    ...ascii('GIF89a'),
    ...le(width, 2),
    ...le(height, 2),
    0x80,
    0,
    0,
    0,
    0,
    0,
    1,
    1,
    1,
    ...Array.from({ length: frames }, () => frame).flat(),
    0x3b,
  ]);
}

/** Made by libheif through sharp: one colour; `size` is 64x48 without alpha, 33x17 with. */
const AVIF = {
  plain:
    'AAAAHGZ0eXBhdmlmAAAAAG1pZjFhdmlmbWlhZgAAANZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAAA5waXRtAAAAAAABAAAAImlsb2MAAAAAREAAAQABAAAAAAD6AAEAAAAAAAAAHAAAACNpaW5mAAAAAAABAAAAFWluZmUCAAAAAAEAAGF2MDEAAAAAVmlwcnAAAAA4aXBjbwAAAAxhdjFDgSACAAAAABRpc3BlAAAAAAAAAEAAAAAwAAAAEHBpeGkAAAAAAwgICAAAABZpcG1hAAAAAAAAAAEAAQOBAgMAAAAkbWRhdBIACgk4FX+9hAQ0GkAyDRsAAABACgWSr0LI2Mo=',
  alpha:
    'AAAAHGZ0eXBhdmlmAAAAAG1pZjFhdmlmbWlhZgAAAXBtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAAA5waXRtAAAAAAABAAAANGlsb2MAAAAAREAAAgABAAAAAAGUAAEAAAAAAAAAHAACAAAAAAGwAAEAAAAAAAAAEgAAADhpaW5mAAAAAAACAAAAFWluZmUCAAAAAAEAAGF2MDEAAAAAFWluZmUCAAAAAAIAAGF2MDEAAAAAr2lwcnAAAACKaXBjbwAAAAxhdjFDgSACAAAAABRpc3BlAAAAAAAAACEAAAARAAAAEHBpeGkAAAAAAwgICAAAAAxhdjFDgQAcAAAAAA5waXhpAAAAAAEIAAAAOGF1eEMAAAAAdXJuOm1wZWc6bXBlZ0I6Y2ljcDpzeXN0ZW1zOmF1eGlsaWFyeTphbHBoYQAAAAAdaXBtYQAAAAAAAAACAAEDgQIDAAIEhAIFhgAAABppcmVmAAAAAAAAAA5hdXhsAAIAAQABAAAANm1kYXQSAAoJOBUggwgIaDSAMg0bAAAAQAs9AyA/l9J4EgAKBhgVIIMKgDIGGwAAAUAU',
};

/** @param size what its `ispe` box says, truly or not. */
export function avif(kind: keyof typeof AVIF, size?: { width: number; height: number }): Uint8Array {
  const bytes = Uint8Array.from(Buffer.from(AVIF[kind], 'base64'));
  if (size === undefined) return bytes;
  const at = Buffer.from(bytes).indexOf('ispe') + 8;
  bytes.set([...be(size.width, 4), ...be(size.height, 4)], at);
  return bytes;
}
