import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readSafetensors } from '../../../gpu-backend/io/safetensors.ts';
import { writeSafetensors } from '../../../gpu-backend/io/safetensors-write.ts';
import { loadAdapter, mergeAdapter, writeAdapter } from '../../../gpu-backend/models/adapter.ts';
import { loadCheckpoint, writeCheckpoint } from '../../../gpu-backend/models/load.ts';
import { verifyCheckpoint } from '../../../gpu-backend/models/verify.ts';
import { readReferenceCase } from '../../../gpu-backend/models/verify-case.ts';

const fixtures = join(import.meta.dirname, '../../fixtures/checkpoints');
const scratch = mkdtempSync(join(tmpdir(), 'mantis-models-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

test('a checkpoint survives saving, in either layout it came from', async () => {
  for (const name of ['tiny-siglip', 'tiny-clip', 'tiny-idefics2', 'tiny-fuyu']) {
    const loaded = loadCheckpoint(join(fixtures, name));
    const dir = join(scratch, name);
    await writeCheckpoint(dir, loaded);
    const again = loadCheckpoint(dir);
    assert.deepEqual(again.config, loaded.config);
    assert.deepEqual(again.weights, loaded.weights);
    assert.deepEqual(again.unused, loaded.unused);
  }
});

test('what does not fit the config is named', async () => {
  const dir = join(scratch, 'broken');
  cpSync(join(fixtures, 'tiny-siglip'), dir, { recursive: true });
  const tensors = readSafetensors(dir);
  const norm = tensors.get('language_model.model.norm.weight');
  assert.ok(norm !== undefined);
  tensors.delete('language_model.model.norm.weight');
  tensors.set('language_model.model.extra.weight', norm);
  tensors.set('multi_modal_projector.linear_1.bias', { ...norm, shape: [16], data: norm.data.subarray(0, 64) });
  await writeSafetensors(join(dir, 'model.safetensors'), tensors);
  assert.throws(
    () => loadCheckpoint(dir),
    /missing: language_model\.model\.norm\.weight; unexpected: language_model\.model\.extra\.weight; wrong shape: multi_modal_projector\.linear_1\.bias is \[16\], config\.json says \[32\]/,
  );
  assert.throws(() => loadCheckpoint(join(scratch, 'nowhere')), /expected a checkpoint folder with a config\.json/);
});

test('an adapter survives saving, and merged weights give the adapted logits', async () => {
  const reference = readReferenceCase(join(fixtures, 'tiny-siglip'));
  const { adapter, checkpoint } = reference;
  assert.ok(adapter !== undefined);
  const dir = join(scratch, 'adapter');
  await writeAdapter(dir, adapter);
  assert.deepEqual(loadAdapter(dir, checkpoint.config), adapter);
  // Merged weights as a checkpoint whose plain logits must be the reference's adapted ones.
  const merged = join(scratch, 'merged');
  await writeCheckpoint(merged, { ...checkpoint, weights: mergeAdapter(checkpoint.weights, adapter) });
  for (const file of ['case.json', 'inputs.safetensors']) cpSync(join(reference.name, file), join(merged, file));
  const expected = readSafetensors(join(reference.name, 'expected.safetensors'));
  const adapted = expected.get('lora_logits');
  assert.ok(adapted !== undefined);
  await writeSafetensors(join(merged, 'expected.safetensors'), new Map([...expected, ['logits', adapted]]));
  const logits = (await verifyCheckpoint(merged)).find((row) => row.expectation === 'logits');
  assert.ok(logits?.ok, `error ${logits?.error}`);
});

test('adapter options that change the computation are refused', () => {
  const { config } = loadCheckpoint(join(fixtures, 'tiny-siglip'));
  const dir = join(scratch, 'odd-adapter');
  const source = join(fixtures, 'tiny-siglip-lora');
  const refuse = (change: object, message: RegExp): void => {
    cpSync(source, dir, { recursive: true });
    const json = JSON.parse(readFileSync(join(source, 'adapter_config.json'), 'utf8')) as object;
    writeFileSync(join(dir, 'adapter_config.json'), JSON.stringify({ ...json, ...change }));
    assert.throws(() => loadAdapter(dir, config), message);
  };
  refuse({ use_dora: true }, /does not fit the model; .*missing: .*lora_magnitude_vector/);
  refuse({ layers_to_transform: [0] }, /layers_to_transform is not supported/);
  refuse({ peft_type: 'IA3' }, /peft_type must be LORA/);
  refuse({ r: 0 }, /r must be a positive integer/);
  refuse({ r: 3 }, /lora_A\.weight is \[2,48\], the model needs \[3,48\]: its rank is not the r/);
  refuse({ target_modules: ['q_proj', 'router'] }, /target_modules names \["router"\]/);
  refuse({ target_modules: ['q_proj'] }, /does not fit the model; unexpected/);
});
