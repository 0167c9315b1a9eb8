import assert from 'node:assert/strict';
import { test } from 'node:test';
import { initAdapter, initWeights, nanoConfig } from '../../gpu-backend/models/presets.ts';
import { type TrainOptions, trainGraph } from '../../gpu-backend/models/train-graph.ts';
import { weightFeeds } from '../../gpu-backend/models/verify-case.ts';
import type { Placement } from '../../gpu-backend/runtime/device.ts';
import { f32, Session, scalarTensor, type Tensor } from '../../gpu-backend/runtime/session.ts';
import { ADAMW_DEFAULTS } from '../../gpu-backend/train/adamw.ts';
import { appendAdamW } from '../../gpu-backend/train/adamw-graph.ts';
import { type CollatedBatch, collate, supervisedWeight, type TrainingSample } from '../../gpu-backend/train/batch.ts';
import { ParallelComputer } from '../../gpu-backend/train/parallel.ts';
import { ParameterState } from '../../gpu-backend/train/state.ts';
import { batchFeeds } from '../../gpu-backend/train/train-session.ts';
import { difference, TOLERANCE, testDevices } from './device.ts';

const STEPS = 3;
const LEARNING_RATE = 3e-3;

const config = nanoConfig({
  vocab: 300,
  imageToken: 298,
  bosToken: 1,
  eosTokens: [2],
  padToken: 299,
  imageSize: 40,
  patchSize: 10,
  visionHidden: 32,
  visionLayers: 2,
  visionHeads: 2,
  hidden: 48,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  maxPositions: 512,
});
const lora = { r: 4, alpha: 8, targets: ['q_proj', 'v_proj', 'down_proj'] };

/** Conversations of different lengths, each with pictures. */
function batch(causalBlocks: number): CollatedBatch {
  const samples = Array.from({ length: 3 }, (_, k): TrainingSample => {
    const ids = [1];
    const images = Array.from({ length: 1 + (k % 2) }, (_slot, i) => {
      const tokenStart = ids.length;
      ids.push(...new Array<number>(16).fill(298), 3 + i);
      return { index: i, image: i, tokenStart, tokenCount: 16 };
    });
    const supervisedFrom = ids.length + 2;
    for (let i = 0; i < 6 + 3 * k; i++) ids.push(4 + ((k * 13 + i * 5) % 290));
    const weights = Float32Array.from(ids, (_id, t) => (t >= supervisedFrom ? 1 : 0));
    return {
      layout: {
        ids: Int32Array.from(ids),
        lossMask: Uint8Array.from(weights),
        weights,
        positions: Int32Array.from(ids.keys()),
        images,
      },
      images: images.map((_slot, i) => Float32Array.from({ length: 4800 }, (_v, j) => Math.sin(k + i * 3 + j * 0.37))),
    };
  });
  return collate(samples, { padId: 299, multiple: causalBlocks, totalWeight: supervisedWeight(samples) });
}

/** Steps of AdamW with everything in one graph: loss and gradients of the first, the losses, the weights after the last. */
async function train(options: TrainOptions, placement?: Placement) {
  const { graph, weights, trainable } = trainGraph(config, options);
  const find = (name: string) => {
    const value = graph.inputs.find((i) => i.name === name)?.value ?? graph.outputs.find((o) => o.name === name)?.value;
    assert.ok(value !== undefined, name);
    return value;
  };
  appendAdamW(
    graph,
    trainable.map((name) => ({ name, value: find(name), grad: find(`grad.${name}`) })),
  );
  const session = await Session.create(graph, placement === undefined ? {} : { placement });
  const initial = new Map([
    ...initWeights(config, 3, { headStd: 0.3 }),
    ...(options.lora === undefined ? [] : initAdapter(config, options.lora, 5)),
  ]);
  const state: Record<string, Tensor> = { ...weightFeeds(weights, initial), max_norm: scalarTensor(1) };
  for (const name of trainable)
    for (const moment of ['first', 'second']) {
      const { shape } = state[name] as Tensor;
      state[`${moment}.${name}`] = f32(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape);
    }
  const data = batchFeeds(batch(options.causalBlocks ?? 1), config, options);
  const losses: number[] = [];
  let first: Readonly<Record<string, Tensor>> | undefined;
  for (let step = 1; step <= STEPS; step++) {
    const results = await session.run({
      ...state,
      ...data,
      learning_rate: scalarTensor(LEARNING_RATE),
      correction1: scalarTensor(1 / (1 - ADAMW_DEFAULTS.beta1 ** step)),
      correction2: scalarTensor(1 / Math.sqrt(1 - ADAMW_DEFAULTS.beta2 ** step)),
    });
    first ??= results;
    losses.push(Number(results.loss?.data[0]));
    for (const name of trainable) {
      state[name] = results[`new.${name}`] as Tensor;
      for (const moment of ['first', 'second']) state[`${moment}.${name}`] = results[`new_${moment}.${name}`] as Tensor;
    }
  }
  await session.release();
  return { trainable, first: first ?? {}, losses, state };
}

