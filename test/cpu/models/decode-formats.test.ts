/** Every way a decoder graph can be stored and cached gives what the plain f32 graph gives. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { VlmConfig } from '../../../gpu-backend/models/config.ts';
import { type DecodeOptions, decodeGraph, KEY_TILE_TOKENS } from '../../../gpu-backend/models/decode.ts';
import { inPlaceGraph } from '../../../gpu-backend/models/decode-in-place.ts';
import { emptyPast } from '../../../gpu-backend/models/empty-past.ts';
import { MASKED } from '../../../gpu-backend/models/llama.ts';
import { prefillGraph } from '../../../gpu-backend/models/prefill.ts';
import { initWeights, nanoConfig } from '../../../gpu-backend/models/presets.ts';
import { servingWeights } from '../../../gpu-backend/models/serving-weights.ts';
import type { Storage } from '../../../gpu-backend/models/storage.ts';
import { causalBias, type ModelGraph } from '../../../gpu-backend/models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../../../gpu-backend/runtime/session.ts';

const config = nanoConfig({
  vocab: 96,
  imageToken: 3,
  bosToken: 1,
  eosTokens: [2],
  padToken: 0,
  imageSize: 20,
  visionHidden: 16,
  visionLayers: 1,
  visionHeads: 2,
  hidden: 64,
  layers: 3,
  heads: 4,
  kvHeads: 2,
  maxPositions: 512,
});
const { layers, kvHeads, headDim } = config.text;
const weights = initWeights(config, 11, { headStd: 0.3 });

/** Numbers in -1 … 1, the same in every run. */
function noise(count: number, seed: number): Float32Array {
  let state = seed * 2654435761 + 1;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

interface Step {
  readonly rows: number;
  readonly newTokens: number;
  readonly pastTokens: number;
}

/** Feeds of a step whose row b has `pastTokens - 5 b` past positions. */
function stepFeeds({ rows: B, newTokens: S, pastTokens: T }: Step): Record<string, Tensor> {
  const length = (b: number): number => T - 5 * b;
  const feeds: Record<string, Tensor> = {
    ids: ints(
      Array.from({ length: B * S }, (_, i) => 4 + ((i * 37) % 90)),
      [B, S],
    ),
    positions: ints(
      Array.from({ length: B * S }, (_, i) => length(Math.floor(i / S)) + (i % S)),
      [B, S],
    ),
    causal_bias: f32(causalBias(S, 1), [S, S]),
    past_bias: f32(
      Float32Array.from({ length: B * T }, (_, i) => (i % T < length(Math.floor(i / T)) ? 0 : MASKED)),
      [B, 1, 1, T],
    ),
    rows: ints(
      Array.from({ length: B * S }, (_, i) => i),
      [B * S],
    ),
  };
  for (let i = 0; i < layers; i++) {
    feeds[`past_k_${i}`] = f32(noise(B * kvHeads * T * headDim, 100 + i), [B, kvHeads, T, headDim]);
    feeds[`past_v_${i}`] = f32(noise(B * kvHeads * T * headDim, 200 + i), [B, kvHeads, T, headDim]);
  }
  return feeds;
}

/** f32 keys or values [B, Hkv, T, D] as int8 with a scale a token; keys in tiles. */
function int8Cache({ shape, data }: Tensor, tiled: boolean): { values: Tensor; scales: Tensor } {
  const [B = 0, H = 0, T = 0, D = 0] = shape;
  const floats = data as Float32Array;
  const values = new Int8Array(floats.length);
  const scales = new Float32Array(B * H * T);
  for (let token = 0; token < scales.length; token++) {
    const row = floats.subarray(token * D, (token + 1) * D);
    const scale = row.reduce((most, v) => Math.max(most, Math.abs(v)), 0) / 127;
    scales[token] = scale;
    const t = token % T;
    const tile = token - (t % KEY_TILE_TOKENS);
    row.forEach((v, d) => {
      const place = tiled ? tile * D + d * KEY_TILE_TOKENS + (t % KEY_TILE_TOKENS) : token * D + d;
      values[place] = Math.round(v / scale);
    });
  }
  const tiles = [B, H, T / KEY_TILE_TOKENS, D, KEY_TILE_TOKENS];
  return { values: { dtype: 'i8', shape: tiled ? tiles : shape, data: values }, scales: f32(scales, [B, H, 1, T]) };
}

function int8Feeds(feeds: Readonly<Record<string, Tensor>>): Record<string, Tensor> {
  return Object.fromEntries(
    Object.entries(feeds).flatMap(([name, tensor]) => {
      const match = /^past_([kv])_(\d+)$/.exec(name);
      if (match === null) return [[name, tensor]];
      const { values, scales } = int8Cache(tensor, match[1] === 'k');
      return [
        [name, values],
        [`past_${match[1]}_scale_${match[2]}`, scales],
      ];
    }),
  );
}

async function run(
  options: Partial<DecodeOptions>,
  feeds: Readonly<Record<string, Tensor>>,
): Promise<Record<string, Float32Array>> {
  return await runModel(decodeGraph(config, { images: false, ...options }), options.storage, feeds);
}

async function runModel(
  model: ModelGraph,
  storage: Storage | undefined,
  feeds: Readonly<Record<string, Tensor>>,
): Promise<Record<string, Float32Array>> {
  const session = await Session.create(model.graph, { initializers: servingWeights(model, weights, storage) });
  try {
    const results = await session.run(feeds);
    return Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data as Float32Array]));
  } finally {
    await session.release();
  }
}

