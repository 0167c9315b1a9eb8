import assert from 'node:assert/strict';
import test from 'node:test';
import type { Layout } from '../../../gpu-backend/text/layout.ts';
import { collate, planMicroBatches, supervisedWeight, type TrainingSample } from '../../../gpu-backend/train/batch.ts';

function sample(ids: number[], weights: number[], slots: [number, number][] = []): TrainingSample {
  const layout: Layout = {
    ids: Int32Array.from(ids),
    lossMask: Uint8Array.from(weights, (w) => (w > 0 ? 1 : 0)),
    weights: Float32Array.from(weights),
    positions: Int32Array.from(ids.keys()),
    images: slots.map(([tokenStart, tokenCount], index) => ({ index, image: index, tokenStart, tokenCount })),
  };
  return { layout, images: slots.map((_, i) => Float32Array.of(i)) };
}

test('rows point at the token before each supervised one', () => {
  const samples = [sample([1, 9, 9, 4, 5], [0, 0, 0, 1, 1], [[1, 2]]), sample([1, 2, 3], [0, 0, 2])];
  const batch = collate(samples, { padId: 0, multiple: 4, totalWeight: supervisedWeight(samples) });
  assert.equal(batch.length, 8);
  assert.deepEqual([...batch.ids], [1, 9, 9, 4, 5, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0]);
  assert.deepEqual([...batch.imageRows], [1, 2]);
  assert.deepEqual([...batch.rows], [2, 3, 9]);
  assert.deepEqual([...batch.targets], [4, 5, 3]);
  assert.deepEqual([...batch.weights], [0.25, 0.25, 0.5]);
  assert.equal(batch.tokens, 8);
});

test('a mismatch of slots and images is refused with both counts', () => {
  const broken = { ...sample([1, 9, 4], [0, 0, 1], [[1, 1]]), images: [] };
  assert.throws(() => collate([broken], { padId: 0, multiple: 1, totalWeight: 1 }), /1 image slots and 0 images/);
});

test('micro-batches keep to the token budget and hold every sample once', () => {
  const lengths = [5, 900, 30, 31, 29, 2000, 32, 400, 410];
  const groups = planMicroBatches(lengths, (l) => l, 1000);
  assert.deepEqual(groups.flat().sort(), [...lengths].sort());
  for (const group of groups) assert.ok(group.length === 1 || Math.max(...group) * group.length <= 1000);
  assert.deepEqual(groups[0], [2000]);
});
