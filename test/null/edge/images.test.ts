import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ProbeError } from '../../../edge/images/bytes.ts';
import { checkImage } from '../../../edge/images/check.ts';
import { probe } from '../../../edge/images/probe.ts';
import { sniff } from '../../../edge/images/sniff.ts';
import type { ImageMime } from '../../../shared/contract/images.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { avifFile } from './avif-boxes.ts';
import { avif, gif, jpeg, png, webpExtended, webpLossless, webpLossy } from './pictures.ts';

const KINDS: [string, ImageMime, Uint8Array][] = [
  ['PNG', 'image/png', png(640, 480)],
  ['JPEG', 'image/jpeg', jpeg(640, 480)],
  ['JPEG with a long comment', 'image/jpeg', jpeg(640, 480, { padding: 60_000 })],
  ['WebP lossy', 'image/webp', webpLossy(640, 480)],
  ['WebP lossless', 'image/webp', webpLossless(640, 480)],
  ['WebP extended', 'image/webp', webpExtended(640, 480)],
  ['GIF', 'image/gif', gif(640, 480)],
];

describe('probe', () => {
  for (const [name, mime, bytes] of KINDS) {
    it(`reads ${name}`, () => {
      assert.equal(sniff(bytes), mime);
      const { width, height, frames, orientation, bitDepth } = probe(bytes, mime);
      assert.deepEqual([width, height, frames, orientation, bitDepth], [640, 480, 1, 1, 8]);
    });
  }

  it('reads AVIF', () => {
    const plain = {
      mime: 'image/avif',
      frames: 1,
      orientation: 1,
      bitDepth: 8,
      channels: 3,
      hasProfile: false,
      progressive: false,
    };
    assert.equal(sniff(avif('plain')), 'image/avif');
    assert.deepEqual(probe(avif('plain'), 'image/avif'), { ...plain, width: 64, height: 48, hasAlpha: false });
    assert.deepEqual(probe(avif('alpha'), 'image/avif'), { ...plain, width: 33, height: 17, hasAlpha: true });
  });

  it('refuses an AVIF that codes more than it says, and one that codes far more than it shows', () => {
    assert.throws(() => probe(avif('plain', { width: 16, height: 16 }), 'image/avif'), /codes 64x48/);
    assert.throws(() => probe(avif('plain').subarray(0, 260), 'image/avif'), /ends after byte 260/);
  });

  describe('AVIF', () => {
    const size = (file: Parameters<typeof avifFile>[0]) => {
      const { width, height } = probe(avifFile(file), 'image/avif');
      return [width, height];
    };
    const turn = (angle: number) => ({ items: [{ properties: [['irot', [angle]] as const] }] });

    it('is measured as it is shown, wherever its data stands', () => {
      assert.deepEqual(size({ items: [{}] }), [64, 48]);
      assert.deepEqual(size({ items: [{}], inMeta: true }), [64, 48]);
      assert.deepEqual(
        [0, 1, 2, 3].map((angle) => size(turn(angle)).join('x')),
        ['64x48', '48x64', '64x48', '48x64'],
      );
      const mirrored = { items: [{ properties: [['imir', [1]] as const] }] };
      assert.deepEqual(size(mirrored), [64, 48]);
      const tiles = [1, 2, 3, 4].map(() => ({ hidden: true }));
      const grid = { type: 'grid', size: [120, 90] } as const;
      assert.deepEqual(
        size({ items: [...tiles, grid], primary: 5, references: [['dimg', 5, [1, 2, 3, 4]]] }),
        [120, 90],
      );
      assert.deepEqual(size({ items: [{}, { size: null }], references: [['auxl', 2, [1]]] }), [64, 48]);
      assert.deepEqual(size({ items: [{}, {}], references: [['thmb', 2, [1]]] }), [64, 48]);
    });

    it('is refused where a decoder would show another picture, or do far more work than it says', () => {
      const refused = (file: Parameters<typeof avifFile>[0], reason: RegExp) => assert.throws(() => size(file), reason);
      refused({ items: [{}, {}], primary: 2 }, /first of which is not the main one/);
      refused({ items: [{}, { type: 'grid' }], primary: 2 }, /first of which is not the main one/);
      refused({ items: [{}], primary: 7 }, /no such item/);
      refused({ items: [{ type: 'iovl' }] }, /type "iovl"/);
      refused({ items: [{ size: null }] }, /without a size/);
      refused({ items: [{ size: [63, 48] }] }, /says 63x48 and codes 64x48/);
      refused({ items: [{ properties: [['clap', Array<number>(32).fill(0)]] }] }, /clean aperture/);
      const many = Array.from({ length: 400 }, () => ({ hidden: true }));
      refused({ items: [{}, ...many] }, /codes 1231872 pixels for a picture of 64x48/);
      refused({ items: Array.from({ length: 1_100 }, () => ({})) }, /more than 1024 AVIF boxes/);
    });

    it('costs little, whatever its boxes say', () => {
      const base = avifFile({ items: [{}] });
      const kind = avifFile({ items: [{ properties: [['auxC', Array<number>(300_000).fill(0x41)]] }] });
      assert.deepEqual([probe(kind, 'image/avif').width, probe(kind, 'image/avif').hasAlpha], [64, false]);
      // An item list that says it has thousands of pieces of no size.
      const at = Buffer.from(base).indexOf('iloc') + 4;
      const pieces = base.slice();
      pieces.set([1, 0, 0, 0, 0x00, 0x00, 0, 1, 0, 1, 0, 0, 0, 0, 0xff, 0xff], at);
      assert.throws(() => probe(pieces, 'image/avif'), /more than 8192 pieces/);
    });

    it('is never measured by a broken box without a word', () => {
      const whole = avifFile({ items: [{}, {}], references: [['thmb', 2, [1]]], inMeta: true });
      for (let length = 0; length < whole.byteLength; length++)
        assert.throws(() => probe(whole.subarray(0, length), 'image/avif'), ProbeError, `cut at ${length}`);
    });
  });

  it('says how a picture is stored', () => {
    const form = (bytes: Uint8Array) => {
      const { channels, hasAlpha, progressive } = probe(bytes, sniff(bytes)!);
      return [channels, hasAlpha, progressive];
    };
    assert.deepEqual(form(jpeg(4, 4)), [1, false, true]);
    assert.deepEqual(form(png(4, 4)), [3, false, false]);
    const grey = png(4, 4);
    grey.set([16, 4, 0, 0, 1], 24);
    assert.deepEqual(form(grey), [1, true, true]);
    assert.equal(probe(grey, 'image/png').bitDepth, 16);
    assert.deepEqual(form(gif(4, 4)), [3, false, false]);
  });

  it('turns the size for orientations 5 to 8 and for no other', () => {
    for (let orientation = 1; orientation <= 8; orientation++) {
      for (const bytes of [
        jpeg(640, 480, { orientation }),
        jpeg(640, 480, { orientation, littleEndian: false }),
        png(640, 480, { orientation }),
        webpExtended(640, 480, { orientation }),
      ]) {
        const info = probe(bytes, sniff(bytes)!);
        assert.deepEqual(
          [info.width, info.height],
          orientation >= 5 ? [480, 640] : [640, 480],
          `orientation ${orientation}`,
        );
      }
    }
    assert.equal(probe(jpeg(4, 3, { orientation: 99 }), 'image/jpeg').orientation, 1);
  });

  it('counts frames', () => {
    assert.equal(probe(gif(4, 4, 3), 'image/gif').frames, 2);
    assert.equal(probe(png(4, 4, { frames: 5 }), 'image/png').frames, 5);
    assert.equal(probe(webpExtended(4, 4, { frames: 4 }), 'image/webp').frames, 4);
  });

  it('answers a cut picture with a ProbeError or with what the whole one says', () => {
    for (const [name, mime, whole] of KINDS) {
      for (let length = 0; length < Math.min(whole.byteLength, 400); length++) {
        try {
          assert.equal(probe(whole.subarray(0, length), mime).width, 640);
        } catch (error) {
          assert.ok(error instanceof ProbeError, `${name} cut at ${length}: ${error}`);
        }
      }
    }
  });

  it('survives 20,000 mutations', () => {
    const avifs = [avif('plain'), avif('alpha')].map((bytes) => ['image/avif', bytes] as const);
    const seeds = [...KINDS.map(([, mime, bytes]) => [mime, bytes.subarray(0, 300)] as const), ...avifs];
    fc.assert(
      fc.property(
        fc.constantFrom(...seeds),
        fc.array(fc.tuple(fc.nat(449), fc.nat(255)), { maxLength: 6 }),
        ([mime, seed], edits) => {
          const bytes = seed.slice();
          for (const [at, value] of edits) bytes[at % bytes.byteLength] = value;
          try {
            probe(bytes, mime);
          } catch (error) {
            assert.ok(error instanceof ProbeError, String(error));
          }
        },
      ),
      { numRuns: 20_000, seed: 1 },
    );
  });
});

