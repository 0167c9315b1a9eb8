import assert from 'node:assert/strict';
import { test } from 'node:test';
import { deflateSync } from 'node:zlib';
import fc from 'fast-check';
import { decodeImage } from '../../../gpu-backend/vision/decode.ts';
import { ImageError } from '../../../gpu-backend/vision/image-error.ts';
import { golden, goldenFile, sha256 } from './golden.ts';

for (const { name, mode, base64, width, height, sha256: expected, turned } of golden.files) {
  test(`${name} (${mode}) gives Pillow's pixels`, async () => {
    const bytes = new Uint8Array(Buffer.from(base64, 'base64'));
    const plain = await decodeImage(bytes, { alpha: 'drop', orient: false });
    assert.deepEqual([plain.width, plain.height, sha256(plain.pixels_HWC)], [width, height, expected]);
    const upright = await decodeImage(bytes, { alpha: 'drop' });
    assert.deepEqual(
      [upright.width, upright.height, sha256(upright.pixels_HWC)],
      [turned.width, turned.height, turned.sha256],
    );
  });
}

test('transparency is laid on white', async () => {
  const [white, dropped] = [
    await decodeImage(goldenFile('rgba.png')),
    await decodeImage(goldenFile('rgba.png'), { alpha: 'drop' }),
  ];
  const { pixels_HWC: opaque } = await decodeImage(goldenFile('rgb.png'));
  assert.deepEqual(dropped.pixels_HWC, opaque);
  for (let i = 0; i < opaque.length; i += 3) {
    // The fixture's alpha is its green channel.
    const alpha = opaque[i + 1]! / 255;
    for (let c = 0; c < 3; c++)
      assert.ok(Math.abs(white.pixels_HWC[i + c]! - (opaque[i + c]! * alpha + 255 * (1 - alpha))) <= 0.51);
  }
});

function chunk(kind: string, data: Uint8Array): Buffer {
  const head = Buffer.alloc(8);
  head.writeUInt32BE(data.length);
  head.write(kind, 4, 'latin1');
  const body = Buffer.concat([head.subarray(4), data]);
  let crc = ~0;
  for (const byte of body) {
    crc ^= byte;
    for (let k = 0; k < 8; k++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  const tail = Buffer.alloc(4);
  tail.writeUInt32BE(~crc >>> 0);
  return Buffer.concat([head.subarray(0, 4), body, tail]);
}

/** A PNG whose header claims a size, over data that may hold another. */
function png(width: number, height: number, depth: number, colour: number, raw: Uint8Array): Uint8Array {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width);
  header.writeUInt32BE(height, 4);
  header[8] = depth;
  header[9] = colour;
  const signature = Buffer.from('89504e470d0a1a0a', 'hex');
  return Buffer.concat([
    signature,
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(raw)),
    chunk('IEND', new Uint8Array(0)),
  ]);
}

