import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { nd } from '../../../gpu-backend/graph/nd.ts';
import { dequantizePlanes } from '../../../gpu-backend/graph/ops/planes.ts';
import { orderForRelease } from '../../../gpu-backend/graph/passes.ts';
import { decodeFloat16 } from '../../../gpu-backend/io/half.ts';
import { familyOf } from '../../../gpu-backend/models/family.ts';
import {
  asFrozenLinear,
  CODES_SUFFIX,
  storageOfBase,
  storeFrozen,
} from '../../../gpu-backend/models/frozen-weights.ts';
import { initAdapter } from '../../../gpu-backend/models/presets.ts';
import { servingWeights } from '../../../gpu-backend/models/serving-weights.ts';
import { PACKED_SUFFIX, partOf, SCALE_SUFFIX } from '../../../gpu-backend/models/storage.ts';
import { type TrainGraph, type TrainOptions, trainGraph } from '../../../gpu-backend/models/train-graph.ts';
import {
  batchFeeds,
  type ReferenceCase,
  readReferenceCase,
  supervisionFeeds,
} from '../../../gpu-backend/models/verify-case.ts';
import { visionGraph } from '../../../gpu-backend/models/vlm.ts';
import type { LoraSpec } from '../../../gpu-backend/models/weights.ts';
import { f32, Session, scalarTensor, type Tensor } from '../../../gpu-backend/runtime/session.ts';

const fixtures = join(import.meta.dirname, '../../fixtures/checkpoints');
const FAMILIES = ['tiny-siglip', 'tiny-clip', 'tiny-idefics2', 'tiny-fuyu'] as const;
const PRECISIONS = ['f16', 'int8', 'int4'] as const;

type Feeds = Readonly<Record<string, Tensor>>;

/** f32 values of stored weights, by the definition of the op that widens them. */
function widened(model: TrainGraph, stored: Feeds): Map<string, Tensor> {
  const wide = new Map<string, Tensor>();
  for (const { name, value } of model.graph.inputs) {
    const tensor = stored[name];
    if (tensor === undefined || name.endsWith(SCALE_SUFFIX)) continue;
    if (name.endsWith(CODES_SUFFIX)) {
      const node = model.graph.nodes.find((n) => n.op === 'dequantizePlanes' && n.inputs[0]?.id === value.id);
      assert.ok(node?.op === 'dequantizePlanes');
      const attrs = node.attrs as Parameters<typeof dequantizePlanes.reference>[1];
      const module = name.slice(0, -CODES_SUFFIX.length);
      const operand = ({ shape, data }: Tensor) => ({ ...nd(shape), data: Float64Array.from(data as Uint8Array) });
      const scales = stored[module + SCALE_SUFFIX];
      assert.ok(scales !== undefined);
      const [out] = dequantizePlanes.reference([operand(tensor), operand(scales)], attrs, () => 0);
      assert.ok(out !== undefined);
      wide.set(`${module}.weight`, f32(Float32Array.from(out.data), [attrs.rows, attrs.width]));
    } else if (tensor.dtype === 'f16') wide.set(name, f32(decodeFloat16(tensor.data as Uint16Array), tensor.shape));
    else wide.set(name, tensor);
  }
  return wide;
}

async function run(model: TrainGraph, feeds: Feeds): Promise<Feeds> {
  const declared = new Set(model.graph.inputs.map((i) => i.name));
  const session = await Session.create(model.graph);
  const results = await session.run(Object.fromEntries(Object.entries(feeds).filter(([name]) => declared.has(name))));
  await session.release();
  return results;
}

const [EMBED, HEAD] = ['language_model.model.embed_tokens.weight', 'language_model.lm_head.weight'] as const;

/** The same model with a head of its own: one matrix cannot be both f16 (looked up) and int8 (multiplied by) in the f32 graph. */
function untied({ config, weights, unused }: ReferenceCase['checkpoint']): ReferenceCase['checkpoint'] {
  const embed = weights.get(EMBED);
  if (config.family === 'fuyu' || !config.text.tiedHead || embed === undefined) return { config, weights, unused };
  const text = { ...config.text, tiedHead: false };
  return { config: { ...config, text } as typeof config, weights: new Map([...weights, [HEAD, embed]]), unused };
}

