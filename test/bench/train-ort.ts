/**
 * One measured process of train-throughput.ts: full optimizer steps (the frozen encoder over the step's pictures, forward, backward, clip,
 * AdamW) of a case written by writeCase, with this project's engine as a job runs it: packed rows, supervised rows only in the head, causal
 * blocks, weights bound where they lie. Jobs keep the encoder's features over the epochs; here it sees the pictures in every step, as the
 * peer's does. Ends with one JSON line.
 *
 *     node --import tsx test/bench/train-ort.ts DIR CASE THREADS WARMUP STEPS
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openSafetensors, readSafetensors } from '../../gpu-backend/io/safetensors.ts';
import { toFloat32, toInt32 } from '../../gpu-backend/io/tensor.ts';
import { loadAdapter } from '../../gpu-backend/models/adapter.ts';
import { storeFrozen } from '../../gpu-backend/models/frozen-weights.ts';
import { readConfig } from '../../gpu-backend/models/load.ts';
import { canonicalName } from '../../gpu-backend/models/names.ts';
import { trainGraph } from '../../gpu-backend/models/train-graph.ts';
import { visionTowerGraph } from '../../gpu-backend/models/vlm.ts';
import { f32, Session, type Tensor } from '../../gpu-backend/runtime/session.ts';
import type { Layout } from '../../gpu-backend/text/layout.ts';
import type { TrainingSample } from '../../gpu-backend/train/batch.ts';
import { GradientRun } from '../../gpu-backend/train/gradient-run.ts';
import { packedBatches } from '../../gpu-backend/train/packing.ts';
import { groupBlocksAt } from '../../gpu-backend/train/stage-plan.ts';
import { ParameterState } from '../../gpu-backend/train/state.ts';
import { batchFeeds } from '../../gpu-backend/train/train-session.ts';
import { findCase, lengthOf, type TrainCase } from './train-cases.ts';

/** The written conversations, their pictures as pixels. */
function readSamples(dir: string, c: TrainCase): TrainingSample[] {
  const batch = readSafetensors(join(dir, 'batch.safetensors'));
  const get = (name: string) => {
    const tensor = batch.get(name);
    if (tensor === undefined) throw new Error(`batch.safetensors has no ${name}`);
    return tensor;
  };
  const [ids, labels, pixels] = [toInt32(get('ids')), toInt32(get('labels')), toFloat32(get('pixel_values'))];
  const pictureSize = 3 * c.config.vision.imageSize ** 2;
  let [row, picture] = [0, 0];
  return c.conversations.map((conversation) => {
    const [from, count] = [row, lengthOf(c, conversation)];
    row += count;
    const images = Array.from({ length: conversation.images }, () => {
      picture++;
      return pixels.slice((picture - 1) * pictureSize, picture * pictureSize);
    });
    const learned = Uint8Array.from(labels.subarray(from, row), (label) => (label === -100 ? 0 : 1));
    const layout: Layout = {
      ids: ids.slice(from, row),
      lossMask: learned,
      weights: Float32Array.from(learned),
      positions: Int32Array.from(learned, (_, i) => i),
      images: images.map((_, i) => ({
        ...{ index: i, image: i },
        tokenStart: i * c.config.tokensPerImage,
        tokenCount: c.config.tokensPerImage,
      })),
    };
    return { layout, images };
  });
}

function peakRssMb(): number {
  const line = /VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'));
  return Number(line?.[1] ?? Number.NaN) / 1024;
}

/** What a job takes where nothing is said. */
const MICRO_BATCH_TOKENS = 1500;

const [dir = '', name = '', threads = '1', warmup = '2', steps = '5'] = process.argv.slice(2);
const found = findCase(name);

