/**
 * Pictures and models that are almost the same never share features: each is encoded for itself, and answers as it does where
 * nothing is cached.
 */
import assert from 'node:assert/strict';
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import sharp from 'sharp';
import { FeatureStore } from '../../../gpu-backend/engine/feature-store.ts';
import { DiskTier } from '../../../gpu-backend/engine/feature-store-disk.ts';
import { ModelPool } from '../../../gpu-backend/engine/model-pool.ts';
import { EngineModelService } from '../../../gpu-backend/engine/model-service.ts';
import { uniform } from '../../../gpu-backend/engine/random.ts';
import { capacityFor } from '../../../gpu-backend/engine/scheduler/capacity.ts';
import { writeAdapter } from '../../../gpu-backend/models/adapter.ts';
import { loadCheckpoint, readConfig, writeCheckpoint } from '../../../gpu-backend/models/load.ts';
import { initAdapter } from '../../../gpu-backend/models/presets.ts';
import type { LoraSpec } from '../../../gpu-backend/models/weights.ts';
import { DecodePool } from '../../../gpu-backend/vision/pool.ts';
import { preprocessImage } from '../../../gpu-backend/vision/preprocess.ts';
import { formatRecipe, fuyuRecipe, nanoRecipe } from '../../../gpu-backend/vision/recipes.ts';
import type { GenerateEvent, GenerateRequest } from '../../../shared/contract/backend.ts';
import { writeRandomFamily } from '../../fixtures/random-families.ts';
import { writeRandomNano } from '../../fixtures/random-nano.ts';

const capacity = capacityFor({ maxRows: 8, kvTokens: 4096 });
/** 13 variants of each, then 4 worlds for some of them. */
const BASES = 62;
const WORLD_BASES = 50;
const AT_ONCE = 8;

interface Asked {
  readonly what: string;
  readonly model: string;
  readonly tenant: string;
  readonly file: Uint8Array;
}

interface Rgb {
  readonly width: number;
  readonly height: number;
  readonly pixels: Uint8Array;
}

const TENANTS = ['a', 'b'].map((digit) => digit.repeat(32));

/** A picture of few colours, so that it is the same with a palette. */
function picture(seed: number): Rgb {
  const [width, height] = [12 + Math.floor(uniform(seed, 0) * 20), 33 + Math.floor(uniform(seed, 1) * 7)];
  const colour = (i: number) => [0, 1, 2].map((c) => Math.floor(uniform(seed + 1000, i * 3 + c) * 250));
  const pixels = new Uint8Array(width * height * 3);
  for (let at = 0; at < width * height; at++) pixels.set(colour(Math.floor(uniform(seed, at + 2) * 6)), at * 3);
  return { width, height, pixels };
}

const at = ({ pixels, width }: Rgb, x: number, y: number) =>
  pixels.subarray((y * width + x) * 3, (y * width + x) * 3 + 3);

function made(width: number, height: number, colour: (x: number, y: number) => ArrayLike<number>): Rgb {
  const pixels = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) pixels.set(colour(x, y), (y * width + x) * 3);
  return { width, height, pixels };
}

function variants(base: Rgb): Record<string, Rgb> {
  const { width: w, height: h } = base;
  const mapped = (change: (rgb: Uint8Array) => number[]) => made(w, h, (x, y) => change(at(base, x, y)));
  const changed = (x: number, y: number, channel: number) => {
    const pixels = base.pixels.slice();
    pixels[(y * w + x) * 3 + channel]! += 1;
    return { ...base, pixels };
  };
  return {
    original: base,
    'same bytes, sides exchanged': { width: h, height: w, pixels: base.pixels },
    transposed: made(h, w, (x, y) => at(base, y, x)),
    mirrored: made(w, h, (x, y) => at(base, w - 1 - x, y)),
    'upside down': made(w, h, (x, y) => at(base, x, h - 1 - y)),
    'red and blue exchanged': mapped(([r, g, b]) => [b!, g!, r!]),
    'channels moved on': mapped(([r, g, b]) => [g!, b!, r!]),
    'first pixel, red + 1': changed(0, 0, 0),
    'last pixel, blue + 1': changed(w - 1, h - 1, 2),
    'one column less': made(w - 1, h, (x, y) => at(base, x, y)),
    'one row less': made(w, h - 1, (x, y) => at(base, x, y)),
    'another palette': mapped(([r, g, b]) => [255 - r!, 255 - g!, 255 - b!]),
    'one colour of the palette differs': mapped((rgb) =>
      rgb.join() === at(base, 0, 0).join() ? [rgb[0]! ^ 1, rgb[1]!, rgb[2]!] : [...rgb],
    ),
  };
}

