import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { STANDARD_CAPABILITIES } from '../../../gpu-backend/graph/capabilities.ts';
import { readSafetensors } from '../../../gpu-backend/io/safetensors.ts';
import { toFloat32 } from '../../../gpu-backend/io/tensor.ts';
import { canonicalName } from '../../../gpu-backend/models/names.ts';
import { type TrainOptions, trainGraph } from '../../../gpu-backend/models/train-graph.ts';
import {
  batchFeeds,
  readReferenceCase,
  supervisionFeeds,
  weightFeeds,
} from '../../../gpu-backend/models/verify-case.ts';
import { causalBias, visionTowerGraph } from '../../../gpu-backend/models/vlm.ts';
import { f32, Session, type SessionOptions, scalarTensor, type Tensor } from '../../../gpu-backend/runtime/session.ts';

const dir = join(import.meta.dirname, '../../fixtures/checkpoints/tiny-siglip');
const reference = readReferenceCase(dir);
const { config, weights } = reference.checkpoint;
const expected = new Map(
  [...readSafetensors(join(dir, 'gradients.safetensors'))].map(
    ([name, t]) => [canonicalName(name), toFloat32(t)] as const,
  ),
);

async function run(options: TrainOptions, extra: Record<string, Tensor> = {}, session: SessionOptions = {}) {
  const model = trainGraph(config, options);
  const declared = new Set(model.graph.inputs.map((i) => i.name));
  const feeds = {
    ...weightFeeds(model.weights, weights),
    ...batchFeeds(reference),
    ...supervisionFeeds(reference),
    ...extra,
  };
  const compiled = await Session.create(model.graph, session);
  const results = await compiled.run(Object.fromEntries(Object.entries(feeds).filter(([name]) => declared.has(name))));
  await compiled.release();
  return { trainable: model.trainable, results };
}

/** Largest error of a gradient relative to its largest value, over all tensors. */
function worstError(trainable: readonly string[], results: Readonly<Record<string, Tensor>>): number {
  let worst = 0;
  for (const name of trainable) {
    if (name.endsWith('k_proj.bias')) continue; // zero in exact arithmetic
    const want = expected.get(name);
    assert.ok(want !== undefined, `no reference gradient for ${name}`);
    const got = results[`grad.${name}`]?.data as Float32Array;
    const scale = want.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
    got.forEach((x, i) => {
      worst = Math.max(worst, Math.abs(x - (want[i] ?? Number.NaN)) / scale);
    });
  }
  return worst;
}

const base = { train: 'all', images: 'pixels', keyBias: true } as const;
const blocks = (n: number): Record<string, Tensor> => ({
  causal_bias: f32(causalBias(reference.length / n, n), [reference.length / n, reference.length]),
});

test('gradients of the whole model equal PyTorch within 1e-5, left-padded rows', async () => {
  const { trainable, results } = await run(base);
  const error = worstError(trainable, results);
  assert.ok(error < 1e-5, `worst relative error ${error}`);
});

test('so they do with standard ONNX operators only', async () => {
  const { trainable, results } = await run(base, {}, { capabilities: STANDARD_CAPABILITIES });
  assert.ok(worstError(trainable, results) < 1e-5);
});

test('causal blocks and checkpointing change nothing', async () => {
  for (const options of [
    { causalBlocks: 2 },
    { causalBlocks: 4, checkpointing: 'layer' },
    { checkpointing: 'attention' },
  ] as const) {
    const zero = 'checkpointing' in options ? { zero: scalarTensor(0) } : {};
    const { trainable, results } = await run(
      { ...base, ...options },
      {
        ...('causalBlocks' in options ? blocks(options.causalBlocks) : {}),
        ...zero,
      },
    );
    assert.ok(worstError(trainable, results) < 1e-5, JSON.stringify(options));
  }
});

test('a frozen tower can be computed beforehand', async () => {
  const tower = visionTowerGraph(config);
  const session = await Session.create(tower.graph);
  const { vision_features } = await session.run({
    ...weightFeeds(tower.weights, weights),
    ...reference.pictures.feeds,
  });
  await session.release();
  assert.ok(vision_features !== undefined);
  const { trainable, results } = await run(
    { train: 'full', images: 'towerFeatures', keyBias: true },
    { vision_features },
  );
  assert.ok(worstError(trainable, results) < 1e-5);
});
