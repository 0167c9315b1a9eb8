import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, describe, it } from 'node:test';
import type { EngineRequest } from '../../../gpu-backend/engine/live-request.ts';
import { loadFront } from '../../../gpu-backend/engine/model-front.ts';
import { OnnxRunner } from '../../../gpu-backend/engine/onnx-runner.ts';
import { uniform } from '../../../gpu-backend/engine/random.ts';
import { readSafetensors } from '../../../gpu-backend/io/safetensors.ts';
import { type RawTensor, toFloat32, toInt32 } from '../../../gpu-backend/io/tensor.ts';
import type { VlmConfig } from '../../../gpu-backend/models/config.ts';
import { familyOf, type Picture } from '../../../gpu-backend/models/family.ts';
import { type Checkpoint, loadCheckpoint } from '../../../gpu-backend/models/load.ts';
import { readReferenceCase } from '../../../gpu-backend/models/verify-case.ts';
import { causalBias, forwardGraph } from '../../../gpu-backend/models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../../../gpu-backend/runtime/session.ts';
import { layoutConversation } from '../../../gpu-backend/text/layout.ts';
import { preprocessRgb } from '../../../gpu-backend/vision/preprocess.ts';
import { PLAIN_REQUEST, smallCapacity, startEngine } from '../../fixtures/engine.ts';
import { FAMILIES, writeRandomFamily } from '../../fixtures/random-families.ts';

const capacity = smallCapacity({
  maxRows: 4,
  kvTokens: 4 * 192,
  kvStepTokens: 16,
  idleChunkTokens: 23,
  busyChunkTokens: 7,
  imagesPerRun: 2,
});

interface Prompt {
  readonly ids: Int32Array;
  readonly slots: readonly { readonly start: number; readonly tokens: number; readonly picture: Picture }[];
}

function requestOf(id: string, prompt: Prompt, maxNewTokens: number): EngineRequest {
  return {
    ...PLAIN_REQUEST,
    id,
    tokenIds: prompt.ids,
    images: prompt.slots.map((slot, i) => ({ ...slot, key: `${id}/${i}` })),
    maxNewTokens,
    stopIds: [],
  };
}

/** Greedy ids of all prompts, served together: they join two steps apart, and chunks fall inside of pictures. */
async function served(
  { config, weights }: Pick<Checkpoint, 'config' | 'weights'>,
  prompts: readonly Prompt[],
  newTokens: number,
): Promise<number[][]> {
  const runner = await OnnxRunner.create(config, weights, { threads: 1 });
  const { engine, events, tokens } = startEngine({ runner, capacity });
  for (let step = 0; step < 2000; step++) {
    const joining = prompts[step / 2];
    if (joining !== undefined) engine.submit(requestOf(`r${step / 2}`, joining, newTokens));
    await engine.step();
    if (!engine.busy && step > 2 * prompts.length) break;
  }
  for (const event of events) assert.notEqual(event.type, 'failed', JSON.stringify(event));
  return prompts.map((_, i) => tokens(`r${i}`));
}

/** The same by definition: a whole forward pass from pixels for every token. */
async function forwarded(
  { config, weights }: Pick<Checkpoint, 'config' | 'weights'>,
  prompt: Prompt,
  newTokens: number,
): Promise<number[]> {
  const { graph, weights: needed } = forwardGraph(config, { images: 'pixels', rows: true });
  const session = await Session.create(graph);
  const rows = prompt.slots.flatMap(({ start, tokens }) => Array.from({ length: tokens }, (_, t) => start + t));
  const fixed: Record<string, Tensor> = {
    ...familyOf(config).pictureFeeds(
      config,
      prompt.slots.map(({ picture }) => picture),
    ),
    image_rows: ints(rows, [rows.length]),
  };
  for (const name of needed.keys()) fixed[name] = weights.get(name)!;
  const ids = [...prompt.ids];
  while (ids.length < prompt.ids.length + newTokens) {
    const S = ids.length;
    const results = await session.run({
      ...fixed,
      ids: ints(ids, [1, S]),
      positions: ints([...ids.keys()], [1, S]),
      causal_bias: f32(causalBias(S, 1, config.text.slidingWindow), [S, S]),
      rows: ints([S - 1], [1]),
    });
    const logits = results.logits!.data as Float32Array;
    ids.push(logits.indexOf(Math.max(...logits)));
  }
  await session.release();
  return ids.slice(prompt.ids.length);
}

const SIZES = [
  [64, 48],
  [30, 90],
  [25, 25],
  [200, 31],
  [47, 33],
] as const;