const png = ({ width, height, pixels }: Rgb, palette = false) =>
  sharp(pixels, { raw: { width, height, channels: 3 } })
    .png({ palette })
    .toBuffer();

let dir: string;
const decoders = new DecodePool();
const pools: ModelPool[] = [];

async function startService(store: FeatureStore | null, featureCacheBytes: number): Promise<EngineModelService> {
  const pool = new ModelPool({
    models: [
      { id: 'fuyu', dir: join(dir, 'fuyu') },
      { id: 'nano', dir: join(dir, 'nano') },
      { id: 'other recipe', dir: join(dir, 'recipe') },
      { id: 'other weights', dir: join(dir, 'weights') },
      { id: 'other adapter', dir: join(dir, 'nano'), adapterDir: join(dir, 'adapter') },
    ],
    capacity,
    prefixCacheBytes: 64 << 20,
    featureCacheBytes,
    maxOverlays: 0,
    fetchOverlay: async () => assert.fail('no fine-tune is asked for'),
    onEngineDeath: (error) => assert.fail(error.message),
  });
  pools.push(pool);
  await pool.start();
  return new EngineModelService(pool, capacity, decoders, store);
}

before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'mantis-collisions-'));
  await writeRandomFamily(join(dir, 'fuyu'), 'fuyu');
  await writeRandomNano(join(dir, 'nano'));
  for (const copy of ['recipe', 'weights']) await cp(join(dir, 'nano'), join(dir, copy), { recursive: true });
  const recipe = { ...nanoRecipe(40), mean: [0.5, 0.5, 0.4] as const };
  await writeFile(join(dir, 'recipe', 'preprocessor_config.json'), JSON.stringify(formatRecipe(recipe)));
  const { config, weights } = loadCheckpoint(join(dir, 'weights'));
  const changed = [...weights].map(([name, tensor]) => {
    const data = Float32Array.from(tensor.data as Float32Array);
    if (name.includes('projector')) data[0]! += 1e-3;
    return [name, { ...tensor, data }] as const;
  });
  await writeCheckpoint(join(dir, 'weights'), { config, weights: new Map(changed) });
  await cp(join(dir, 'nano', 'config.json'), join(dir, 'weights', 'config.json'));
  const lora: LoraSpec = { r: 2, alpha: 4, targets: ['q_proj'] };
  await writeAdapter(join(dir, 'adapter'), { lora, weights: initAdapter(readConfig(join(dir, 'nano')), lora, 3) });
});
after(async () => {
  await decoders.close();
  await Promise.all(pools.map((pool) => pool.close()));
  await rm(dir, { recursive: true, force: true });
});

interface Answer {
  readonly text: string;
  /** Log-probability of each token. */
  readonly logprobs: readonly number[];
  readonly cache: readonly string[];
}

async function ask(
  service: EngineModelService,
  { what, model, tenant, file }: Asked,
  isCached: boolean,
): Promise<Answer> {
  const request: GenerateRequest = {
    requestId: what,
    ...(isCached ? { tenant } : {}),
    model,
    messages: [
      {
        role: 'user',
        parts: [
          { type: 'image', blob: 0 },
          { type: 'text', text: 'How many?' },
        ],
      },
    ],
    sampling: { maxTokens: 3, temperature: 0, topP: 1, stop: [], logprobs: 0 },
    deadlineMs: 60_000,
  };
  let text = '';
  const logprobs: number[] = [];
  let cache: readonly string[] = [];
  const events: AsyncIterable<GenerateEvent> = service.generate(request, [file], new AbortController().signal);
  for await (const event of events) {
    if (event.type === 'started') cache = event.imageCache ?? [];
    if (event.type !== 'delta') continue;
    text += event.text;
    logprobs.push(...(event.logprobs ?? []).map(({ logprob }) => logprob));
  }
  return { text, logprobs, cache };
}

