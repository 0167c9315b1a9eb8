import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { verifyCheckpoint } from '../../../gpu-backend/models/verify.ts';
import { verifyTraining } from '../../../gpu-backend/train/verify-training.ts';

/*
 * Checkpoints against Hugging Face transformers: small ones of our own (test/fixtures/checkpoints, with their makers), and
 * the larger reference folders where they lie beside the project.
 */
const root = join(import.meta.dirname, '../../..');
const own = ['tiny-siglip', 'tiny-clip', 'tiny-idefics2', 'tiny-fuyu'].map((name) =>
  join(root, 'test/fixtures/checkpoints', name),
);
const shared = ['mantis-siglip', 'mantis-clip', 'mantis-idefics2', 'mantis-fuyu'].map((name) =>
  join(root, '../shared/oracles', name),
);

for (const dir of [...own, ...shared]) {
  const skip = existsSync(dir) ? false : `${dir} is not on this machine`;
  test(`reference checkpoint ${dir.slice(root.length - 4)}`, { skip }, async () => {
    const rows = [...(await verifyCheckpoint(dir)), ...(await verifyTraining(dir))];
    assert.ok(rows.length >= 3);
    const failed = rows.filter((r) => !r.ok).map((r) => `${r.expectation}: ${r.error} > ${r.tolerance}`);
    assert.deepEqual(failed, []);
  });
}