function adapterOf({ config, weights }: ReferenceCase['checkpoint'], dora: boolean) {
  const lora: LoraSpec = { r: 2, alpha: 4, targets: familyOf(config).decoderLinears, ...(dora ? { dora } : {}) };
  const adapter = initAdapter(config, lora, 1, weights);
  // B of zero would leave A without a gradient.
  for (const [name, { data }] of adapter)
    if (name.endsWith('.lora_B.weight'))
      (data as Float32Array).forEach((_, i) => {
        data[i] = ((i % 7) - 3) / 50;
      });
  return { lora, adapter };
}

for (const family of FAMILIES)
  for (const train of ['projector', 'lora', 'dora'] as const)
    for (const basePrecision of PRECISIONS)
      test(`${family}, ${train}: gradients over a ${basePrecision} base are those over its values in f32`, async () => {
        const reference = readReferenceCase(join(fixtures, family));
        const checkpoint = untied(reference.checkpoint);
        const { lora, adapter } = adapterOf(checkpoint, train === 'dora');
        const options: TrainOptions = {
          train: train === 'projector' ? 'projector' : 'lora',
          images: 'pixels',
          keyBias: true,
          checkpointing: family === 'tiny-clip' ? 'layer' : 'none',
          ...(train === 'projector' ? {} : { lora }),
        };
        const data = { ...batchFeeds(reference), ...supervisionFeeds(reference), zero: scalarTensor(0) };
        const model = trainGraph(checkpoint.config, { ...options, basePrecision });
        const moves = new Set(model.trainable);
        const trained: Record<string, Tensor> = {};
        for (const name of moves) {
          const tensor = adapter.get(name) ?? checkpoint.weights.get(name);
          if (tensor !== undefined) trained[name] = tensor;
        }
        const stored = storeFrozen(
          model.graph,
          (name) => checkpoint.weights.get(name),
          (name) => moves.has(name),
        );
        const got = await run(model, { ...stored, ...trained, ...data });
        const plain = trainGraph(checkpoint.config, options);
        const want = await run(plain, { ...Object.fromEntries(widened(model, stored)), ...trained, ...data });
        assert.deepEqual(model.trainable, plain.trainable);
        for (const name of ['loss', ...model.trainable.map((n) => `grad.${n}`)]) {
          const [a, b] = [got[name]?.data as Float32Array, want[name]?.data as Float32Array];
          const scale = b.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
          a.forEach((x, i) => {
            assert.ok(Math.abs(x - Number(b[i])) <= 1e-5 * scale, `${name}[${i}]: ${x} and ${b[i]} of ${scale}`);
          });
        }
        assert.ok(Number.isFinite(Number(got.loss?.data[0])));
        // Stored in fewer bits, and another result than with f32: the base is really quantised.
        const bytes = (feeds: Feeds) => Object.values(feeds).reduce((sum, t) => sum + t.data.byteLength, 0);
        assert.ok(bytes(stored) < 0.75 * bytes(Object.fromEntries(widened(model, stored))));
        if (family === 'tiny-clip' && basePrecision === 'f16') return; // its file is f16
        const unrounded = await run(plain, { ...Object.fromEntries(checkpoint.weights), ...trained, ...data });
        assert.notEqual(Number(got.loss?.data[0]), Number(unrounded.loss?.data[0]));
      });

test('a tied head is stored twice, as it is looked up and as it is multiplied by', async () => {
  const reference = readReferenceCase(join(fixtures, 'tiny-siglip'));
  const data = { ...batchFeeds(reference), ...supervisionFeeds(reference) };
  const losses: number[] = [];
  for (const { config, weights } of [reference.checkpoint, untied(reference.checkpoint)]) {
    const model = trainGraph(config, { train: 'projector', images: 'pixels', keyBias: true, basePrecision: 'int8' });
    const moves = new Set(model.trainable);
    const stored = storeFrozen(
      model.graph,
      (name) => weights.get(name),
      (name) => moves.has(name),
    );
    assert.equal(stored[EMBED]?.dtype, 'f16');
    assert.ok(stored[`${config.text.tiedHead ? EMBED.slice(0, -7) : HEAD.slice(0, -7)}${CODES_SUFFIX}`] !== undefined);
    const trained = Object.fromEntries(model.trainable.map((name) => [name, weights.get(name) as Tensor]));
    losses.push(Number((await run(model, { ...stored, ...trained, ...data })).loss?.data[0]));
  }
  assert.equal(losses[0], losses[1]);
});