const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"><image href="file:///etc/passwd"/></svg>';
const refused: [string, Uint8Array, ImageError['code']][] = [
  ['nothing', new Uint8Array(0), 'empty_image_file'],
  ['one byte too many', new Uint8Array(10 * 1024 * 1024 + 1), 'image_file_too_large'],
  ['SVG', Buffer.from(svg), 'invalid_image_format'],
  ['SVG behind an XML declaration', Buffer.from(`<?xml version="1.0"?>${svg}`), 'invalid_image_format'],
  ['TIFF', Buffer.from('49492a0008000000', 'hex'), 'invalid_image_format'],
  ['PDF', Buffer.from('%PDF-1.7\n'), 'invalid_image_format'],
  ['BMP', Buffer.from('BM'.padEnd(60, '\0')), 'invalid_image_format'],
  ['HEIC', Buffer.from('\0\0\0\x18ftypheic\0\0\0\0mif1heic', 'latin1'), 'invalid_image_format'],
  ['an AVIF header alone', Buffer.from('\0\0\0\x20ftypavif\0\0\0\0', 'latin1'), 'image_parse_error'],
  [
    'SVG behind a PNG signature',
    Buffer.concat([Buffer.from('89504e470d0a1a0a', 'hex'), Buffer.from(svg)]),
    'image_parse_error',
  ],
  ['a PNG of 30,000 × 30,000 one-bit pixels', png(30_000, 30_000, 1, 0, new Uint8Array(10)), 'image_too_large'],
  ['a PNG of 16,384 × 16,384', png(16_384, 16_384, 8, 0, new Uint8Array(10)), 'image_too_large'],
  ['a PNG whose header claims more than its data', png(7000, 7000, 8, 2, new Uint8Array(100)), 'image_parse_error'],
  ['a PNG of 1 × 201', png(1, 201, 8, 0, new Uint8Array(402)), 'image_too_large'],
  ['a PNG of no width', png(0, 10, 8, 2, new Uint8Array(10)), 'image_parse_error'],
  ['half a PNG', goldenFile('rgb.png').subarray(0, 1500), 'image_parse_error'],
  ['half a JPEG', goldenFile('base.jpg').subarray(0, 900), 'image_parse_error'],
  ['a JPEG header alone', Uint8Array.of(0xff, 0xd8, 0xff, 0xe0), 'image_parse_error'],
  ['half a WebP', goldenFile('lossy.webp').subarray(0, 120), 'image_parse_error'],
  ['half a GIF', goldenFile('palette.gif').subarray(0, 120), 'image_parse_error'],
];
for (const [what, bytes, code] of refused) {
  // The limit only ends a decoder that a hostile file holds.
  test(`refused as ${code}: ${what}`, { timeout: 30_000 }, async () => {
    await assert.rejects(decodeImage(bytes), (error) => error instanceof ImageError && error.code === code);
  });
}

test('limits hold at their value and one above', async () => {
  const bytes = goldenFile('rgb.png');
  const limits = {
    maxBytes: bytes.length,
    maxSide: 37,
    maxPixels: 37 * 29,
    maxAvifPixels: 37 * 29,
    maxAspectRatio: 37 / 29,
  };
  assert.equal((await decodeImage(bytes, { limits })).width, 37);
  for (const [field, code] of [
    ['maxBytes', 'image_file_too_large'],
    ['maxSide', 'image_too_large'],
    ['maxPixels', 'image_too_large'],
    ['maxAspectRatio', 'image_too_large'],
  ] as const) {
    await assert.rejects(
      decodeImage(bytes, { limits: { ...limits, [field]: limits[field] - (field === 'maxAspectRatio' ? 0.01 : 1) } }),
      (error) => error instanceof ImageError && error.code === code,
    );
  }
});

test('every small and every thin size decodes', async () => {
  const thin = [
    [1, 1],
    [1, 200],
    [200, 1],
    [2, 399],
    [16_384, 82],
  ] as const;
  const square = Array.from({ length: 64 }, (_, i) => [i + 1, 64 - i] as const);
  for (const [width, height] of [...thin, ...square]) {
    const { pixels_HWC } = await decodeImage(png(width, height, 8, 0, new Uint8Array((width + 1) * height)));
    assert.equal(pixels_HWC.length, width * height * 3);
  }
});

test('mutated pictures decode or are refused in our words, never anything else', async () => {
  const seeds = [
    'rgb.png',
    'base.jpg',
    'prog.jpg',
    'lossy.webp',
    'rgba.webp',
    'animated.gif',
    'palette-trns.png',
    'cmyk.jpg',
    'exif6.jpg',
  ].map(goldenFile);
  const edit = fc.tuple(fc.nat(4000), fc.nat(255));
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...seeds),
      fc.array(edit, { maxLength: 8 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      async (seed, edits, cut) => {
        const bytes = Uint8Array.from(seed.subarray(0, cut > 0.5 ? seed.length : Math.ceil(seed.length * cut * 2)));
        for (const [at, value] of edits) bytes[at % bytes.length] = value;
        try {
          const { width, height, pixels_HWC } = await decodeImage(bytes);
          assert.equal(pixels_HWC.length, width * height * 3);
        } catch (error) {
          assert.ok(error instanceof ImageError, String(error));
        }
      },
    ),
    { numRuns: 1500 },
  );
});

test('random bytes are refused', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 400 }), async (bytes) => {
      await assert.rejects(decodeImage(bytes), ImageError);
    }),
    { numRuns: 500 },
  );
});
