/**
 * Decoder graphs against each other at the geometry of SmolLM2-135M with random weights, one kernel thread:
 * `npm run bench -- decoder-graphs [variants] [cases] [rounds]`. A variant is `weights:cache[:joins]`, with weights f32, int4, int8
 * or w8a8 and cache f32, int8, `prompt` (the graph of first tokens) or `inplace` (an f32 cache that the run extends); a case is `rows x past tokens [x new tokens]`, 0 past
 * tokens for `prompt`. Variants take turns, and time is that of the process on the processor: on a machine that does other work
 * too it says more than the clock. Caches are filled (a new array's pages are one shared page of zeros, which is never missed).
 * LAYERS and VOCAB make the model smaller. The last line is JSON, in milliseconds.
 */
import type { VlmConfig } from '../../gpu-backend/models/config.ts';
import { decodeGraph, KEY_TILE_TOKENS } from '../../gpu-backend/models/decode.ts';
import { inPlaceGraph } from '../../gpu-backend/models/decode-in-place.ts';
import { emptyPast } from '../../gpu-backend/models/empty-past.ts';
import { prefillGraph } from '../../gpu-backend/models/prefill.ts';
import { nanoConfig } from '../../gpu-backend/models/presets.ts';
import { servingWeights } from '../../gpu-backend/models/serving-weights.ts';
import type { Storage } from '../../gpu-backend/models/storage.ts';
import { causalBias } from '../../gpu-backend/models/vlm.ts';
import type { BoundRun } from '../../gpu-backend/runtime/bound-run.ts';
import { f32, ints, Session, type Tensor } from '../../gpu-backend/runtime/session.ts';

const config: VlmConfig = nanoConfig({
  vocab: Number(process.env.VOCAB ?? 49152),
  imageToken: 3,
  bosToken: 1,
  eosTokens: [2],
  padToken: 0,
  hidden: 576,
  layers: Number(process.env.LAYERS ?? 30),
  heads: 9,
  kvHeads: 3,
  intermediate: 1536,
  maxPositions: 8192,
  tiedHead: true,
});
const { layers, kvHeads, headDim } = config.text;

/** Of a cache that is extended in place: attention must not read it. */
const ROOM_TOKENS = 256;

interface Step {
  readonly rows: number;
  readonly past: number;
  readonly fresh: number;
}

interface Variant {
  readonly name: string;
  readonly cache: 'f32' | 'int8' | 'prompt' | 'inplace';
  readonly session: Session;
  readonly outputs: readonly string[];
}

let state = 1;
/** Below 1, the same in every run. */
function random(): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32;
}
const noise = (count: number, size: number): Float32Array =>
  Float32Array.from({ length: count }, () => (random() - 0.5) * size);

function storageOf(weights: string): Storage | undefined {
  if (weights === 'f32') return undefined;
  const precision = weights === 'int4' ? 'int4' : 'int8';
  return {
    precision: { vision: 'f32', projector: 'f32', decoder: precision, head: precision },
    blockSize: 64,
    ...(weights === 'w8a8' ? { w8a8: 'all' as const } : {}),
  };
}

function randomWeights(): Map<string, Tensor> {
  const tensor = (name: string, shape: readonly number[]): Tensor => {
    const size = shape.reduce((a, b) => a * b, 1);
    return f32(name.includes('norm') ? new Float32Array(size).fill(1) : noise(size, 0.05), shape);
  };
  return new Map(
    [...decodeGraph(config, { images: false }).weights].map(([name, shape]) => [name, tensor(name, shape)]),
  );
}

async function makeVariant(name: string, weights: ReadonlyMap<string, Tensor>): Promise<Variant> {
  const [format = '', cache = '', joins] = name.split(':');
  if (!['f32', 'int4', 'int8', 'w8a8'].includes(format) || !isCache(cache))
    throw new Error(`a variant is weights:cache[:joins], such as w8a8:int8:joins, got ${name}`);
  const storage = storageOf(format);
  const options = { images: false, joins: joins === 'joins', ...(storage === undefined ? {} : { storage }) };
  const model =
    cache === 'prompt'
      ? prefillGraph(config, options)
      : cache === 'inplace'
        ? inPlaceGraph(config, options)
        : decodeGraph(config, { ...options, kv: cache });
  const initializers = servingWeights(model, weights, storage);
  const outputs = model.graph.outputs.map((output) => output.name);
  return { name, cache, session: await Session.create(model.graph, { initializers }), outputs };
}

const isCache = (name: string): name is Variant['cache'] => ['f32', 'int8', 'prompt', 'inplace'].includes(name);