test('codes are those of serving, and what they are worth is known without a graph', () => {
  const { config, weights } = readReferenceCase(join(fixtures, 'tiny-siglip')).checkpoint;
  for (const precision of ['int8', 'int4'] as const) {
    const storage = storageOfBase(precision);
    assert.ok(storage !== undefined);
    const model = trainGraph(config, { train: 'projector', images: 'pixels', basePrecision: precision });
    const stored = storeFrozen(
      model.graph,
      (name) => weights.get(name),
      (name) => model.trainable.includes(name),
    );
    const wide = widened(model, stored);
    const serving = visionGraph(config, undefined, storage);
    const served = servingWeights(serving, weights, storage);
    let compared = 0;
    for (const [name, { data }] of served) {
      if (!name.endsWith(PACKED_SUFFIX) || !name.startsWith('vision_tower.')) continue;
      const module = name.slice(0, -PACKED_SUFFIX.length);
      const weight = weights.get(`${module}.weight`);
      const scales = served.get(module + SCALE_SUFFIX)?.data;
      assert.ok(weight !== undefined);
      assert.deepEqual(stored[module + SCALE_SUFFIX]?.data, scales);
      if (storage.precision.vision === 'int8') assert.deepEqual(stored[module + CODES_SUFFIX]?.data, data);
      const worth = asFrozenLinear(weight, storage, partOf(name));
      assert.deepEqual(wide.get(`${module}.weight`)?.data, worth.data);
      compared++;
    }
    assert.ok(compared > 0);
    for (const [name, tensor] of wide)
      if (name.endsWith('down_proj.weight'))
        assert.deepEqual(tensor.data, asFrozenLinear(weights.get(name) as Tensor, storage, 'decoder').data);
  }
});

test('a frozen weight is widened once for each pass, right before it is read', () => {
  const { config } = readReferenceCase(join(fixtures, 'tiny-siglip')).checkpoint;
  const { graph } = trainGraph(config, { train: 'projector', images: 'towerFeatures', basePrecision: 'int4' });
  const widenings = graph.nodes.filter(({ op }) => op === 'dequantizePlanes');
  const readers = widenings.map(({ outputs: [w] }) => graph.nodes.filter((n) => n.inputs.some((v) => v.id === w?.id)));
  assert.ok(
    readers.every((list) => list.length === 1),
    'none is kept from one pass to the other',
  );
  // 7 linear layers twice in each layer and in the head; the projector moves.
  assert.equal(widenings.length, 2 * (7 * config.text.layers + 1));
  // ONNX Runtime visits inputs made by late nodes first, so what comes first in the list is made last.
  const order = orderForRelease(graph.nodes);
  assert.ok(order.slice(0, widenings.length).every(({ op }) => op === 'dequantizePlanes' || op === 'cast'));
});

test('what moves cannot be stored in fewer bits', () => {
  const { config } = readReferenceCase(join(fixtures, 'tiny-siglip')).checkpoint;
  for (const train of ['full', 'all'] as const)
    assert.throws(
      () => trainGraph(config, { train, images: 'pixels', basePrecision: 'int8' }),
      /base_precision "int8".*moves the decoder/,
    );
  const model = trainGraph(config, { train: 'projector', images: 'pixels', basePrecision: 'int4' });
  for (const name of model.trainable)
    assert.ok(model.graph.inputs.some((i) => i.name === name && i.value.dtype === 'f32'));
});

const noProc = existsSync('/proc/self/status') ? false : 'there is no /proc here to read peak memory from';

test('a backward pass holds few widened weights at a time', { skip: noProc }, async () => {
  const script = join(import.meta.dirname, '../../bench/frozen-memory.ts');
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', script, 'projector', 'int8']);
  const { fedMb, loadedMb, peakMb } = JSON.parse(stdout) as { fedMb: number; loadedMb: number; peakMb: number };
  // As f32 the weights of the 12 layers are 560 MB; one layer at a time is 47.
  assert.ok(fedMb < 180, `${fedMb} MB fed`);
  assert.ok(peakMb - loadedMb < 200, `${peakMb} MB at the peak, ${loadedMb} before`);
});
