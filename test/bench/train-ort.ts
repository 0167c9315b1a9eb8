/**
 * One measured process of train-throughput.ts: full optimizer steps (forward, backward, clip, AdamW) of a case written by
 * writeCase, with this project's engine. Ends with one JSON line.
 *
 *     node --import tsx test/bench/train-ort.ts DIR CASE THREADS WARMUP STEPS
 *
 * CASE may carry other causal blocks and another micro-batch, as a:6:8.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { readSafetensors } from '../../gpu-backend/io/safetensors.ts';
import { toFloat32, toInt32 } from '../../gpu-backend/io/tensor.ts';
import { loadAdapter } from '../../gpu-backend/models/adapter.ts';
import { loadCheckpoint } from '../../gpu-backend/models/load.ts';
import { trainGraph } from '../../gpu-backend/models/train-graph.ts';
import { causalBias } from '../../gpu-backend/models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../../gpu-backend/runtime/session.ts';
import { GradientRun } from '../../gpu-backend/train/gradient-run.ts';
import { ParameterState } from '../../gpu-backend/train/state.ts';
import { findCase, type TrainCase } from './train-cases.ts';

/** Feeds of one micro-batch, rows from..to of the written batch, each padded at the end to a multiple of the causal blocks. */
function feedsOf(dir: string, c: TrainCase, from: number, to: number): Record<string, Tensor> {
  const batch = readSafetensors(join(dir, 'batch.safetensors'));
  const block = Math.ceil(c.length / c.causalBlocks);
  const length = block * c.causalBlocks;
  const pick = (name: string, fill: number): Int32Array => {
    const tensor = batch.get(name);
    if (tensor === undefined) throw new Error(`batch.safetensors has no ${name}`);
    const all = toInt32(tensor);
    const padded = new Int32Array((to - from) * length).fill(fill);
    for (let row = from; row < to; row++)
      padded.set(all.subarray(row * c.length, (row + 1) * c.length), (row - from) * length);
    return padded;
  };
  const [ids, labels] = [pick('ids', 0), pick('labels', -100)];
  const rows: number[] = [];
  const targets: number[] = [];
  labels.forEach((label, i) => {
    if (label === -100) return;
    rows.push(i - 1);
    targets.push(label);
  });
  const count = (c.supervisedPerRow - 1) * c.batch;
  const imageRows = [...ids.keys()].filter((i) => ids[i] === c.config.imageToken);
  const pixels = batch.get('pixel_values');
  if (pixels === undefined) throw new Error('batch.safetensors has no pixel_values');
  const { imageSize: side } = c.config.vision;
  const perRow = c.imagesPerRow * 3 * side * side;
  const shape = [to - from, length];
  return {
    ids: ints(ids, shape),
    positions: ints(
      Array.from(ids, (_, i) => i % length),
      shape,
    ),
    causal_bias: f32(causalBias(block, c.causalBlocks), [block, length]),
    image_rows: ints(imageRows, [imageRows.length]),
    pixel_values: f32(toFloat32(pixels).slice(from * perRow, to * perRow), [
      (to - from) * c.imagesPerRow,
      3,
      side,
      side,
    ]),
    rows: ints(rows, [rows.length]),
    targets: ints(targets, [targets.length]),
    weights: f32(new Float32Array(rows.length).fill(1 / count), [rows.length]),
  };
}

function peakRssMb(): number {
  const line = /VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'));
  return Number(line?.[1] ?? Number.NaN) / 1024;
}

const [dir = '', name = '', threads = '1', warmup = '2', steps = '5'] = process.argv.slice(2);
const found = findCase(name);

async function measure(c: TrainCase): Promise<void> {
  const started = performance.now();
  const { config, weights } = loadCheckpoint(dir);
  const all = new Map<string, Tensor>(weights);
  if (c.lora !== undefined) for (const [key, t] of loadAdapter(join(dir, 'adapter'), config).weights) all.set(key, t);
  const model = trainGraph(config, {
    train: c.train,
    images: 'pixels',
    causalBlocks: c.causalBlocks,
    ...(c.lora === undefined ? {} : { lora: c.lora }),
  });
  const state = new ParameterState(model.trainable.map((key) => ({ name: key, shape: model.weights.get(key) ?? [] })));
  for (const p of state.parameters) {
    p.value.set(all.get(p.name)?.data as Float32Array);
    all.set(p.name, f32(p.value, p.shape));
  }
  const fixed: Record<string, Tensor> = {};
  for (const key of model.weights.keys()) {
    const tensor = all.get(key);
    if (tensor === undefined) throw new Error(`no weight ${key}`);
    fixed[key] = tensor;
  }
  weights.clear();
  const micro = Array.from({ length: c.batch / c.microBatch }, (_, i) =>
    feedsOf(dir, c, i * c.microBatch, (i + 1) * c.microBatch),
  );
  const profilePrefix = process.env.MANTIS_BENCH_PROFILE;
  const session = await Session.create(model.graph, {
    threads: Number(threads),
    spin: true,
    ...(profilePrefix === undefined ? {} : { profilePrefix }),
  });
  const readyMs = performance.now() - started;
  // As the trainer does it, without the logits that it counts right tokens with.
  const run = new GradientRun(session, fixed, { trained: model.trainable, wantsLogits: false });
  const wallMs: number[] = [];
  const cpuMs: number[] = [];
  const losses: number[] = [];
  for (let step = 0; step < Number(warmup) + Number(steps); step++) {
    const cpu = process.cpuUsage();
    const start = performance.now();
    state.zeroGradients();
    let loss = 0;
    for (const feeds of micro) loss += (await run.add(state, feeds, 0)).loss;
    state.update(1e-4, { adamw: { weightDecay: 0.01 }, maxNorm: 1, decay: 'all' });
    losses.push(loss);
    if (step < Number(warmup)) continue;
    wallMs.push(performance.now() - start);
    const used = process.cpuUsage(cpu);
    cpuMs.push((used.user + used.system) / 1000);
  }
  if (profilePrefix !== undefined) session.endProfiling();
  console.log(
    JSON.stringify({ wallMs, cpuMs, losses, peakRssMb: peakRssMb(), readyMs, nodes: model.graph.nodes.length }),
  );
}

await measure(found);
