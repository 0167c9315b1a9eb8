import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { estimateDecodeBytes, readFacts, sniffFormat } from '../../../gpu-backend/vision/header.ts';
import { encodeGif } from '../../fixtures/pictures/gif.ts';
import { PNG_SIGNATURE, pngHeader } from '../../fixtures/pictures/png.ts';

const MIB = 2 ** 20;

/** A JPEG up to its frame header, behind segments of other kinds. */
function jpegHead(width: number, height: number, marker: number, channels = 3): Uint8Array {
  const size = [height >> 8, height & 255, width >> 8, width & 255];
  const app = [0xff, 0xe1, 0, 6, 0xff, 0xc2, 1, 1];
  return Uint8Array.of(
    0xff,
    0xd8,
    ...app,
    0xff,
    marker,
    0,
    17,
    8,
    ...size,
    channels,
    1,
    0x22,
    0,
    2,
    0x11,
    1,
    3,
    0x11,
    1,
  );
}

function png(width: number, height: number, depth: number, colour: number, interlace = 0): Uint8Array {
  return Buffer.concat([PNG_SIGNATURE, pngHeader(width, height, depth, colour, interlace)]);
}

function avif(brand: string, compatible: readonly string[], ispe: readonly (readonly [number, number])[]): Uint8Array {
  const box = Buffer.concat([Buffer.from(brand), Buffer.alloc(4), ...compatible.map((name) => Buffer.from(name))]);
  const head = Buffer.alloc(8);
  head.writeUInt32BE(8 + box.length);
  head.write('ftyp', 4);
  const sizes = ispe.map(([width, height]) => {
    const out = Buffer.alloc(20);
    out.writeUInt32BE(20);
    out.write('ispe', 4);
    out.writeUInt32BE(width, 12);
    out.writeUInt32BE(height, 16);
    return out;
  });
  return Buffer.concat([head, box, ...sizes]);
}

test('headers of every format are read without a codec', () => {
  const facts = (bytes: Uint8Array): unknown => {
    const { format, width, height, isProgressive, channels } = readFacts(bytes)!;
    return [format, width, height, isProgressive, channels];
  };
  assert.deepEqual(facts(jpegHead(1920, 1080, 0xc0)), ['jpeg', 1920, 1080, false, 3]);
  assert.deepEqual(facts(jpegHead(1920, 1080, 0xc2)), ['jpeg', 1920, 1080, true, 3]);
  assert.deepEqual(facts(jpegHead(7, 9, 0xc1, 4)), ['jpeg', 7, 9, false, 4]);
  assert.deepEqual(facts(png(640, 480, 8, 6)), ['png', 640, 480, false, 4]);
  assert.deepEqual(facts(png(640, 480, 16, 0, 1)), ['png', 640, 480, true, 1]);
  const frames = [
    { left: 0, top: 0, width: 3, height: 2, indices: new Uint8Array(6), isInterlaced: false, transparent: null },
  ];
  const gif = encodeGif({ width: 3, height: 2, palette: new Uint8Array(6), frames });
  assert.deepEqual(facts(gif), ['gif', 3, 2, false, 4]);
  assert.deepEqual(
    facts(
      avif(
        'avif',
        ['mif1'],
        [
          [96, 64],
          [400, 300],
          [8, 8],
        ],
      ),
    ),
    ['avif', 400, 300, false, 4],
  );
});

test('AVIF is told from its relatives by its brands', () => {
  assert.equal(sniffFormat(avif('mif1', ['miaf', 'avif'], [])), 'avif');
  assert.equal(sniffFormat(avif('avis', [], [])), 'avif');
  assert.equal(sniffFormat(avif('heic', ['mif1'], [])), null);
  assert.equal(sniffFormat(avif('isom', ['mp42'], [])), null);
});

test('kinds that hold a picture several times are estimated higher', () => {
  const plain = estimateDecodeBytes(jpegHead(4000, 4000, 0xc0));
  assert.ok(estimateDecodeBytes(jpegHead(4000, 4000, 0xc2)) > plain + 64 * MIB);
  assert.ok(estimateDecodeBytes(png(4000, 4000, 16, 6)) > estimateDecodeBytes(png(4000, 4000, 8, 2)));
  assert.ok(estimateDecodeBytes(png(4000, 4000, 8, 2, 1)) > estimateDecodeBytes(png(4000, 4000, 8, 2)));
  // The largest pictures the limits allow fit the default budget of 1 GiB, but for interlaced 16-bit RGBA beyond 46 megapixels.
  for (const bytes of [jpegHead(7071, 7071, 0xc2, 4), png(7071, 7071, 16, 6), avif('avif', [], [[2048, 2048]])])
    assert.ok(estimateDecodeBytes(bytes) < 1024 * MIB, `${estimateDecodeBytes(bytes) / MIB} MiB`);
});

test('any bytes have an estimate, and none throws', () => {
  const start = fc.constantFrom<Uint8Array>(
    jpegHead(9, 9, 0xc0),
    png(9, 9, 8, 2),
    avif('avif', [], [[9, 9]]),
    Buffer.from('RIFF0000WEBPVP8X'),
    Buffer.from('GIF89a'),
    new Uint8Array(0),
  );
  fc.assert(
    fc.property(start, fc.nat(40), fc.uint8Array({ maxLength: 60 }), (head, keep, more) => {
      const estimate = estimateDecodeBytes(Buffer.concat([head.subarray(0, keep), more]));
      assert.ok(Number.isFinite(estimate) && estimate > 0);
    }),
    { numRuns: 2_000 },
  );
});
