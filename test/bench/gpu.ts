/**
 * Serving and training steps on the accelerators of this machine, beside the processor:
 *
 *     npm run bench -- gpu [--devices cuda,webgpu,cpu] [--geometry 135m|nano] [--seconds 2]
 *
 * A device that is missing is named with its reason. Medians; the last line is JSON. Without an accelerator there is nothing to
 * measure, and the line says so.
 */
import { parseArgs } from 'node:util';
import type { VlmConfig } from '../../gpu-backend/models/config.ts';
import { decodeGraph } from '../../gpu-backend/models/decode.ts';
import { decodeLoop } from '../../gpu-backend/models/decode-loop.ts';
import { familyOf } from '../../gpu-backend/models/family.ts';
import type { WeightMap } from '../../gpu-backend/models/load.ts';
import { initWeights, nanoConfig } from '../../gpu-backend/models/presets.ts';
import { trainGraph } from '../../gpu-backend/models/train-graph.ts';
import { causalBias, visionGraph } from '../../gpu-backend/models/vlm.ts';
import { DEVICES, type Device, type Placement } from '../../gpu-backend/runtime/device.ts';
import { type DeviceProbe, describeDevice, openDevice } from '../../gpu-backend/runtime/device-open.ts';
import { f32, i64, ints, Session, scalarTensor, type Tensor } from '../../gpu-backend/runtime/session.ts';
import { ADAMW_DEFAULTS } from '../../gpu-backend/train/adamw.ts';
import { appendAdamW } from '../../gpu-backend/train/adamw-graph.ts';
import { BENCH_CONFIG } from './inference/model.ts';

const { values: args } = parseArgs({
  options: {
    devices: { type: 'string', default: 'cuda,webgpu,cpu' },
    geometry: { type: 'string', default: '135m' },
    seconds: { type: 'string', default: '2' },
  },
});
const windowMs = 1000 * Number(args.seconds);
const nano = nanoConfig({ vocab: 2048, imageToken: 3, bosToken: 1, eosTokens: [2], padToken: 0, maxPositions: 4096 });
const config: VlmConfig = args.geometry === 'nano' ? nano : BENCH_CONFIG;
const { layers, kvHeads, headDim, hidden, vocab } = config.text;

const noise = (length: number): Float32Array => Float32Array.from({ length }, (_, i) => Math.sin(i * 12.9898));

interface Timing {
  readonly ms: number;
  readonly runs: number;
}

/** Median of runs for a window, at least three, after two that compile kernels and fill caches. */
async function time(run: () => Promise<unknown>): Promise<Timing> {
  for (let i = 0; i < 2; i++) await run();
  const samples: number[] = [];
  const end = performance.now() + windowMs;
  while (samples.length < 3 || performance.now() < end) {
    const start = performance.now();
    await run();
    samples.push(performance.now() - start);
  }
  samples.sort((a, b) => a - b);
  return { ms: samples[samples.length >> 1] ?? Number.NaN, runs: samples.length };
}

function past(B: number, T: number): Record<string, Tensor> {
  const shape = [B, kvHeads, T, headDim];
  const data = noise(B * kvHeads * T * headDim);
  const feeds: Record<string, Tensor> = { past_bias: f32(new Float32Array(B * T), [B, 1, 1, T]) };
  for (let layer = 0; layer < layers; layer++)
    for (const kind of ['k', 'v']) feeds[`past_${kind}_${layer}`] = f32(data, shape);
  return feeds;
}

type Report = (name: string, timing: Timing, units: number, unit: string) => void;

async function vision(weights: WeightMap, placement: Placement, report: Report): Promise<void> {
  const side = config.vision.imageSize;
  const pixels_CHW = noise(3 * side * side);
  const session = await Session.create(visionGraph(config).graph, { placement, initializers: weights });
  for (const count of [1, 8]) {
    const pictures = Array.from({ length: count }, () => ({ width: side, height: side, pixels_CHW }));
    const feeds = familyOf(config).pictureFeeds(config, pictures);
    report(`vision ${count}`, await time(() => session.run(feeds)), count, 'pictures');
  }
  await session.release();
}

async function steps(weights: WeightMap, placement: Placement, report: Report): Promise<void> {
  const session = await Session.create(decodeGraph(config, { images: false }).graph, {
    placement,
    initializers: weights,
  });
  const S = args.geometry === 'nano' ? 128 : 512;
  const prefill = {
    ...past(1, 1),
    ids: ints(new Int32Array(S).fill(5), [1, S]),
    positions: ints(
      Int32Array.from({ length: S }, (_, i) => i + 1),
      [1, S],
    ),
    causal_bias: f32(causalBias(S), [S, S]),
    rows: ints([S - 1], [1]),
  };
  report(`prefill ${S}`, await time(() => session.run(prefill)), S, 'tokens');
  for (const [B, T] of CASES) {
    const feeds = {
      ...past(B, T),
      ids: ints(new Int32Array(B).fill(5), [B, 1]),
      positions: ints(new Int32Array(B).fill(T), [B, 1]),
      causal_bias: f32(new Float32Array(1), [1, 1]),
      rows: ints(
        Int32Array.from({ length: B }, (_, i) => i),
        [B],
      ),
    };
    report(`step B${B} ctx${T}`, await time(() => session.run(feeds)), B, 'tokens');
  }
  await session.release();
}

