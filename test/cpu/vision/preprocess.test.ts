import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { readSafetensors } from '../../../gpu-backend/io/safetensors.ts';
import { toFloat32 } from '../../../gpu-backend/io/tensor.ts';
import { decodeImage } from '../../../gpu-backend/vision/decode.ts';
import { fitRgb, preprocessImage } from '../../../gpu-backend/vision/preprocess.ts';
import { clipRecipe, idefics2Recipe, siglipRecipe } from '../../../gpu-backend/vision/recipes.ts';
import { type ResampleFilter, resizeRgb } from '../../../gpu-backend/vision/resample.ts';
import { verifyImages } from '../../../gpu-backend/vision/verify-images.ts';
import { golden, goldenFile, sha256 } from './golden.ts';

test("resizing equals Pillow's, bit for bit, with every filter", async () => {
  const sources = new Map<string, Awaited<ReturnType<typeof decodeImage>>>();
  for (const { source, filter, width, height, sha256: expected } of golden.resizes) {
    const image = sources.get(source) ?? (await decodeImage(goldenFile(source)));
    sources.set(source, image);
    assert.equal(
      sha256(resizeRgb(image, width, height, filter as ResampleFilter).pixels_HWC),
      expected,
      `${source} ${filter} ${width}x${height}`,
    );
  }
  assert.equal(golden.resizes.length, 100);
});

test('a file becomes channel-first floats of the size the recipe says', async () => {
  const siglip = await preprocessImage(goldenFile('base.jpg'), siglipRecipe(20));
  assert.deepEqual([siglip.width, siglip.height, siglip.pixels_CHW.length], [20, 20, 3 * 400]);
  assert.ok(siglip.pixels_CHW.every((value) => value >= -1 && value <= 1));
  assert.deepEqual(siglip.source, { format: 'jpeg', width: 40, height: 30 });
  const clip = await preprocessImage(goldenFile('base.jpg'), clipRecipe(20));
  assert.deepEqual([clip.width, clip.height], [20, 20]);
  const turned = await preprocessImage(goldenFile('exif6.jpg'), idefics2Recipe(36, 8));
  assert.deepEqual([turned.width, turned.height], [27, 36]);
});

test('the same pixels in another file have the same digest', async () => {
  const recipe = siglipRecipe(20);
  const [png, webp, jpeg] = await Promise.all(
    ['rgb.png', 'rgb.webp', 'base.jpg'].map((name) => preprocessImage(goldenFile(name), recipe)),
  );
  assert.equal(png?.digest, webp?.digest);
  assert.notEqual(png?.digest, jpeg?.digest);
});

/** Processor time of the fastest of a few runs, ms: other work on the machine does not count. */
function leastCpuMs(runs: number, work: () => unknown): number {
  const taken = Array.from({ length: runs }, () => {
    const start = process.cpuUsage();
    work();
    const { user, system } = process.cpuUsage(start);
    return (user + system) / 1000;
  });
  return Math.min(...taken);
}

test('1080p to the pixels of a model takes less processor time than decoding does', () => {
  const image = { width: 1920, height: 1080, pixels_HWC: new Uint8Array(1920 * 1080 * 3).map((_, i) => (i * 7) & 255) };
  // Measured 5 and 4 ms; plain loops took 42 and 50.
  for (const recipe of [siglipRecipe(384), clipRecipe(336)]) {
    const ms = leastCpuMs(8, () => fitRgb(image, recipe));
    assert.ok(ms < 20, `${ms} ms`);
  }
});

const oracle = new URL('../../../../shared/oracles/images', import.meta.url).pathname;
test('pixel values equal the reference processors', {
  skip: existsSync(oracle) ? false : `${oracle} is absent`,
}, async () => {
  const rows = await verifyImages(
    oracle,
    (path) =>
      new Map(
        [...readSafetensors(path)].map(([name, tensor]) => [name, { shape: tensor.shape, values: toFloat32(tensor) }]),
      ),
  );
  assert.equal(rows.length, 54);
  assert.deepEqual(
    rows.filter(({ ok }) => !ok),
    [],
  );
  // Better than the tolerance asks: not one grey level differs.
  assert.ok(Math.max(...rows.map(({ error }) => error)) < 0.001);
});
