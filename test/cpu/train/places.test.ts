import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadCheckpoint } from '../../../gpu-backend/models/load.ts';
import { placeModel } from '../../../gpu-backend/train/nano/place-stage.ts';

const NANO = fileURLToPath(new URL('../../../gpu-backend/models/nano', import.meta.url));

test('a tower learns to tell places beside what it told, and nothing else of the model changes', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-places-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const errors: number[] = [];
  const out = join(dir, 'placed');
  await placeModel(NANO, out, { seed: 3, steps: 40, boxes: 6, peak: 3e-3, onStep: (_, error) => errors.push(error) });
  assert.equal(errors.length, 40);
  const mean = (some: number[]) => some.reduce((a, b) => a + b, 0) / some.length;
  assert.ok(mean(errors.slice(-5)) < mean(errors.slice(0, 5)) * 0.85, `${errors.slice(0, 5)} … ${errors.slice(-5)}`);
  const [before, after] = [loadCheckpoint(NANO), loadCheckpoint(out)];
  assert.deepEqual(after.config, before.config);
  for (const [name, { data }] of before.weights) {
    const isSame = (data as Float32Array).every((value, i) => value === after.weights.get(name)?.data[i]);
    assert.equal(isSame, name.startsWith('language_model.'), name);
  }

  assert.ok(!existsSync(join(out, 'README.md')), 'the card is of other weights');

  const stop = new AbortController();
  const nothing = join(dir, 'nothing');
  await placeModel(NANO, nothing, { seed: 3, steps: 40, boxes: 6, signal: stop.signal, onStep: () => stop.abort() });
  assert.throws(() => loadCheckpoint(nothing));
});