const CASES = [
  [1, 128],
  [8, 128],
  [1, 1984],
  [8, 1984],
] as const;

async function loops(weights: WeightMap, placement: Placement, report: Report): Promise<void> {
  const session = await Session.create(decodeLoop(config).loop, { placement, initializers: weights });
  for (const [B, T] of CASES)
    for (const N of [8, 16]) {
      const feeds: Record<string, Tensor> = {
        ...past(B, T),
        ids: ints(new Int32Array(B).fill(5), [B, 1]),
        positions: ints(new Int32Array(B).fill(T), [B, 1]),
        alive: f32(new Float32Array(B).fill(1), [B]),
        stops: f32(new Float32Array(vocab), [vocab]),
        steps: i64(BigInt64Array.of(BigInt(N)), []),
      };
      for (let layer = 0; layer < layers; layer++)
        for (const kind of ['k', 'v'])
          feeds[`fresh_${kind}_${layer}`] = f32(new Float32Array(0), [B, kvHeads, 0, headDim]);
      report(`loop ${N} B${B} ctx${T}`, await time(() => session.run(feeds)), N * B, 'tokens');
    }
  await session.release();
}

/** Text of one row of 256 tokens through decoder, loss, backward pass and AdamW, all weights of the language model. */
async function training(weights: WeightMap, placement: Placement, report: Report): Promise<void> {
  const S = 256;
  const { graph, trainable, weights: needed } = trainGraph(config, { train: 'full', images: 'none' });
  const named = (name: string) => {
    const value = graph.inputs.find((i) => i.name === name)?.value ?? graph.outputs.find((o) => o.name === name)?.value;
    if (value === undefined) throw new Error(`the training graph has no ${name}`);
    return value;
  };
  appendAdamW(
    graph,
    trainable.map((name) => ({ name, value: named(name), grad: named(`grad.${name}`) })),
  );
  const session = await Session.create(graph, { placement });
  const feeds: Record<string, Tensor> = {
    ids: ints(new Int32Array(S).fill(5), [1, S]),
    positions: ints(
      Int32Array.from({ length: S }, (_, i) => i),
      [1, S],
    ),
    causal_bias: f32(causalBias(S), [S, S]),
    rows: ints(
      Int32Array.from({ length: 64 }, (_, i) => i),
      [64],
    ),
    targets: ints(new Int32Array(64).fill(7), [64]),
    weights: f32(new Float32Array(64).fill(1 / 64), [64]),
    max_norm: scalarTensor(1),
    learning_rate: scalarTensor(1e-3),
    correction1: scalarTensor(1 / (1 - ADAMW_DEFAULTS.beta1)),
    correction2: scalarTensor(1 / Math.sqrt(1 - ADAMW_DEFAULTS.beta2)),
  };
  for (const name of needed.keys()) feeds[name] = weights.get(name) as Tensor;
  for (const name of trainable) {
    const { data, shape } = feeds[name] as Tensor;
    const zeros = f32(new Float32Array(data.length), shape);
    Object.assign(feeds, { [`first.${name}`]: zeros, [`second.${name}`]: zeros });
  }
  report('train 1x256', await time(() => session.run(feeds, ['loss', 'grad_norm'])), S, 'tokens');
  await session.release();
}

interface Measured {
  readonly device: Device;
  readonly adapter: DeviceProbe['adapter'];
  readonly cases: Record<string, Timing & { readonly perSecond: number; readonly unit: string }>;
}

const measured: Measured[] = [];
const missing: Record<string, string> = {};
const weights = initWeights(config, 7);
for (const device of DEVICES.filter((name) => args.devices.split(',').includes(name))) {
  let opened: Awaited<ReturnType<typeof openDevice>>;
  try {
    opened = await openDevice(device, null);
  } catch (error) {
    missing[device] = error instanceof Error ? error.message : String(error);
    console.log(`${device}: ${missing[device]}`);
    continue;
  }
  // The processor is only the measure of the others.
  if (device === 'cpu' && measured.length === 0 && args.devices !== 'cpu') continue;
  for (const line of describeDevice(opened)) console.log(line);
  const cases: Measured['cases'] = {};
  const report: Report = (name, timing, units, unit) => {
    const perSecond = (1000 * units) / timing.ms;
    cases[name] = { ...timing, perSecond, unit };
    console.log(
      `${device.padEnd(7)}${name.padEnd(20)}${timing.ms.toFixed(2).padStart(10)} ms  ${perSecond.toFixed(1).padStart(9)} ${unit}/s`,
    );
  };
  const { placement } = opened;
  for (const part of [vision, steps, loops, training]) await part(weights, placement, report);
  const adapter = opened.verdicts.find(({ used }) => used)?.probe.adapter ?? null;
  measured.push({ device, adapter, cases });
}
if (measured.length === 0) console.log('nothing to measure: no accelerator (--devices cpu measures the processor)');
console.log(JSON.stringify({ bench: 'gpu', geometry: args.geometry, hidden, layers, vocab, measured, missing }));
// A provider may abort while it is taken down at exit; everything is said by now.
process.exit(0);
