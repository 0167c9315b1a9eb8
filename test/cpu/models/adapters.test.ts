import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readSafetensors } from '../../../gpu-backend/io/safetensors.ts';
import { writeSafetensors } from '../../../gpu-backend/io/safetensors-write.ts';
import { fromFloat32 } from '../../../gpu-backend/io/tensor.ts';
import { loadAdapter, mergeAdapter, writeAdapter } from '../../../gpu-backend/models/adapter.ts';
import { loadCheckpoint, writeCheckpoint } from '../../../gpu-backend/models/load.ts';
import { initAdapter } from '../../../gpu-backend/models/presets.ts';
import { verifyCheckpoint } from '../../../gpu-backend/models/verify.ts';
import { batchFeeds, readReferenceCase, weightFeeds } from '../../../gpu-backend/models/verify-case.ts';
import { forwardGraph } from '../../../gpu-backend/models/vlm.ts';
import { Session } from '../../../gpu-backend/runtime/session.ts';

const fixtures = join(import.meta.dirname, '../../fixtures/checkpoints');
const scratch = mkdtempSync(join(tmpdir(), 'mantis-adapters-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

for (const [name, dora] of [
  ['tiny-idefics2', undefined],
  ['tiny-fuyu', true],
] as const) {
  test(`${name}: its adapter survives saving, and merged weights give the adapted logits`, async () => {
    const reference = readReferenceCase(join(fixtures, name));
    const { adapter, checkpoint } = reference;
    assert.ok(adapter !== undefined);
    assert.equal(adapter.lora.dora, dora);
    const dir = join(scratch, `${name}-adapter`);
    await writeAdapter(dir, adapter, { family: checkpoint.config.family });
    assert.deepEqual(loadAdapter(dir, checkpoint.config), adapter);
    const names = [...readSafetensors(dir).keys()].sort();
    assert.deepEqual(names, [...readSafetensors(join(fixtures, `${name}-lora`)).keys()].sort());

    const merged = join(scratch, `${name}-merged`);
    await writeCheckpoint(merged, { ...checkpoint, weights: mergeAdapter(checkpoint.weights, adapter) });
    for (const file of ['case.json', 'inputs.safetensors']) cpSync(join(reference.name, file), join(merged, file));
    const expected = readSafetensors(join(reference.name, 'expected.safetensors'));
    const adapted = expected.get('lora_logits');
    assert.ok(adapted !== undefined);
    await writeSafetensors(join(merged, 'expected.safetensors'), new Map([...expected, ['logits', adapted]]));
    const logits = (await verifyCheckpoint(merged)).find((row) => row.expectation === 'logits');
    assert.ok(logits?.ok, `error ${logits?.error}`);
  });
}

test('an adapter for another model is refused with the reason', () => {
  const config = (name: string) => loadCheckpoint(join(fixtures, name)).config;
  const adapter = (name: string): string => join(fixtures, `${name}-lora`);
  assert.throws(
    () => loadAdapter(adapter('tiny-fuyu'), config('tiny-siglip')),
    /target_modules names .*supported are q_proj/,
  );
  assert.throws(() => loadAdapter(adapter('tiny-siglip'), config('tiny-fuyu')), /names none of query_key_value/);
  assert.throws(
    () => loadAdapter(adapter('tiny-idefics2'), config('tiny-siglip')),
    /does not fit the model; unexpected/,
  );
  assert.throws(
    () => loadAdapter(scratch, config('tiny-siglip')),
    /expected an adapter folder with a readable adapter_config\.json/,
  );
  const wider = { ...config('tiny-siglip') };
  assert.ok(wider.family === 'llava');
  const grown = { ...wider, text: { ...wider.text, intermediate: 64 } };
  assert.throws(() => loadAdapter(adapter('tiny-siglip'), grown), /was made for another base model/);
});

const python = process.env.MANTIS_TEST_PYTHON ?? 'python3';
const hasPeft = spawnSync(python, ['-c', 'import peft, torch, transformers, safetensors']).status === 0;
const skip = hasPeft ? false : `${python} has no peft, torch, transformers (set MANTIS_TEST_PYTHON to one that has)`;

for (const name of ['tiny-siglip', 'tiny-idefics2', 'tiny-fuyu']) {
  test(`${name}: an adapter written here loads in Hugging Face PEFT with equal logits`, { skip }, async () => {
    const reference = readReferenceCase(join(fixtures, name));
    const { config, weights } = reference.checkpoint;
    assert.ok(reference.adapter !== undefined);
    // Fresh values, larger than a fresh adapter's, so that the comparison does not rest on what PEFT wrote itself.
    const { lora } = reference.adapter;
    const fresh = initAdapter(config, lora, 5, weights);
    for (const [key, tensor] of fresh)
      if (key.endsWith('.lora_B.weight'))
        fresh.set(key, {
          ...tensor,
          data: Float32Array.from(tensor.data as Float32Array, (_, i) => 0.1 * Math.sin(i)),
        });
      else if (key.endsWith('.lora_magnitude_vector'))
        fresh.set(key, {
          ...tensor,
          data: Float32Array.from(tensor.data as Float32Array, (_, i) => 1 + 0.1 * Math.sin(i)),
        });
    const dir = join(scratch, `${name}-ours`);
    await writeAdapter(dir, { lora, weights: fresh }, { family: config.family });
    const model = forwardGraph(config, { images: 'pixels', keyBias: true, lora });
    const session = await Session.create(model.graph);
    const all = new Map([...weights, ...fresh]);
    const { logits } = await session.run({ ...weightFeeds(model.weights, all), ...batchFeeds(reference) });
    await session.release();
    assert.ok(logits !== undefined);
    // The base as we write it: transformers must read that too. (It reads a Fuyu config without text_config, as published, with
    // another rotary base than the model has.)
    const base = join(scratch, `${name}-base`);
    await writeCheckpoint(base, reference.checkpoint);
    const file = join(scratch, `${name}-logits.safetensors`);
    const { rows, length } = reference;
    const shape = [rows, length, logits.data.length / (rows * length)];
    await writeSafetensors(file, [['logits', fromFloat32(logits.data as Float32Array, shape)]]);
    const run = spawnSync(python, [join(import.meta.dirname, 'check_peft.py'), base, dir, reference.name, file], {
      encoding: 'utf8',
      env: { ...process.env, OMP_NUM_THREADS: '1' },
    });
    assert.equal(run.status, 0, run.stderr);
    const { error, tensors } = JSON.parse(run.stdout.trim().split('\n').at(-1) ?? '') as {
      error: number;
      tensors: number;
    };
    assert.equal(tensors, fresh.size);
    assert.ok(error < 2e-3, `logits differ by ${error}`);
  });
}
