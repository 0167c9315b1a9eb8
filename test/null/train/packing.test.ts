import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { cutGroups, packedLayout, packRows } from '../../../gpu-backend/train/packing.ts';

const examples = fc.array(
  fc.record({ tokens: fc.integer({ min: 1, max: 900 }), images: fc.integer({ min: 0, max: 9 }) }),
  { minLength: 1, maxLength: 40 },
);

test('rows hold every example once, keep both budgets, and are few', () => {
  fc.assert(
    fc.property(
      examples,
      fc.integer({ min: 300, max: 2000 }),
      fc.integer({ min: 4, max: 20 }),
      (all, tokens, images) => {
        const rows = packRows([...all.keys()], (i) => all[i]!, { tokens, images });
        assert.deepEqual(
          rows.flat().sort((a, b) => a - b),
          [...all.keys()],
        );
        const sum = (row: readonly number[], key: 'tokens' | 'images') => row.reduce((s, i) => s + all[i]![key], 0);
        for (const row of rows)
          assert.ok(row.length === 1 || (sum(row, 'tokens') <= tokens && sum(row, 'images') <= images));
        for (const row of rows) {
          const lengths = row.map((i) => all[i]!.tokens);
          assert.deepEqual(
            lengths,
            [...lengths].sort((a, b) => b - a),
          );
        }
        // First fit: no two rows could have been one.
        for (const [a, first] of rows.entries())
          for (const second of rows.slice(a + 1))
            assert.ok(
              sum(first, 'tokens') + sum(second, 'tokens') > tokens ||
                sum(first, 'images') + sum(second, 'images') > images,
            );
      },
    ),
  );
});

test('rows depend on nothing but the examples and their order', () => {
  const all = [5, 9, 9, 2, 7].map((tokens) => ({ tokens, images: 1 }));
  const pack = () => packRows([...all.keys()], (i) => all[i]!, { tokens: 14, images: 2 });
  assert.deepEqual(pack(), [[1, 0], [2, 3], [4]]);
  assert.deepEqual(pack(), pack());
});

test('groups are cut where attention computes the fewest scores', () => {
  assert.deepEqual(cutGroups([900, 100, 95, 90], [1, 1]), [1, 3]);
  assert.deepEqual(cutGroups([100, 100, 100, 30], [1, 1]), [3, 1]);
  assert.deepEqual(
    cutGroups([50], [1, 1, 1]).reduce((a, b) => a + b),
    1,
  );
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 8 }), (some) => {
      const lengths = [...some].sort((a, b) => b - a);
      const cost = ([a, b]: readonly number[]) => (a ?? 0) * lengths[0]! ** 2 + (b ?? 0) * (lengths[a ?? 0] ?? 0) ** 2;
      const least = Math.min(...lengths.map((_, i) => cost([i + 1, lengths.length - i - 1])));
      const cut = cutGroups(lengths, [1, 1]);
      assert.equal(cut[0]! + cut[1]!, lengths.length);
      assert.ok(cut[0] === 0 ? lengths.length * lengths[0]! ** 2 === least : cost(cut) === least);
    }),
  );
});

test('a packed row says where each of its rows attends, and an empty group computes next to nothing', () => {
  const { groups, places } = packedLayout([5, 4, 2], [2, 1]);
  assert.deepEqual(
    groups.map(({ count, length }) => [count, length]),
    [
      [2, 6],
      [1, 2],
    ],
  );
  assert.deepEqual([...groups[0]!.rows], [0, 1, 2, 3, 4, 0, 5, 6, 7, 8, 0, 0]);
  assert.deepEqual([...groups[1]!.rows], [9, 10]);
  assert.deepEqual([...places], [0, 1, 2, 3, 4, 6, 7, 8, 9, 12, 13]);
  const all = groups.flatMap(({ rows }) => [...rows]);
  for (const [row, place] of places.entries()) assert.equal(all[place], row);
  const alone = packedLayout([3], [1, 4]);
  assert.deepEqual([...alone.places], [0, 1, 2]);
  assert.deepEqual(
    alone.groups.map(({ count, length }) => count * length),
    [3, 4],
  );
});
