import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { FeatureCache } from '../../../gpu-backend/engine/feature-cache.ts';
import { KvArena } from '../../../gpu-backend/engine/kv.ts';

const shape = { layers: 2, kvHeads: 2, headDim: 3 };

/** The slow truth: every row is a list of tokens, every token a number that its keys and values are derived from. */
const keyOf = (token: number, layer: number, head: number, dim: number) => token * 1000 + layer * 100 + head * 10 + dim;

function append(arena: KvArena, slot: number, tokens: number[], batchRow: number, stride: number): void {
  const fill = (sign: number) =>
    Array.from({ length: shape.layers }, (_, layer) => {
      const fresh = new Float32Array((batchRow + 1) * shape.kvHeads * stride * shape.headDim).fill(Number.NaN);
      for (const [position, token] of tokens.entries())
        for (let head = 0; head < shape.kvHeads; head++)
          for (let dim = 0; dim < shape.headDim; dim++)
            fresh[((batchRow * shape.kvHeads + head) * stride + position) * shape.headDim + dim] =
              sign * keyOf(token, layer, head, dim);
      return fresh;
    });
  arena.append(slot, tokens.length, { keys: fill(1), values: fill(-1), batchRow, stride });
}

function check(arena: KvArena, rows: number[][]): void {
  assert.equal(arena.rows, rows.length);
  const T = arena.capacityTokens;
  for (let layer = 0; layer < shape.layers; layer++) {
    const keys = arena.keys(layer, 0, rows.length);
    const values = arena.values(layer, 0, rows.length);
    assert.equal(keys.length, rows.length * shape.kvHeads * T * shape.headDim);
    for (const [slot, tokens] of rows.entries())
      for (const [position, token] of tokens.entries())
        for (let head = 0; head < shape.kvHeads; head++)
          for (let dim = 0; dim < shape.headDim; dim++) {
            const at = ((slot * shape.kvHeads + head) * T + position) * shape.headDim + dim;
            assert.equal(keys[at], keyOf(token, layer, head, dim));
            assert.equal(values[at], -keyOf(token, layer, head, dim));
          }
  }
  const bias = arena.biasFor(0, rows.length);
  for (const [slot, tokens] of rows.entries())
    for (let position = 0; position < T; position++)
      assert.equal(bias[slot * T + position], position < tokens.length ? 0 : Math.fround(-1e9));
}

describe('KvArena', () => {
  it('any order of joins, appends, swaps and leaves keeps every row', () => {
    const operation = fc.oneof(
      {
        weight: 3,
        arbitrary: fc.record({
          do: fc.constant('append' as const),
          row: fc.nat(5),
          count: fc.integer({ min: 1, max: 7 }),
        }),
      },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('add' as const), row: fc.nat(5), count: fc.nat(1) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('remove' as const), row: fc.nat(5), count: fc.nat(1) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('swap' as const), row: fc.nat(5), count: fc.nat(5) }) },
    );
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 40 }), (operations) => {
        const arena = new KvArena(shape, 4);
        const rows: number[][] = [];
        let token = 1;
        for (const { do: what, row, count } of operations) {
          if (what === 'add' || rows.length === 0) {
            assert.equal(arena.addRow(), rows.length);
            rows.push([]);
            continue;
          }
          const slot = row % rows.length;
          if (what === 'append') {
            const tokens = Array.from({ length: count }, () => token++ % 500);
            arena.ensureCapacity(rows[slot]!.length + count);
            append(arena, slot, tokens, row % 3, count + (row % 2));
            rows[slot]!.push(...tokens);
          } else if (what === 'remove') {
            const moved = arena.removeRow(slot);
            const last = rows.pop()!;
            if (slot < rows.length) rows[slot] = last;
            assert.equal(moved, slot === rows.length ? null : rows.length);
          } else {
            const other = count % rows.length;
            arena.swapRows(slot, other);
            [rows[slot], rows[other]] = [rows[other]!, rows[slot]!];
          }
        }
        check(arena, rows);
      }),
      { numRuns: 300 },
    );
  });

  it('gives its memory back when the last row leaves', () => {
    const arena = new KvArena(shape, 4);
    arena.addRow();
    arena.ensureCapacity(1000);
    assert.ok(arena.bytes > 0);
    arena.removeRow(0);
    assert.equal(arena.bytes, 0);
    assert.equal(arena.capacityTokens, 4);
  });

  it('an append beyond the capacity names both numbers', () => {
    const arena = new KvArena(shape, 4);
    arena.addRow();
    assert.throws(() => append(arena, 0, [1, 2, 3, 4, 5], 0, 5), /given 5 more; the arena has 4 positions/);
  });
});

describe('FeatureCache', () => {
  const features = (floats: number) => new Float32Array(floats);

  it('evicts the least recently used, never a pinned entry', () => {
    const cache = new FeatureCache(3 * 4);
    for (const key of ['a', 'b', 'c']) {
      cache.insert(key, features(1));
      cache.release(key);
    }
    assert.ok(cache.acquire('a')); // used again, and pinned
    cache.insert('d', features(1)); // b was used least recently
    assert.equal(cache.acquire('b'), null);
    cache.insert('e', features(3)); // c goes; a and d stay pinned beyond the budget
    assert.equal(cache.acquire('c'), null);
    assert.equal(cache.bytes, 5 * 4);
    for (const key of ['a', 'd', 'e']) cache.release(key);
    assert.ok(cache.bytes <= 3 * 4);
    assert.deepEqual([cache.queries, cache.hits], [3, 1]);
  });

  it('a release without a holder is a bug, and says so', () => {
    assert.throws(() => new FeatureCache(1).release('x'), /nobody holds/);
  });
});
