import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import sharp from 'sharp';
import { loadFront } from '../../../gpu-backend/engine/model-front.ts';
import { readPictureSize } from '../../../gpu-backend/vision/decode.ts';
import { modelSize, preprocessImage } from '../../../gpu-backend/vision/preprocess.ts';
import { formatRecipe, siglipRecipe } from '../../../gpu-backend/vision/recipes.ts';
import { imageTokens } from '../../../shared/contract/models.ts';
import { FAMILIES, writeRandomFamily } from '../../fixtures/random-families.ts';

async function folder(t: { after: (fn: () => unknown) => void }): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-pictures-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

test('the rule on the card counts what the model counts, for any size', async (t) => {
  const dir = await folder(t);
  for (const family of FAMILIES) {
    await writeRandomFamily(join(dir, family), family);
    const { card, slots, recipe } = await loadFront(family, join(dir, family));
    assert.equal(card.family, `mantis-${family}`);
    assert.equal(card.imageGrid !== undefined, family === 'fuyu');
    const side = fc.integer({ min: 1, max: 3000 });
    fc.assert(
      fc.property(side, side, (width, height) => {
        const count = imageTokens(card, { width, height });
        assert.equal(count, slots.idsOf(modelSize(width, height, recipe)).length, `${width}x${height}`);
        assert.ok(count >= slots.leastTokens && count <= card.tokensPerImage);
      }),
      { numRuns: 300 },
    );
  }
});

test('the header of a file says the size that decoding gives, turned pictures too', async () => {
  const recipe = siglipRecipe(8);
  for (const orientation of [1, 3, 6, 8]) {
    const file = await sharp({ create: { width: 31, height: 17, channels: 3, background: '#407' } })
      .jpeg()
      .withMetadata({ orientation })
      .toBuffer();
    const { source } = await preprocessImage(file, recipe);
    const { width, height } = source;
    assert.deepEqual(await readPictureSize(file), { width, height });
  }
  await assert.rejects(readPictureSize(Buffer.from('no picture')), /expected a JPEG, PNG, WebP or GIF/);
});

test('a folder whose recipe does not fit the model, or is missing, is refused before it serves', async (t) => {
  const dir = await folder(t);
  await writeRandomFamily(dir, 'siglip');
  await writeFile(join(dir, 'preprocessor_config.json'), JSON.stringify(formatRecipe(siglipRecipe(24))));
  await assert.rejects(loadFront('m', dir), /expected 32x32 pixels, got 24x24/);
  await rm(join(dir, 'preprocessor_config.json'));
  const missing = /expected .*preprocessor_config\.json: it says how pictures are prepared/;
  await assert.rejects(loadFront('m', dir), missing);
  await writeFile(join(dir, 'processor_config.json'), '{"processor_class": "LlavaProcessor"}');
  await assert.rejects(loadFront('m', dir), missing);
  // As transformers 5 writes it.
  const joint = { processor_class: 'LlavaProcessor', image_processor: formatRecipe(siglipRecipe(32)) };
  await writeFile(join(dir, 'processor_config.json'), JSON.stringify(joint));
  assert.deepEqual((await loadFront('m', dir)).recipe, siglipRecipe(32));
});
