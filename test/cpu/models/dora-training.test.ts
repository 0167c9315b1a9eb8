import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readSafetensors } from '../../../gpu-backend/io/safetensors.ts';
import { toFloat32 } from '../../../gpu-backend/io/tensor.ts';
import { type Adapter, writeAdapter } from '../../../gpu-backend/models/adapter.ts';
import { familyOf } from '../../../gpu-backend/models/family.ts';
import { writeCheckpoint } from '../../../gpu-backend/models/load.ts';
import { canonicalName } from '../../../gpu-backend/models/names.ts';
import { initAdapter } from '../../../gpu-backend/models/presets.ts';
import { isTrainable, trainGraph } from '../../../gpu-backend/models/train-graph.ts';
import {
  batchFeeds,
  type ReferenceCase,
  readReferenceCase,
  supervisionFeeds,
  weightFeeds,
} from '../../../gpu-backend/models/verify-case.ts';
import type { LoraSpec } from '../../../gpu-backend/models/weights.ts';
import { Session, scalarTensor, type Tensor } from '../../../gpu-backend/runtime/session.ts';

const fixtures = join(import.meta.dirname, '../../fixtures/checkpoints');
const scratch = mkdtempSync(join(tmpdir(), 'mantis-dora-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

type Results = Readonly<Record<string, Tensor>>;

async function gradientsOf(
  reference: ReferenceCase,
  adapter: Adapter,
  checkpointing: 'none' | 'layer' = 'none',
): Promise<Results> {
  const { config, weights } = reference.checkpoint;
  const model = trainGraph(config, {
    train: 'lora',
    images: 'pixels',
    keyBias: true,
    lora: adapter.lora,
    checkpointing,
  });
  assert.deepEqual([...model.trainable].sort(), [...adapter.weights.keys()].sort());
  const feeds: Record<string, Tensor> = {
    ...weightFeeds(model.weights, new Map([...weights, ...adapter.weights])),
    ...batchFeeds(reference),
    ...supervisionFeeds(reference),
    zero: scalarTensor(0),
  };
  const declared = new Set(model.graph.inputs.map((i) => i.name));
  const session = await Session.create(model.graph);
  const results = await session.run(Object.fromEntries(Object.entries(feeds).filter(([name]) => declared.has(name))));
  await session.release();
  return results;
}

/** Largest error of a gradient relative to its tensor's largest value, and of the loss relative to itself. */
function worstError(results: Results, file: string): number {
  let worst = 0;
  const expected = [...readSafetensors(file)];
  for (const [stored, tensor] of expected) {
    const want = toFloat32(tensor);
    const name = stored === 'loss' ? 'loss' : `grad.${canonicalName(stored)}`;
    const got = results[name]?.data as Float32Array | undefined;
    assert.ok(got !== undefined && got.length === want.length, `no gradient ${name}`);
    const scale = want.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
    assert.ok(scale > 0, `the reference gradient ${stored} is zero and says nothing`);
    got.forEach((x, i) => {
      worst = Math.max(worst, Math.abs(x - (want[i] ?? Number.NaN)) / scale);
    });
  }
  assert.equal(expected.length, Object.keys(results).length);
  return worst;
}

/** An adapter whose every tensor has values of its own, so that every gradient says something. */
function lively(reference: ReferenceCase, lora: LoraSpec): Adapter {
  const weights = initAdapter(reference.checkpoint.config, lora, 5, reference.checkpoint.weights);
  for (const [name, tensor] of weights) {
    const data = tensor.data as Float32Array;
    if (name.endsWith('.lora_B.weight')) weights.set(name, { ...tensor, data: data.map((_, i) => 0.2 * Math.sin(i)) });
    if (name.endsWith('.lora_magnitude_vector'))
      weights.set(name, { ...tensor, data: data.map((x, i) => x * (1 + 0.2 * Math.sin(i))) });
  }
  return { lora, weights };
}

test('a fresh DoRA adapter leaves the model as it is', async () => {
  const reference = readReferenceCase(join(fixtures, 'tiny-siglip'));
  const { config, weights } = reference.checkpoint;
  const lora = { r: 2, alpha: 4, targets: familyOf(config).decoderLinears, dora: true };
  const fresh = await gradientsOf(reference, { lora, weights: initAdapter(config, lora, 5, weights) });
  const { dora: _, ...plain } = lora;
  const base = await gradientsOf(reference, { lora: plain, weights: initAdapter(config, plain, 5) });
  assert.ok(Math.abs(Number(fresh.loss?.data[0]) / Number(base.loss?.data[0]) - 1) < 1e-6);
  assert.throws(() => initAdapter(config, lora, 5), /pass the base weights/);
  assert.ok(isTrainable('language_model.model.layers.0.mlp.up_proj.lora_magnitude_vector', 'lora'));
  assert.ok(!isTrainable('language_model.model.layers.0.mlp.up_proj.lora_magnitude_vector', 'full'));
});

test('gradients of a DoRA adapter equal those PEFT gave for it (recorded), with and without recomputation', async () => {
  const reference = readReferenceCase(join(fixtures, 'tiny-fuyu'));
  assert.ok(reference.adapter?.lora.dora === true);
  const file = join(fixtures, 'tiny-fuyu', 'dora-gradients.safetensors');
  for (const checkpointing of ['none', 'layer'] as const) {
    const error = worstError(await gradientsOf(reference, reference.adapter, checkpointing), file);
    assert.ok(error < 1e-4, `worst relative error ${error}, checkpointing ${checkpointing}`);
  }
});

const python = process.env.MANTIS_TEST_PYTHON ?? 'python3';
const hasPeft = spawnSync(python, ['-c', 'import peft, torch, transformers, safetensors']).status === 0;
const skip = hasPeft ? false : `${python} has no peft, torch, transformers (set MANTIS_TEST_PYTHON to one that has)`;

for (const [name, projector] of [
  ['tiny-siglip', false],
  ['tiny-idefics2', true],
  ['tiny-fuyu', false],
] as const) {
  test(`${name}: gradients of a DoRA adapter written here equal PEFT's`, { skip }, async () => {
    const reference = readReferenceCase(join(fixtures, name));
    const { config } = reference.checkpoint;
    const { decoderLinears, projectorLinears } = familyOf(config);
    const targets = projector ? [...new Set([...decoderLinears, ...projectorLinears])] : decoderLinears;
    const adapter = lively(reference, { r: 3, alpha: 6, targets, dora: true, ...(projector ? { projector } : {}) });
    const [base, dir, file] = ['base', 'lora', 'grads.safetensors'].map((part) => join(scratch, name, part)) as [
      string,
      string,
      string,
    ];
    await writeCheckpoint(base, reference.checkpoint);
    await writeAdapter(dir, adapter, { family: config.family });
    const script = join(import.meta.dirname, 'check_peft_gradients.py');
    const env = { ...process.env, OMP_NUM_THREADS: '1' };
    const run = spawnSync(python, [script, base, dir, reference.name, file], { encoding: 'utf8', env });
    assert.equal(run.status, 0, run.stderr);
    const error = worstError(await gradientsOf(reference, adapter), file);
    assert.ok(error < 1e-4, `worst relative error ${error}`);
  });
}
