import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { mix, shuffled } from '../../../gpu-backend/train/data/mixture.ts';

const range = (from: number, n: number) => Uint32Array.from({ length: n }, (_, i) => from + i);

test('without limits a mixture is its files in order', () => {
  const { order, entries } = mix([{ records: range(0, 3) }, { records: range(3, 2) }], false);
  assert.deepEqual([...order], [0, 1, 2, 3, 4]);
  assert.deepEqual(entries, [3, 2]);
});

test('max_size takes the first of a seeded shuffle, the same every time', () => {
  const one = mix([{ records: range(0, 1000), maxSize: 10 }], false).order;
  assert.deepEqual(mix([{ records: range(0, 1000), maxSize: 10 }], false).order, one);
  assert.notDeepEqual(mix([{ records: range(0, 1000), maxSize: 10, seed: 43 }], false).order, one);
  assert.deepEqual([...mix([{ records: range(5, 9), maxSize: 3, shuffle: false }], false).order], [5, 6, 7]);
  const balanced = mix([{ records: range(0, 100), maxSize: 4 }, { records: range(100, 400) }], true);
  assert.ok((balanced.entries[0] ?? 0) > 8, 'a small subset is repeated');
  assert.equal(new Set(balanced.order.subarray(0, balanced.entries[0])).size, 4, 'and no more of it is taken');
  // Pins the generator: another would change what every mixture trains on.
  assert.deepEqual([...shuffled(range(0, 8), 42)], [2, 7, 1, 0, 6, 5, 3, 4]);
  assert.equal(new Set(shuffled(range(0, 500), 7)).size, 500);
});

test('balancing gives Mantis-Instruct the shares that its authors had', () => {
  // Items of the published subsets; expected epochs as computed from the authors' formula for their 14 + 3 mix without limits on coinstruct and dvqa.
  const sizes = [
    312_611, 8_453, 100_000, 15_941, 8_007, 2_649, 86_373, 64_462, 35_984, 16_594, 4_993, 6_661, 3_870, 3_032, 30_000,
    28_299, 39_463,
  ];
  const { entries } = mix(
    sizes.map((n) => ({ records: range(0, n) })),
    true,
  );
  const epochs = (i: number) => (entries[i] ?? 0) / (sizes[i] ?? 1);
  assert.ok(Math.abs(epochs(0) - 0.52) < 0.01, `llava_665k_multi ${epochs(0)}`);
  assert.ok(Math.abs(epochs(6) - 0.99) < 0.01, `nlvr2 ${epochs(6)}`);
  assert.ok(Math.abs(epochs(10) - 4.1) < 0.06, `multi_vqa ${epochs(10)}`);
  assert.ok(Math.abs(epochs(12) - 4.7) < 0.06, `nextqa ${epochs(12)}`);
  assert.ok(Math.abs(epochs(13) - 5.3) < 0.06, `star ${epochs(13)}`);
  const total = entries.reduce((sum, n) => sum + n, 0);
  // No share is above the whole, so that all together are 1.1 epochs.
  assert.ok(Math.abs(total - 1.1 * sizes.reduce((sum, n) => sum + n, 0)) < sizes.length, String(total));
});

test('a balanced subset repeats evenly and takes nothing of another', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 60 }), { minLength: 1, maxLength: 6 }),
      fc.boolean(),
      (sizes, balancing) => {
        let at = 0;
        const subsets = sizes.map((n) => {
          const records = range(at, n);
          at += n;
          return { records };
        });
        const { order, entries } = mix(subsets, balancing);
        let from = 0;
        for (const [i, { records }] of subsets.entries()) {
          const own = order.subarray(from, from + (entries[i] ?? 0));
          from += own.length;
          const times = new Map<number, number>();
          for (const r of own) times.set(r, (times.get(r) ?? 0) + 1);
          assert.ok([...times.keys()].every((r) => records.includes(r)));
          const counts = [...records].map((r) => times.get(r) ?? 0);
          if (counts.length > 0) assert.ok(Math.max(...counts) - Math.min(...counts) <= 1);
        }
        assert.equal(from, order.length);
      },
    ),
  );
});