async function measure(c: TrainCase): Promise<void> {
  const started = performance.now();
  const config = readConfig(dir);
  const store = openSafetensors(dir);
  const places = new Map([...store.tensors].map(([stored, tensor]) => [canonicalName(stored), tensor] as const));
  /** Read one by one, so that a quantised base never lies in memory as f32. */
  const weightOf = (key: string): Tensor | undefined => {
    const tensor = places.get(key);
    return tensor === undefined ? undefined : f32(toFloat32(tensor.read()), tensor.shape);
  };
  const samples = readSamples(dir, c);
  const longest = Math.max(...c.conversations.map((x) => lengthOf(c, x)));
  const packedGroups = groupBlocksAt(longest);
  const options = { train: c.train, images: 'towerFeatures', packedGroups } as const;
  const model = trainGraph(config, {
    ...options,
    basePrecision: c.basePrecision,
    ...(c.lora === undefined ? {} : { lora: c.lora }),
  });
  const adapter = c.lora === undefined ? undefined : loadAdapter(join(dir, 'adapter'), config).weights;
  const state = new ParameterState(model.trainable.map((key) => ({ name: key, shape: model.weights.get(key) ?? [] })));
  for (const p of state.parameters) {
    const start = adapter?.get(p.name) ?? weightOf(p.name);
    if (start === undefined) throw new Error(`no weight ${p.name}`);
    p.value.set(start.data as Float32Array);
  }
  const moves = new Set(model.trainable);
  const frozen = storeFrozen(model.graph, weightOf, (key) => moves.has(key));
  const tower = visionTowerGraph(config);
  const towerWeights = Object.fromEntries([...tower.weights.keys()].map((key) => [key, weightOf(key) as Tensor]));
  store.close();
  const profilePrefix = process.env.MANTIS_BENCH_PROFILE;
  const session = await Session.create(model.graph, {
    threads: Number(threads),
    spin: true,
    ...(profilePrefix === undefined ? {} : { profilePrefix }),
  });
  const encoder = await Session.create(tower.graph, { threads: Number(threads), spin: true });
  const side = config.vision.imageSize;
  const see = async (sample: TrainingSample): Promise<TrainingSample> => {
    const all = new Float32Array(sample.images.length * 3 * side * side);
    sample.images.forEach((pixels, i) => {
      all.set(pixels, i * 3 * side * side);
    });
    const shape = [sample.images.length, 3, side, side];
    const { vision_features } = await encoder.run({ ...towerWeights, pixel_values: f32(all, shape) });
    const features = vision_features?.data as Float32Array;
    const size = features.length / sample.images.length;
    return { ...sample, images: sample.images.map((_, i) => features.subarray(i * size, (i + 1) * size)) };
  };
  const readyMs = performance.now() - started;
  // As the trainer does it, without the logits that it counts right tokens with.
  const run = new GradientRun(session, frozen, { trained: model.trainable, wantsLogits: false });
  const budget = { tokens: MICRO_BATCH_TOKENS, images: 64 };
  const wallMs: number[] = [];
  const cpuMs: number[] = [];
  const losses: number[] = [];
  for (let step = 0; step < Number(warmup) + Number(steps); step++) {
    const cpu = process.cpuUsage();
    const start = performance.now();
    state.zeroGradients();
    let loss = 0;
    const seen: TrainingSample[] = [];
    for (const sample of samples) seen.push(await see(sample));
    for (const batch of packedBatches(seen, budget, packedGroups))
      loss += (await run.add(state, batchFeeds(batch, config, options), batch.rows.length)).loss;
    state.update(1e-4, { adamw: { weightDecay: 0.01 }, maxNorm: 1, decay: 'all' });
    losses.push(loss);
    if (step < Number(warmup)) continue;
    wallMs.push(performance.now() - start);
    const used = process.cpuUsage(cpu);
    cpuMs.push((used.user + used.system) / 1000);
  }
  if (profilePrefix !== undefined) session.endProfiling();
  console.log(
    JSON.stringify({
      ...{ wallMs, cpuMs, losses, peakRssMb: peakRssMb(), readyMs },
      ...{ trained: state.elementCount, nodes: model.graph.nodes.length },
    }),
  );
}

await measure(found);