/** [B, H, T, D] → the same with room for more tokens behind those of each head. */
function withRoom({ shape, data }: Tensor, room: number): Float32Array {
  const [B = 0, H = 0, T = 0, D = 0] = shape;
  const roomy = new Float32Array(B * H * room * D);
  for (let head = 0; head < B * H; head++)
    roomy.set((data as Float32Array).subarray(head * T * D, (head + 1) * T * D), head * room * D);
  return roomy;
}

const storageOf = (decoder: 'int8' | 'int4'): Storage => ({
  precision: { vision: 'f32', projector: 'f32', decoder, head: decoder },
  blockSize: 16,
});

/** Two adapters of ranks 2 and 3; the new tokens take turns with the first, the second and none. */
function bankFeeds(targets: readonly string[], tokens: number): Record<string, Tensor> {
  const ranks = 5;
  const mask = Float32Array.from({ length: tokens * ranks }, (_, i) => {
    const [token, rank] = [Math.floor(i / ranks), i % ranks];
    return (token % 3 === 0 && rank < 2) || (token % 3 === 1 && rank >= 2) ? 1 : 0;
  });
  const feeds: Record<string, Tensor> = { adapter_mask: f32(mask, [tokens, ranks]) };
  for (const [name, { shape }] of weights) {
    const module = name.slice(0, -'.weight'.length);
    const [out = 0, width = 0] = shape;
    if (!module.startsWith('language_model.') || !targets.includes(module.slice(module.lastIndexOf('.') + 1))) continue;
    feeds[`${module}.lora_A.weight`] = f32(
      noise(ranks * width, out).map((v) => v * 0.2),
      [ranks, width],
    );
    feeds[`${module}.lora_B.weight`] = f32(
      noise(ranks * out, width).map((v) => v * 0.2),
      [out, ranks],
    );
  }
  return feeds;
}