describe('every family through the engine, from a folder with random weights', () => {
  for (const family of FAMILIES) {
    it(`${family}: pictures of different sizes, three prompts at once = one whole forward pass a token`, async () => {
      const dir = await mkdtemp(join(tmpdir(), `mantis-${family}-`));
      after(() => rm(dir, { recursive: true, force: true }));
      await writeRandomFamily(dir, family);
      const front = await loadFront(family, dir);
      const checkpoint = loadCheckpoint(dir);
      const pictures = SIZES.map(([width, height], n) =>
        preprocessRgb(
          {
            width,
            height,
            pixels_HWC: Uint8Array.from({ length: 3 * width * height }, (_, i) => uniform(n, i) * 256),
          },
          front.recipe,
        ),
      );
      const shown = [[0, 1], [2], [3, 4, 0]];
      const prompts = shown.map((images, n): Prompt => {
        const layout = layoutConversation(
          [
            {
              role: 'user',
              parts: [
                ...images.map((image) => ({ type: 'image' as const, image })),
                { type: 'text', text: `Compare the first and the second picture ${n}.` },
              ],
            },
          ],
          {
            tokenizer: front.tokenizer,
            template: { ...front.template, defaultSystem: null },
            imageTokenId: front.imageTokenId,
            tokensPerImage: (image) => front.slots.fixed ?? front.slots.idsOf(pictures[image]!),
            addGenerationPrompt: true,
          },
        );
        return {
          ids: layout.ids,
          slots: layout.images.map(({ image, tokenStart, tokenCount }) => ({
            start: tokenStart,
            tokens: tokenCount,
            picture: pictures[image]!,
          })),
        };
      });
      if (front.slots.fixed === null) assert.ok(new Set(prompts.flatMap((p) => p.slots.map((s) => s.tokens))).size > 2);
      const together = await served(checkpoint, prompts, 10);
      for (const [i, prompt] of prompts.entries())
        assert.deepEqual(together[i], await forwarded(checkpoint, prompt, 10), `prompt ${i}`);
      assert.ok(new Set(together.flat()).size > 6, `the model says more than a few tokens: ${together}`);
    });
  }
});

/** Pictures of a reference folder as a recipe would have left them. */
function referencePictures(
  config: VlmConfig,
  inputs: ReadonlyMap<string, RawTensor>,
  grids: readonly (readonly [number, number])[],
): Picture[] {
  const patches = inputs.get('image_patches');
  if (patches !== undefined) {
    const p = config.vision.patchSize;
    const values = toFloat32(patches);
    let first = 0;
    return grids.map(([rows, columns]) => {
      const [width, height] = [columns * p, rows * p];
      const pixels_CHW = new Float32Array(3 * width * height);
      for (let i = 0; i < rows * columns * p * p * 3; i++) {
        const [patch, inside] = [Math.floor(i / (3 * p * p)), i % (3 * p * p)];
        const y = Math.floor(patch / columns) * p + Math.floor(inside / (3 * p));
        const x = (patch % columns) * p + (Math.floor(inside / 3) % p);
        pixels_CHW[((inside % 3) * height + y) * width + x] = values[first + i]!;
      }
      first += rows * columns * p * p * 3;
      return { pixels_CHW, width, height };
    });
  }
  const pixels = inputs.get('pixel_values')!;
  const [H = 0, W = 0] = pixels.shape.slice(-2);
  const mask = inputs.get('pixel_attention_mask');
  const [values, seen] = [toFloat32(pixels), mask === undefined ? null : toInt32(mask)];
  return Array.from({ length: values.length / (3 * H * W) }, (_, n) => {
    const whole = values.subarray(n * 3 * H * W, (n + 1) * 3 * H * W);
    const isSeen = (y: number, x: number): boolean => seen === null || seen[(n * H + y) * W + x] === 1;
    let [height, width] = [0, 0];
    while (height < H && isSeen(height, 0)) height++;
    while (width < W && isSeen(0, width)) width++;
    const pixels_CHW = Float32Array.from({ length: 3 * height * width }, (_v, i) => {
      const [row, x] = [Math.floor(i / width), i % width];
      return whole[(Math.floor(row / height) * H + (row % height)) * W + x]!;
    });
    return { pixels_CHW, width, height };
  });
}

/** The slots of pictures among ids, in order; each must read as its family says. */
function promptOf(config: VlmConfig, ids: Int32Array, pictures: readonly Picture[]): Prompt {
  const slots: Prompt['slots'][number][] = [];
  for (let at = 0; at < ids.length; at++) {
    if (ids[at] !== config.imageToken) continue;
    const picture = pictures[slots.length];
    assert.ok(picture, `a slot for picture ${slots.length + 1} of ${pictures.length}`);
    const slot = familyOf(config).slotIds(config, picture);
    assert.deepEqual([...ids.subarray(at, at + slot.length)], [...slot]);
    slots.push({ start: at, tokens: slot.length, picture });
    at += slot.length - 1;
  }
  return { ids, slots };
}

const ROOT = join(import.meta.dirname, '../../..');
const FIXTURES = ['tiny-siglip', 'tiny-clip', 'tiny-idefics2', 'tiny-fuyu'].map((name) =>
  join(ROOT, 'test/fixtures/checkpoints', name),
);
const ORACLES = ['mantis-siglip', 'mantis-clip', 'mantis-idefics2', 'mantis-fuyu'].map((name) =>
  join(ROOT, '../shared/oracles', name),
);

describe('reference checkpoints through the engine', () => {
  for (const dir of [...FIXTURES, ...ORACLES]) {
    const skip = existsSync(dir) ? false : 'the shared reference folders are not beside this checkout';
    it(`${basename(dir)}: greedy ids`, { skip }, async () => {
      const { checkpoint, file, ids, attended, length, expected } = readReferenceCase(dir);
      const row = ids.subarray(0, length).filter((_, i) => attended[i] === 1);
      const inputs = readSafetensors(join(dir, 'inputs.safetensors'));
      const pictures = referencePictures(checkpoint.config, inputs, file.grid ?? []);
      const prompt = promptOf(checkpoint.config, row.subarray(0, file.greedy_prompt_tokens ?? row.length), pictures);
      assert.ok(prompt.slots.length > 0);
      const greedy = expected.get('greedy');
      // A folder without greedy ids has logits, which the same graphs reproduce; the ids must follow from them.
      const want = greedy === undefined ? await forwarded(checkpoint, prompt, 8) : [...toInt32(greedy)];
      const [alone, beside] = await served(checkpoint, [prompt, prompt], want.length);
      assert.deepEqual(alone, want);
      assert.deepEqual(beside, want);
    });
  }
});
