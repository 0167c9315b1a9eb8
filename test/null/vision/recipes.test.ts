import assert from 'node:assert/strict';
import { test } from 'node:test';
import { digestPixels, fitRgb, padBatch, planSize, preprocessRgb } from '../../../gpu-backend/vision/preprocess.ts';
import {
  clipRecipe,
  formatRecipe,
  idefics2Recipe,
  nanoRecipe,
  parseRecipe,
  type ResizeRule,
  siglipRecipe,
} from '../../../gpu-backend/vision/recipes.ts';
import { cropRgb, type RgbImage } from '../../../gpu-backend/vision/resample.ts';

const sizes: [string, [number, number], ResizeRule, [number, number]][] = [
  ['exact ignores the shape', [504, 336], { kind: 'exact', width: 384, height: 384 }, [384, 384]],
  [
    'shortest, landscape: the long side is cut to an integer',
    [505, 336],
    { kind: 'shortest', shortest: 84 },
    [126, 84],
  ],
  ['shortest, portrait', [9, 23], { kind: 'shortest', shortest: 84 }, [84, 214]],
  ['bounds, wide', [331, 47], { kind: 'bounds', longest: 140, shortest: 56 }, [140, 56]],
  ['bounds, tall', [430, 640], { kind: 'bounds', longest: 140, shortest: 56 }, [94, 140]],
  ['bounds, small: both sides are raised', [9, 23], { kind: 'bounds', longest: 140, shortest: 56 }, [56, 56]],
  ['bounds, inside: untouched', [84, 84], { kind: 'bounds', longest: 140, shortest: 56 }, [84, 84]],
  ['bounds, published values', [4000, 3000], { kind: 'bounds', longest: 980, shortest: 378 }, [980, 735]],
];
for (const [what, [width, height], rule, [outWidth, outHeight]] of sizes) {
  test(`size: ${what}`, () => assert.deepEqual(planSize(width, height, rule), { width: outWidth, height: outHeight }));
}

for (const [name, recipe] of Object.entries({
  siglip: siglipRecipe(384),
  clip: clipRecipe(336),
  idefics2: idefics2Recipe(),
  nano: nanoRecipe(100),
})) {
  test(`the ${name} recipe survives being written and read`, () =>
    assert.deepEqual(parseRecipe(JSON.parse(JSON.stringify(formatRecipe(recipe)))), recipe));
}

test('published files are read, old and new spellings', () => {
  assert.deepEqual(
    parseRecipe({ image_processor_type: 'CLIPImageProcessor', size: 336, crop_size: 336, resample: 3 }),
    clipRecipe(336),
  );
  assert.deepEqual(
    parseRecipe({
      feature_extractor_type: 'CLIPFeatureExtractor',
      size: { shortest_edge: 336 },
      crop_size: { height: 336, width: 336 },
    }),
    clipRecipe(336),
  );
  assert.deepEqual(
    parseRecipe({
      image_processor_type: 'SiglipImageProcessor',
      size: { height: 384, width: 384 },
      rescale_factor: 0.00392156862745098,
    }),
    siglipRecipe(384),
  );
  assert.deepEqual(
    parseRecipe({ image_processor_type: 'Idefics2ImageProcessor', size: { longest_edge: 980, shortest_edge: 378 } }),
    idefics2Recipe(),
  );
});

const refused: [unknown, RegExp][] = [
  [null, /expected preprocessor_config\.json to hold an object/],
  [{ image_processor_type: 'PixtralImageProcessor' }, /image_processor_type/],
  [{ size: { height: 0, width: 4 } }, /size\.height: expected 1 to 16384 pixels, got 0/],
  [{ size: 'big' }, /size: expected a number or an object/],
  [{ resample: 9 }, /resample/],
  [{ image_mean: [1, 2] }, /image_mean: expected three numbers/],
  [{ rescale_factor: 'x' }, /rescale_factor: expected a number/],
];
for (const [config, message] of refused) {
  test(`refused: ${JSON.stringify(config)}`, () => assert.throws(() => parseRecipe(config), message));
}

/** A picture whose bytes count up. */
function ramp(width: number, height: number): RgbImage {
  return { width, height, pixels_HWC: Uint8Array.from({ length: width * height * 3 }, (_, i) => i) };
}

test('a picture that fits is not resampled, and normalisation is exact', () => {
  const image = ramp(4, 2);
  assert.equal(
    fitRgb(image, { ...nanoRecipe(4), resize: { kind: 'exact', width: 4, height: 2 } }).pixels_HWC,
    image.pixels_HWC,
  );
  const { pixels_CHW } = preprocessRgb(image, { ...nanoRecipe(4), resize: { kind: 'none' } });
  assert.equal(pixels_CHW[8 + 3], Math.fround(Math.fround(Math.fround(10 / 255) - 0.5) / 0.5));
});

test('a crop inside takes the middle, one outside is padded with black', () => {
  assert.deepEqual([...cropRgb(ramp(3, 1), 1, 0, 1, 1).pixels_HWC], [3, 4, 5]);
  assert.deepEqual([...cropRgb(ramp(1, 1), -1, 0, 3, 1).pixels_HWC], [0, 0, 0, 0, 1, 2, 0, 0, 0]);
  assert.deepEqual([...cropRgb(ramp(1, 1), 5, 5, 1, 1).pixels_HWC], [0, 0, 0]);
});

test('the digest tells sizes and recipes apart', () => {
  const pixels_HWC = new Uint8Array(18);
  const digests = [
    digestPixels({ width: 2, height: 3, pixels_HWC }, nanoRecipe(4)),
    digestPixels({ width: 3, height: 2, pixels_HWC }, nanoRecipe(4)),
    digestPixels({ width: 3, height: 2, pixels_HWC }, nanoRecipe(5)),
  ];
  assert.equal(new Set(digests).size, 3);
});

test('a batch is padded at the right and bottom, with a mask', () => {
  const recipe = { ...siglipRecipe(1), resize: { kind: 'none' } as const };
  const { pixels_NCHW, mask_NHW, width, height } = padBatch([
    preprocessRgb(ramp(2, 1), recipe),
    preprocessRgb(ramp(1, 2), recipe),
  ]);
  assert.deepEqual([width, height, pixels_NCHW.length], [2, 2, 24]);
  assert.deepEqual([...mask_NHW], [1, 1, 0, 0, 1, 0, 1, 0]);
  assert.deepEqual([...pixels_NCHW.subarray(2, 4)], [0, 0]);
  assert.deepEqual([pixels_NCHW[13], pixels_NCHW[15]], [0, 0]);
});
