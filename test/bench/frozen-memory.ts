/**
 * One measured process of frozen-base.ts: two passes over 64 positions of a decoder of 147 M parameters, forward and backward, with frozen weights
 * in one precision. Ends with one JSON line.
 *
 *     node --import tsx test/bench/frozen-memory.ts projector|lora f32|f16|int8|int4
 */
import { readFileSync } from 'node:fs';
import { storeFrozen } from '../../gpu-backend/models/frozen-weights.ts';
import { expectedWeights } from '../../gpu-backend/models/load.ts';
import { nanoConfig } from '../../gpu-backend/models/presets.ts';
import { PRECISIONS } from '../../gpu-backend/models/storage.ts';
import { trainGraph } from '../../gpu-backend/models/train-graph.ts';
import { causalBias } from '../../gpu-backend/models/vlm.ts';
import { LLAMA_LINEARS } from '../../gpu-backend/models/weights.ts';
import { collectGarbage } from '../../gpu-backend/runtime/garbage.ts';
import { f32, ints, Session, type Tensor } from '../../gpu-backend/runtime/session.ts';
import { GradientRun } from '../../gpu-backend/train/gradient-run.ts';
import { ParameterState } from '../../gpu-backend/train/state.ts';

const POSITIONS = 64;
const config = nanoConfig({
  ...{ imageToken: 5, bosToken: 1, eosTokens: [2], padToken: 3, vocab: 4096 },
  ...{ imageSize: 56, patchSize: 8, visionHidden: 64, visionLayers: 1, visionHeads: 2 },
  ...{ hidden: 1024, layers: 12, heads: 16, kvHeads: 8, intermediate: 2752 },
});

function statusMb(field: 'VmRSS' | 'VmHWM'): number {
  const line = new RegExp(`${field}:\\s+(\\d+) kB`).exec(readFileSync('/proc/self/status', 'utf8'));
  return Math.round(Number(line?.[1] ?? Number.NaN) / 1024);
}

const [mode = 'lora', chosen = 'f32'] = process.argv.slice(2);
const precision = PRECISIONS.find((p) => p === chosen);
if (precision === undefined) throw new Error(`expected one of ${PRECISIONS.join(', ')}, got ${chosen}`);
const model = trainGraph(config, {
  images: 'towerFeatures',
  basePrecision: precision,
  ...(mode === 'lora'
    ? { train: 'lora', lora: { r: 8, alpha: 16, targets: [...LLAMA_LINEARS] } }
    : { train: 'projector' }),
});
const moves = new Set(model.trainable);
const shapes = expectedWeights(config);
/** Cheap values, made when they are asked for: nothing keeps them as f32. */
const weightOf = (name: string): Tensor | undefined => {
  const shape = shapes.get(name);
  if (shape === undefined) return undefined;
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  for (let i = 0; i < data.length; i++) data[i] = ((Math.imul(i, 0x9e3779b1) >>> 12) / 2 ** 20 - 0.5) / 20;
  return f32(data, shape);
};
const frozen = storeFrozen(model.graph, weightOf, (name) => moves.has(name));
collectGarbage();
const state = new ParameterState(model.trainable.map((name) => ({ name, shape: model.weights.get(name) ?? [] })));
for (const p of state.parameters) p.value.fill(0.01);
const session = await Session.create(model.graph);
const loadedMb = statusMb('VmRSS');
const run = new GradientRun(session, frozen, { trained: model.trainable, wantsLogits: false });
const tokens = config.tokensPerImage;
const feeds = {
  ids: ints(new Int32Array(POSITIONS).fill(5), [1, POSITIONS]),
  positions: ints([...Array(POSITIONS).keys()], [1, POSITIONS]),
  causal_bias: f32(causalBias(POSITIONS), [POSITIONS, POSITIONS]),
  image_rows: ints([...Array(tokens).keys()], [tokens]),
  vision_features: f32(new Float32Array(tokens * 64).fill(0.1), [tokens, 64]),
  rows: ints([60, 61], [2]),
  targets: ints([7, 8], [2]),
  weights: f32(Float32Array.of(0.5, 0.5), [2]),
};
const before = process.cpuUsage();
for (let i = 0; i < 2; i++) await run.add(state, feeds, 2);
const used = process.cpuUsage(before);
console.log(
  JSON.stringify({
    ...{ mode, precision, loadedMb, peakMb: statusMb('VmHWM') },
    fedMb: Math.round(Object.values(frozen).reduce((sum, { data }) => sum + data.byteLength, 0) / 1e6),
    cpuMs: Math.round((used.user + used.system) / 2000),
  }),
);
