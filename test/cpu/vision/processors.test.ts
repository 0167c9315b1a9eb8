import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { FuyuConfig, Idefics2Config } from '../../../gpu-backend/models/config.ts';
import { parseVlmConfig } from '../../../gpu-backend/models/config.ts';
import { familyOf } from '../../../gpu-backend/models/family.ts';
import { modelSize, padBatch, preprocessRgb } from '../../../gpu-backend/vision/preprocess.ts';
import { formatRecipe, parseRecipe } from '../../../gpu-backend/vision/recipes.ts';

/*
 * Pictures through preprocessor_config.json to what the model takes, against Hugging Face's processors
 * (make_processor_golden.py). Bilinear resizing of ours and Pillow's may differ by one 8-bit step.
 */
interface Golden {
  readonly sizes: readonly (readonly [number, number])[];
  readonly idefics2: {
    readonly config: object;
    readonly shape: readonly number[];
    readonly pixels: string;
    readonly mask: string;
  };
  readonly fuyu: {
    readonly config: object;
    readonly cases: readonly { readonly rows: number; readonly columns: number; readonly patches: string }[];
  };
}

const golden = JSON.parse(readFileSync(join(import.meta.dirname, 'processor-golden.json'), 'utf8')) as Golden;
const bytes = (base64: string): Uint8Array => new Uint8Array(Buffer.from(base64, 'base64'));
const eightBit = (value: number): number => Math.round((value * 0.5 + 0.5) * 255);

const pictures = golden.sizes.map(([width, height]) => {
  const pixels_HWC = new Uint8Array(width * height * 3);
  for (let y = 0, i = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < 3; c++) pixels_HWC[i++] = (x * 7 + y * 13 + c * 50 + ((x * y) % 31)) % 256;
  return { width, height, pixels_HWC };
});

test('idefics2: sizes, pixels, padding and mask of a batch', () => {
  const recipe = parseRecipe(golden.idefics2.config);
  assert.deepEqual(parseRecipe(formatRecipe(recipe)), recipe);
  const prepared = pictures.map((picture) => preprocessRgb(picture, recipe));
  for (const [n, { width, height }] of prepared.entries())
    assert.deepEqual(modelSize(pictures[n]!.width, pictures[n]!.height, recipe), { width, height });
  const batch = padBatch(prepared);
  assert.deepEqual([3, 3, batch.height, batch.width], golden.idefics2.shape);
  const mask = bytes(golden.idefics2.mask);
  assert.deepEqual([...batch.mask_NHW], [...mask]);
  const want = bytes(golden.idefics2.pixels);
  const plane = batch.width * batch.height;
  const worst = batch.pixels_NCHW.reduce((max, value, i) => {
    const seen = mask[Math.floor(i / (3 * plane)) * plane + (i % plane)];
    return seen === 1 ? Math.max(max, Math.abs(eightBit(value) - want[i]!)) : max;
  }, 0);
  assert.ok(worst <= 1, `off by ${worst}`);

  // The model's own feeds: whole patches only, positions from the picture's grid, padding hidden.
  const config = parseVlmConfig({
    model_type: 'idefics2',
    image_token_id: 60,
    text_config: { vocab_size: 64 },
    vision_config: { image_size: 56, patch_size: 14, hidden_size: 16, num_attention_heads: 2 },
  }) as Idefics2Config;
  const feeds = familyOf(config).pictureFeeds(config, prepared);
  assert.deepEqual(feeds.pixel_values?.shape, [
    3,
    3,
    Math.floor(batch.height / 14),
    14,
    Math.floor(batch.width / 14),
    14,
  ]);
  const bias = feeds.patch_bias?.data as Float32Array;
  const seen = prepared.map(({ width, height }) => Math.floor(width / 14) * Math.floor(height / 14));
  const perPicture = bias.length / prepared.length;
  assert.deepEqual(
    prepared.map((_, n) => bias.subarray(n * perPicture, (n + 1) * perPicture).filter((v) => v === 0).length),
    seen,
  );
});

test('fuyu: fitted, filled up to whole patches, cut in reading order, a line end after each row', () => {
  const recipe = parseRecipe(golden.fuyu.config);
  assert.deepEqual(parseRecipe(formatRecipe(recipe)), recipe);
  const config = parseVlmConfig({ model_type: 'fuyu' }) as FuyuConfig;
  for (const [n, picture] of pictures.entries()) {
    const { rows, columns, patches } = golden.fuyu.cases[n]!;
    const prepared = preprocessRgb(picture, recipe);
    assert.deepEqual([prepared.height, prepared.width], [rows * 30, columns * 30]);
    assert.deepEqual(modelSize(picture.width, picture.height, recipe), {
      width: prepared.width,
      height: prepared.height,
    });
    const ids = familyOf(config).slotIds(config, prepared);
    assert.equal(ids.length, rows * (columns + 1));
    assert.deepEqual(ids.slice(0, columns + 1), [...new Array<number>(columns).fill(71011), 71019]);
    const got = familyOf(config).pictureFeeds(config, [prepared]).pixel_values?.data as Float32Array;
    const want = bytes(patches);
    assert.equal(got.length, want.length);
    const worst = got.reduce((max, value, i) => Math.max(max, Math.abs(eightBit(value) - want[i]!)), 0);
    assert.ok(worst <= 1, `picture ${n}: off by ${worst}`);
  }
});

test('fuyu: sizes that are no multiple of the patch, and odd paddings, are refused by field', () => {
  const refuse = (change: object, message: RegExp): void => {
    assert.throws(() => parseRecipe({ ...golden.fuyu.config, ...change }), message);
  };
  refuse({ size: { height: 720, width: 1280 } }, /size: expected multiples of the patch size 30, got 1280x720/);
  refuse({ padding_mode: 'reflect' }, /padding_mode/);
  refuse({ padding_value: 0.5 }, /padding_value: expected an 8-bit value/);
  refuse({ do_pad: false }, /do_pad/);
  refuse({ patch_size: { height: 30, width: 20 } }, /patch_size: expected a square/);
});