async function askAll(service: EngineModelService, all: readonly Asked[], isCached: boolean): Promise<Answer[]> {
  const answers: Answer[] = [];
  let next = 0;
  const worker = async () => {
    while (next < all.length) {
      const index = next++;
      answers[index] = await ask(service, all[index]!, isCached);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return answers;
}

/** The same text, and probabilities as far as the sums of another batch may differ. */
function assertSame(actual: Answer, expected: Answer, what: string): void {
  assert.equal(actual.text, expected.text, what);
  assert.equal(actual.logprobs.length, expected.logprobs.length, what);
  for (const [i, logprob] of expected.logprobs.entries())
    assert.ok(Math.abs(actual.logprobs[i]! - logprob) < 1e-4, `${what}: ${actual.logprobs} and ${expected.logprobs}`);
}

const encodedImages = async (service: EngineModelService): Promise<number> =>
  (await service.stats()).models.reduce((sum, { counters }) => sum + counters.encodedImages, 0);

test('1,000 near-collisions are encoded each for itself and answered as without a cache', async () => {
  const all: Asked[] = [];
  for (let seed = 0; seed < BASES; seed++) {
    for (const [name, variant] of Object.entries(variants(picture(seed)))) {
      const file = await png(variant, name.includes('palette'));
      all.push({ what: `${seed} ${name}`, model: 'fuyu', tenant: TENANTS[0]!, file });
    }
    if (seed >= WORLD_BASES) continue;
    const file = await png(picture(seed));
    const [a, b] = TENANTS as [string, string];
    for (const [model, tenant] of [
      ['nano', a],
      ['nano', b],
      ['other recipe', a],
      ['other weights', a],
      ['other adapter', a],
    ] as const)
      all.push({ what: `${seed} ${model} of ${tenant[0]}`, model, tenant, file });
  }
  assert.ok(all.length >= 1000, `${all.length} cases`);
  // The cases are what they say: no two of one world are the same picture to the model.
  const recipe = { ...fuyuRecipe(60, 40), padTo: { multiple: 10, value: 1 } };
  const digests = await Promise.all(
    all.filter(({ model }) => model === 'fuyu').map(async ({ file }) => (await preprocessImage(file, recipe)).digest),
  );
  assert.equal(new Set(digests).size, BASES * 13);

  const store = new FeatureStore({
    tiers: [await DiskTier.open(join(dir, 'features'), 1 << 28)],
    maxPendingBytes: 1 << 28,
  });
  const service = await startService(store, 1 << 28);
  const cached = await askAll(service, all, true);
  for (const [i, { cache }] of cached.entries()) assert.deepEqual(cache, ['none'], `${all[i]?.what} found something`);
  assert.equal(await encodedImages(service), all.length);

  const uncached = await askAll(await startService(null, 0), all, false);
  const again = await askAll(service, all, true);
  await store.flush(60_000);
  const disk = await DiskTier.open(join(dir, 'features'), 1 << 28);
  const later = await startService(new FeatureStore({ tiers: [disk] }), 1 << 28);
  const restarted = await askAll(later, all, true);
  assert.equal(await encodedImages(later), 0);
  assert.equal((await later.stats()).pictures.decoded, 0);
  for (const [i, { what }] of all.entries()) {
    const expected = uncached[i]!;
    assertSame(cached[i]!, expected, what);
    assertSame(again[i]!, expected, `${what}, from memory`);
    assertSame(restarted[i]!, expected, `${what}, from disk`);
    assert.deepEqual(again[i]?.cache, ['memory'], what);
    assert.deepEqual(restarted[i]?.cache, ['disk'], what);
  }
  // And they are other pictures to the model, not only to the cache.
  const ofFuyu = uncached
    .filter((_, i) => all[i]?.model === 'fuyu')
    .map(({ text, logprobs }) => `${text} ${logprobs.map((p) => p.toFixed(3))}`);
  console.log(
    `# ${all.length} cases; ${new Set(ofFuyu).size} of ${ofFuyu.length} variants answered each in its own way`,
  );
  assert.ok(new Set(ofFuyu).size > 0.7 * ofFuyu.length);
});