const MODES: Readonly<Record<string, TrainOptions>> = {
  'the whole model from pixels': { train: 'all', images: 'pixels' },
  'with causal blocks and recomputed layers': {
    train: 'all',
    images: 'pixels',
    causalBlocks: 2,
    checkpointing: 'layer',
  },
  'an adapter': { train: 'lora', images: 'pixels', lora },
};

for (const { device, placement, skip } of await testDevices()) {
  for (const [mode, options] of Object.entries(MODES)) {
    test(`${device}: trains ${mode} as the processor does`, { skip }, async () => {
      const want = await train(options);
      const got = await train(options, placement);
      const tolerance = TOLERANCE[device];
      let worst = 0;
      // Key biases have a gradient of zero in exact arithmetic.
      for (const name of want.trainable.filter((n) => !/k_proj\.bias/.test(n))) {
        const error = difference(want.first[`grad.${name}`], got.first[`grad.${name}`]);
        worst = Math.max(worst, error);
        assert.ok(error < 10 * tolerance, `gradient of ${name}: ${error}`);
      }
      want.losses.forEach((loss, i) => {
        const other = got.losses[i] ?? Number.NaN;
        assert.ok(Math.abs(other - loss) < tolerance * loss, `loss of step ${i + 1}: ${loss} and ${other}`);
      });
      assert.ok((want.losses.at(-1) ?? 0) < (want.losses[0] ?? 0), `the loss falls: ${want.losses}`);
      console.log(
        `# ${device}, ${mode}: ${want.trainable.length} gradients, largest relative difference ${worst.toExponential(1)}; losses ${got.losses.map((x) => x.toFixed(5)).join(', ')}`,
      );
    });
  }
  test(`${device}: a training thread, whose gradients come as one output, gives those of the processor`, {
    skip,
  }, async (t) => {
    const options: TrainOptions = { train: 'all', images: 'pixels' };
    const { trainable, weights } = trainGraph(config, options);
    const initial = initWeights(config, 3, { headStd: 0.3 });
    const state = new ParameterState(trainable.map((name) => ({ name, shape: weights.get(name) ?? [] })));
    for (const { name, value } of state.parameters) value.set(initial.get(name)?.data as Float32Array);
    const gradients = async (on: { placement?: Placement; joinGradients?: boolean }) => {
      const computer = new ParallelComputer({ config, options, threads: 1, ...on }, state, 1);
      t.after(() => computer.close());
      state.zeroGradients();
      const { loss } = await computer.accumulate(state, [batch(1), batch(1)]);
      return {
        loss,
        tensors: new Map(state.parameters.map(({ name, shape, grad }) => [name, f32(grad.slice(), shape)])),
      };
    };
    const want = await gradients({});
    const got = await gradients({ placement, joinGradients: true });
    assert.ok(Math.abs(want.loss - got.loss) < TOLERANCE[device] * want.loss, `losses ${want.loss} and ${got.loss}`);
    for (const name of trainable.filter((n) => !/k_proj\.bias/.test(n))) {
      const error = difference(want.tensors.get(name), got.tensors.get(name));
      assert.ok(error < 10 * TOLERANCE[device], `gradient of ${name}: ${error}`);
    }
  });
}