describe('picture limits', () => {
  const at = 'messages[0].content[2].image_url';
  const codes = (bytes: Uint8Array, declared: string | null = null) => {
    const result = checkImage(bytes, declared, at);
    return Array.isArray(result) ? result.map(({ code, param }) => `${code}${param === at ? '' : ` at ${param}`}`) : [];
  };
  const L = LIMITS.images;

  it('hold at the limit and one beyond', () => {
    assert.deepEqual(codes(png(L.maxSide, 3000)), []);
    assert.deepEqual(codes(png(L.maxSide + 1, 3000)), ['image_too_large']);
    assert.deepEqual(codes(png(5000, L.maxPixels / 5000)), []);
    assert.deepEqual(codes(png(5000, L.maxPixels / 5000 + 1)), ['image_too_large']);
    assert.deepEqual(codes(png(L.maxAspectRatio, 1)), []);
    assert.deepEqual(codes(png(L.maxAspectRatio + 1, 1)), ['image_too_large']);
    assert.deepEqual(codes(png(1, 1)), []);
  });

  it('are tighter for AVIF', () => {
    assert.deepEqual(codes(avif('plain', { width: 2048, height: L.maxAvifPixels / 2048 })), []);
    assert.deepEqual(codes(avif('plain', { width: 2048, height: L.maxAvifPixels / 2048 + 1 })), ['image_too_large']);
  });

  it('refuse what is no picture and another one than declared; of moving ones the first frame counts', () => {
    assert.deepEqual(codes(new Uint8Array(0)), ['empty_image_file']);
    assert.deepEqual(codes(new TextEncoder().encode('<svg xmlns="http://www.w3.org/2000/svg"/>')), [
      'invalid_image_format',
    ]);
    assert.deepEqual(codes(png(4, 4), 'image/jpeg'), ['invalid_image_format']);
    assert.deepEqual(codes(png(4, 4).subarray(0, 40)), ['image_parse_error']);
    assert.deepEqual(codes(gif(4, 4, 2)), []);
    assert.deepEqual(codes(webpExtended(4, 4, { frames: 5_000 })), []);
    assert.deepEqual(codes(png(4, 4, { frames: 20_000 })), []);
    assert.deepEqual(codes(png(0, 4)), ['image_parse_error']);
    assert.deepEqual(codes(png(20_000, 20_000)), ['image_too_large', 'image_too_large']);
  });

  it('name other formats', () => {
    const heads: [string, string][] = [
      ['a TIFF', 'II*\0\x08\0\0\0'],
      ['a BMP', 'BM....'],
      ['a HEIC', '\0\0\0\x18ftypheic\0\0\0\0mif1heic'],
      ['a video', '\0\0\0\x18ftypisom\0\0\0\0isommp42'],
      ['a PDF', '%PDF-1.7'],
      ['an icon', '\0\0\x01\0\x01\0'],
      ['a JPEG 2000', '\0\0\0\x0cjP  \r\n\x87\n'],
      ['a JPEG XL', '\xff\x0a..'],
      ['an SVG', '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'],
      ['a web page', '<!DOCTYPE html><html>'],
      ['an archive', 'PK\x03\x04'],
    ];
    for (const [name, head] of heads) {
      const bytes = Uint8Array.from(Buffer.from(head, 'latin1'));
      const problems = checkImage(bytes, null, at);
      assert.ok(Array.isArray(problems) && problems[0]?.message.includes(`received ${name}.`), name);
    }
  });

  it('say limit and value', () => {
    const [problem] = checkImage(png(L.maxSide + 1, 100), null, at) as { message: string }[];
    assert.match(problem!.message, new RegExp(`${L.maxSide} pixels, received ${L.maxSide + 1}x100`));
  });
});
