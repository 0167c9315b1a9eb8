import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readSafetensors } from '../../../gpu-backend/io/safetensors.ts';
import { writeSafetensors } from '../../../gpu-backend/io/safetensors-write.ts';
import { fromFloat32, toFloat32 } from '../../../gpu-backend/io/tensor.ts';
import { loadCheckpoint } from '../../../gpu-backend/models/load.ts';
import { storedName } from '../../../gpu-backend/models/names.ts';
import { verifyCheckpoint } from '../../../gpu-backend/models/verify.ts';

const root = join(import.meta.dirname, '../../..');
const scratch = mkdtempSync(join(tmpdir(), 'mantis-bf16-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

/**
 * Largest logit error that eight-bit mantissas of weights leave on these random models: PyTorch with the same rounded weights
 * moves mantis-idefics2 by 0.268 and mantis-fuyu by 0.036, as we do. (Against references computed from rounded weights, such as
 * tiny-clip's, errors are those of f32.)
 */
const ROUNDING = 0.5;

const own = ['tiny-idefics2', 'tiny-fuyu'].map((name) => join(root, 'test/fixtures/checkpoints', name));
const shared = ['mantis-siglip', 'mantis-clip', 'mantis-idefics2', 'mantis-fuyu'].map((name) =>
  join(root, '../shared/oracles', name),
);

for (const source of [...own, ...shared]) {
  const skip = existsSync(source) ? false : `${source} is not on this machine`;
  const name = source.slice(source.lastIndexOf('/') + 1);
  test(`${name} as three bf16 shards`, { skip }, async () => {
    const { config, weights, unused } = loadCheckpoint(source);
    const dir = join(scratch, name);
    mkdirSync(dir);
    for (const file of ['config.json', 'case.json', 'inputs.safetensors', 'expected.safetensors'])
      cpSync(join(source, file), join(dir, file));
    const tensors = [...weights, ...unused].map(
      ([key, { data, shape }]) =>
        [storedName(key, config.family), fromFloat32(data as Float32Array, shape, 'bf16')] as const,
    );
    const weightMap: Record<string, string> = {};
    for (let shard = 0; shard < 3; shard++) {
      const file = `model-0000${shard + 1}-of-00003.safetensors`;
      const part = tensors.filter((_, i) => i % 3 === shard);
      await writeSafetensors(join(dir, file), part, { format: 'pt' });
      for (const [key] of part) weightMap[key] = file;
    }
    writeFileSync(join(dir, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map: weightMap }));

    const loaded = loadCheckpoint(dir);
    for (const [key, { data, shape }] of weights) {
      const rounded = toFloat32(fromFloat32(data as Float32Array, shape, 'bf16'));
      assert.deepEqual(loaded.weights.get(key)?.data, rounded, key);
    }
    const logits = (await verifyCheckpoint(dir)).find(({ expectation }) => expectation === 'logits');
    console.log(`${name}: bf16 weights move logits by ${logits?.error.toPrecision(2)} at most`);
    assert.ok((logits?.error ?? 1) < ROUNDING, `logits differ by ${logits?.error}`);
    assert.equal(
      [...readSafetensors(dir).values()].every(({ dtype }) => dtype === 'bf16'),
      true,
    );
  });
}
