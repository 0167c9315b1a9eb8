import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import sharp from 'sharp';
import { decodeImage } from '../../../gpu-backend/vision/decode.ts';
import { goldenFile } from './golden.ts';

/** What make_colour_golden.py wrote. */
interface ColourCase {
  readonly name: string;
  readonly width: number;
  readonly height: number;
  readonly base64: string;
  readonly managed: string;
  readonly stored: string;
}

const cases = JSON.parse(
  readFileSync(new URL('./colour-golden.json', import.meta.url), 'utf8'),
) as readonly ColourCase[];

function errors(got: Uint8Array, expected: Uint8Array): { max: number; mean: number } {
  assert.equal(got.length, expected.length);
  const all = Array.from(got, (value, i) => Math.abs(value - expected[i]!));
  return { max: Math.max(...all), mean: all.reduce((sum, error) => sum + error, 0) / all.length };
}

for (const { name, width, height, base64, ...expected } of cases) {
  test(`${name} has the colours Little CMS and Pillow give`, async () => {
    const bytes = new Uint8Array(Buffer.from(base64, 'base64'));
    for (const colour of ['managed', 'stored'] as const) {
      const image = await decodeImage(bytes, { colour, alpha: 'drop' });
      assert.deepEqual([image.width, image.height], [width, height]);
      const { max, mean } = errors(image.pixels_HWC, Buffer.from(expected[colour], 'base64'));
      // Without a conversion nothing may differ; another AVIF library rounds the conversion from YUV otherwise.
      const isExact = colour === 'stored' || /srgb/.test(name);
      if (name.endsWith('.avif')) assert.ok(max <= 6 && mean < 1, `${colour}: max ${max}, mean ${mean}`);
      else if (isExact) assert.equal(max, 0);
      else assert.ok(max <= 1 && mean < 0.05, `${colour}: max ${max}, mean ${mean}`);
    }
  });
}

test('a profile changes what is seen, except where the reference is asked for', async () => {
  const bytes = new Uint8Array(Buffer.from(cases.find(({ name }) => name === 'display-p3.png')!.base64, 'base64'));
  const [managed, stored] = [await decodeImage(bytes), await decodeImage(bytes, { colour: 'stored' })];
  assert.ok(errors(managed.pixels_HWC, stored.pixels_HWC).mean > 2);
});

test('16 bits with a profile are converted too', async () => {
  const bytes = await sharp({ create: { width: 8, height: 8, channels: 3, background: '#ff8000' } })
    .toColourspace('rgb16')
    .withIccProfile('p3')
    .png()
    .toBuffer();
  assert.equal((await sharp(bytes).metadata()).depth, 'ushort');
  const { pixels_HWC } = await decodeImage(bytes);
  assert.ok(errors(pixels_HWC.subarray(0, 3), Uint8Array.of(255, 128, 0)).max <= 2, String(pixels_HWC.subarray(0, 3)));
});

test('CMYK goes by its profile where it has one, else by the plain formula', async () => {
  const solid = sharp({ create: { width: 16, height: 16, channels: 3, background: '#c83214' } });
  const bytes = await solid.clone().withIccProfile('cmyk').jpeg({ quality: 100 }).toBuffer();
  const { pixels_HWC } = await decodeImage(bytes);
  assert.ok(errors(pixels_HWC.subarray(0, 3), Uint8Array.of(200, 50, 20)).max <= 12, String(pixels_HWC.subarray(0, 3)));
  const plain = await decodeImage(goldenFile('cmyk.jpg'));
  const stored = await decodeImage(goldenFile('cmyk.jpg'), { colour: 'stored' });
  assert.deepEqual(plain.pixels_HWC, stored.pixels_HWC);
});

/** A PNG with this profile put in by hand, whatever it is. */
async function withProfile(space: 'srgb' | 'b-w', profile: Uint8Array): Promise<Uint8Array> {
  const plain = await sharp({ create: { width: 8, height: 8, channels: 3, background: '#ff8000' } })
    .toColourspace(space)
    .jpeg({ quality: 100 })
    .toBuffer();
  const head = Buffer.alloc(18);
  head.writeUInt16BE(0xffe2);
  head.writeUInt16BE(16 + profile.length, 2);
  head.write('ICC_PROFILE\0', 4, 'latin1');
  head.set([1, 1], 16);
  return Buffer.concat([plain.subarray(0, 2), head, profile, plain.subarray(2)]);
}

test('a profile that is broken, or of another kind of picture, is ignored', async () => {
  const p3 = await sharp(Buffer.from(cases.find(({ name }) => name === 'display-p3.png')!.base64, 'base64')).metadata();
  const broken = Buffer.from(p3.icc!);
  broken.fill(0x77, 132);
  for (const [space, profile] of [
    ['srgb', broken],
    ['srgb', Buffer.alloc(200)],
    ['b-w', p3.icc!],
  ] as const) {
    const bytes = await withProfile(space, profile);
    const [managed, stored] = [await decodeImage(bytes), await decodeImage(bytes, { colour: 'stored' })];
    assert.deepEqual(managed.pixels_HWC, stored.pixels_HWC);
  }
});