function feedsOf(cache: Variant['cache'], { rows: B, past: T, fresh: S }: Step): Record<string, Tensor> {
  state = 7;
  const feeds: Record<string, Tensor> = {
    ids: ints(
      Array.from({ length: B * S }, () => 4 + Math.floor(random() * 500)),
      [B, S],
    ),
    rows: ints(
      Array.from({ length: B }, (_, b) => b * S + S - 1),
      [B],
    ),
  };
  if (cache === 'prompt') return feeds;
  if (cache === 'inplace') {
    feeds.lengths = ints(new Int32Array(B).fill(T), [B]);
    const shape = [B, kvHeads, T + ROOM_TOKENS, headDim];
    for (let layer = 0; layer < layers; layer++)
      for (const kind of ['k', 'v'])
        feeds[`cache_${kind}_${layer}`] = f32(
          noise(
            shape.reduce((a, b) => a * b, 1),
            2,
          ),
          shape,
        );
    return feeds;
  }
  feeds.positions = ints(
    Array.from({ length: B * S }, (_, i) => T + (i % S)),
    [B, S],
  );
  feeds.causal_bias = f32(causalBias(S), [S, S]);
  if (T === 0 && cache === 'f32') return { ...feeds, ...emptyPast(config, B) };
  feeds.past_bias = f32(new Float32Array(B * T), [B, 1, 1, T]);
  const bytes = (...shape: number[]): Tensor => {
    const size = shape.reduce((a, b) => a * b, 1);
    return { dtype: 'i8', shape, data: Int8Array.from({ length: size }, () => random() * 255 - 127) };
  };
  for (let layer = 0; layer < layers; layer++)
    for (const kind of ['k', 'v']) {
      const shape = [B, kvHeads, T, headDim];
      const tiles = [B, kvHeads, T / KEY_TILE_TOKENS, headDim, KEY_TILE_TOKENS];
      feeds[`past_${kind}_${layer}`] =
        cache === 'f32' ? f32(noise(B * kvHeads * T * headDim, 2), shape) : bytes(...(kind === 'k' ? tiles : shape));
      if (cache === 'int8')
        feeds[`past_${kind}_scale_${layer}`] = f32(noise(B * kvHeads * T, 0.01).map(Math.abs), [B, kvHeads, 1, T]);
    }
  return feeds;
}

function bindAll({ session, cache, outputs }: Variant, feeds: Record<string, Tensor>): BoundRun {
  const bound = session.bind();
  for (const [name, tensor] of Object.entries(feeds))
    if (name !== 'rows' || cache !== 'inplace') bound.input(name, tensor);
  // In place: the cache's outputs are its inputs' memory.
  for (const name of outputs) bound.output(name, feeds[name.replace('next_', 'cache_')]);
  return bound;
}

/** Milliseconds on the processor. */
async function timed(bound: BoundRun): Promise<number> {
  const start = process.cpuUsage();
  await bound.run();
  const { user, system } = process.cpuUsage(start);
  return (user + system) / 1000;
}

const names = (process.argv[2] ?? 'w8a8:int8,w8a8:int8:joins,int4:f32,int4:f32:joins').split(',');
const cases = (process.argv[3] ?? '1x128,8x128,1x1984,8x1984').split(',').map((text): Step => {
  const [rows = 1, past = 0, fresh = 1] = text.split('x').map(Number);
  return { rows, past, fresh };
});
const rounds = Number(process.argv[4] ?? 8);

const weights = randomWeights();
const variants: Variant[] = [];
for (const name of names) variants.push(await makeVariant(name, weights));
const results: Record<string, Record<string, { best: number; median: number; tokensPerSecond: number }>> = {};
for (const step of cases) {
  const label = `B${step.rows} T${step.past} S${step.fresh}`;
  const fed = variants
    .filter(({ cache }) => cache !== 'prompt' || step.past === 0)
    .filter(({ cache }) => cache !== 'inplace' || step.fresh === 1)
    .map((variant) => ({ variant, bound: bindAll(variant, feedsOf(variant.cache, step)), times: [] as number[] }));
  for (const { bound } of fed) await timed(bound);
  for (let round = 0; round < rounds; round++)
    for (const { bound, times } of fed)
      for (let i = 0; i < (step.fresh > 1 ? 1 : 4); i++) times.push(await timed(bound));
  results[label] = {};
  for (const { variant, bound, times } of fed) {
    bound.release();
    const [best = 0, median = 0] = [0, times.length >> 1].map((at) => times.toSorted((a, b) => a - b)[at]);
    const tokensPerSecond = Math.round((1000 * step.rows * step.fresh) / best);
    results[label][variant.name] = { best, median, tokensPerSecond };
    console.error(
      `${label}  ${variant.name.padEnd(18)} best ${best} ms, median ${median} ms, ${tokensPerSecond} tokens/s`,
    );
  }
}
console.log(JSON.stringify({ benchmark: 'decoder-graphs', layers, unit: 'ms of the process', results }));
