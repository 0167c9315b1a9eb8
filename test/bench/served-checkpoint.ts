import { existsSync } from 'node:fs';
import { link, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { randomSet } from '../../gpu-backend/train/nano/generate.ts';
import { Rng } from '../../gpu-backend/train/nano/random.ts';
import { boxSidePx, renderBox } from '../../gpu-backend/train/nano/scene.ts';
import { trainTokenizer } from '../../gpu-backend/train/nano/vocabulary.ts';
import { formatRecipe, nanoRecipe } from '../../gpu-backend/vision/recipes.ts';
import { benchCheckpoint } from './inference/checkpoint.ts';
import { BENCH_CONFIG, CACHE } from './inference/model.ts';

/** Words of the questions, so that they are about as many tokens as elsewhere. */
const CORPUS = 'Is there a black square in image 1 or a yellow circle in image 8? How many of them are blue? ';

/**
 * The random checkpoint of the benchmarks with all that a server reads beside it: a tokenizer, whose ids are the first of its
 * vocabulary, a template and a recipe. Its weights are the same file.
 */
export async function servedBenchCheckpoint(): Promise<string> {
  const weights = await benchCheckpoint();
  const dir = join(CACHE, 'served-1');
  if (existsSync(join(dir, 'complete'))) return dir;
  await mkdir(dir, { recursive: true });
  const tokenizer = trainTokenizer([CORPUS, CORPUS], 300);
  const imageToken = tokenizer.added_tokens.find(({ content }) => content === '<image>')?.id;
  if (imageToken === undefined) throw new Error('the tokenizer has no <image>');
  const config = JSON.parse(await readFile(join(weights, 'config.json'), 'utf8')) as Record<string, unknown>;
  const files: Record<string, unknown> = {
    'config.json': { ...config, image_token_index: imageToken },
    'tokenizer.json': tokenizer,
    'tokenizer_config.json': { mantis_template: 'nano' },
    'preprocessor_config.json': formatRecipe(nanoRecipe(BENCH_CONFIG.vision.imageSize)),
    'generation_config.json': { max_new_tokens: 512 },
  };
  for (const [name, content] of Object.entries(files)) await writeFile(join(dir, name), JSON.stringify(content));
  const [from, to] = [join(weights, 'model.safetensors'), join(dir, 'model.safetensors')];
  if (!existsSync(to)) await link(from, to).catch(() => symlink(from, to));
  await writeFile(join(dir, 'complete'), '');
  return dir;
}

/** PNG files of scenes that no other seed gives. */
export async function scenePictures(seed: number, count: number): Promise<Uint8Array[]> {
  const boxes = randomSet(new Rng(seed), 'scatter', count);
  return await Promise.all(
    boxes.map((box) => {
      const rgb = Buffer.from(renderBox(box));
      // A mark in a corner: scenes may come out alike.
      rgb.writeUInt32LE(seed >>> 0, 0);
      return sharp(rgb, { raw: { width: boxSidePx, height: boxSidePx, channels: 3 } })
        .png()
        .toBuffer();
    }),
  );
}