/** Root mean square of a - b over that of b. */
function relativeError(a: Float32Array | undefined, b: Float32Array | undefined): number {
  assert.ok(a !== undefined && b !== undefined && a.length === b.length && a.length > 0);
  let [difference, size] = [0, 0];
  for (let i = 0; i < a.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return Math.sqrt(difference / size);
}

describe('decoder graphs of every format', () => {
  for (const step of [
    { rows: 1, newTokens: 1, pastTokens: 64 },
    { rows: 3, newTokens: 2, pastTokens: 192 },
  ])
    test(`an int8 cache, ${step.rows} x ${step.newTokens} over ${step.pastTokens}`, async () => {
      const feeds = stepFeeds(step);
      const exact = await run({}, feeds);
      const rounded = await run({ kv: 'int8' }, int8Feeds(feeds));
      assert.ok(relativeError(rounded.logits, exact.logits) < 0.01, `${relativeError(rounded.logits, exact.logits)}`);
      assert.equal(relativeError(rounded.new_k_0, exact.new_k_0), 0);
    });

  const step = { rows: 3, newTokens: 2, pastTokens: 64 };
  const storages: Record<string, Storage | undefined> = {
    f32: undefined,
    w8a8: { ...storageOf('int8'), w8a8: 'all' },
    int8: storageOf('int8'),
    int4: storageOf('int4'),
  };
  for (const [name, storage] of Object.entries(storages)) {
    // Kernels may sum in another order for another width; a sum on the edge of a rounding step then falls on its other side.
    const limit = storage === undefined ? 1e-5 : 0.01;
    const stored = storage === undefined ? {} : { storage };

    test(`joined layers give what single ones give, ${name}`, async () => {
      const feeds = stepFeeds(step);
      const single = await run(stored, feeds);
      const joined = await run({ ...stored, joins: true }, feeds);
      for (const output of ['logits', `new_k_${layers - 1}`, `new_v_${layers - 1}`])
        assert.ok(relativeError(joined[output], single[output]) < limit, output);
    });

    test(`joined layers take the adapters of single ones, ${name}`, async () => {
      // Not all parts of a joined layer are adapted.
      const adapterTargets = ['q_proj', 'v_proj', 'up_proj', 'o_proj'];
      const feeds = { ...stepFeeds(step), ...bankFeeds(adapterTargets, step.rows * step.newTokens) };
      const single = await run({ ...stored, adapterTargets }, feeds);
      const joined = await run({ ...stored, adapterTargets, joins: true }, feeds);
      const plain = await run({ ...stored, joins: true }, feeds);
      assert.ok(relativeError(joined.logits, single.logits) < limit);
      assert.ok(relativeError(plain.logits, single.logits) > 0.05, 'the adapters do something');
    });
  }

  for (const [name, storage] of Object.entries(storages))
    for (const slidingWindow of [undefined, 4])
      test(`a prompt's own graph gives what steps give, ${name}, window ${slidingWindow}`, async () => {
        const windowed =
          slidingWindow === undefined ? config : ({ ...config, text: { ...config.text, slidingWindow } } as VlmConfig);
        const options = { images: true, joins: true, ...(storage === undefined ? {} : { storage }) };
        const [B, S] = [2, 9];
        const { ids, positions, causal_bias, rows } = stepFeeds({ rows: B, newTokens: S, pastTokens: 0 });
        const feeds = {
          ids: ids!,
          rows: rows!,
          image_features: f32(noise(3 * config.text.hidden, 5), [3, config.text.hidden]),
          image_rows: ints([2, 3, 12], [3]),
        };
        const steps = await runModel(decodeGraph(windowed, options), storage, {
          ...feeds,
          positions: ints(
            Array.from({ length: B * S }, (_, i) => i % S),
            positions!.shape,
          ),
          causal_bias: slidingWindow === undefined ? causal_bias! : f32(causalBias(S, 1, slidingWindow), [S, S]),
          ...emptyPast(windowed, B),
        });
        const prompt = await runModel(prefillGraph(windowed, options), storage, feeds);
        assert.deepEqual(Object.keys(prompt).sort(), Object.keys(steps).sort());
        for (const output of Object.keys(steps)) {
          const error = relativeError(prompt[output], steps[output]);
          assert.ok(error < (storage === undefined ? 1e-5 : 0.02), `${output}: ${error}`);
        }
      });

  for (const [name, storage] of Object.entries(storages))
    test(`a cache that is extended in place gives what one that is read gives, ${name}`, async () => {
      const stored = storage === undefined ? {} : { storage };
      const [B, T, room] = [3, 40, 48];
      const feeds = stepFeeds({ rows: B, newTokens: 1, pastTokens: T });
      const { ids, positions } = feeds;
      const want = await run({ ...stored, joins: true }, feeds);

      const model = inPlaceGraph(config, stored);
      const session = await Session.create(model.graph, { initializers: servingWeights(model, weights, storage) });
      const bound = session.bind();
      bound.input('ids', ids!);
      bound.input('lengths', { ...positions!, shape: [B] });
      bound.output('logits');
      const caches = new Map<string, Tensor>();
      for (let i = 0; i < layers; i++)
        for (const kind of ['k', 'v']) {
          const cache = f32(withRoom(feeds[`past_${kind}_${i}`]!, room), [B, kvHeads, room, headDim]);
          caches.set(`${kind}_${i}`, cache);
          bound.input(`cache_${kind}_${i}`, cache);
          bound.output(`next_${kind}_${i}`, cache);
        }
      await bound.run();
      const limit = storage === undefined ? 1e-5 : 0.02;
      assert.ok(relativeError(bound.read('logits').data as Float32Array, want.logits) < limit);
      for (const [key, { data }] of caches)
        for (let row = 0; row < B * kvHeads; row++) {
          const length = Number(positions!.data[Math.floor(row / kvHeads)]);
          const token = (at: number) => data.slice((row * room + at) * headDim, (row * room + at + 1) * headDim);
          const fresh = want[`new_${key}`]!.slice(row * headDim, (row + 1) * headDim);
          assert.ok(relativeError(token(length) as Float32Array, fresh) < limit, `the new token of ${key}`);
          const before = feeds[`past_${key}`]!.data.slice(
            (row * T + length - 1) * headDim,
            (row * T + length) * headDim,
          );
          assert.deepEqual(token(length - 1), before, `the token before it of ${key}`);
        }
      bound.release();
      await session.release();
    });

  test('the weights of joined layers must be there', () => {
    const model = decodeGraph(config, { images: false, joins: true });
    const some = new Map([...weights].filter(([name]) => !name.endsWith('layers.1.self_attn.k_proj.weight')));
    assert.throws(() => servingWeights(model, some), /lack language_model.model.layers.1.self_attn.k_proj.weight/);
  });
});
