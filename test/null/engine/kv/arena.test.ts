import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { KvArena } from '../../../../gpu-backend/engine/kv/arena.ts';
import { KvPool } from '../../../../gpu-backend/engine/kv/pool.ts';
import { type FreshKv, type KvShape, type KvSpan, kvBytesPerToken } from '../../../../gpu-backend/engine/kv/span.ts';
import { randomOf } from './random.ts';

const TILE = 4;
const geometry = { layers: 2, kvHeads: 2, headDim: 16, keyTileTokens: TILE };
const formats = ['f32', 'int8'] as const;

/** Whole numbers −127 … 127 with one of size 127 a head: int8 keeps them exactly, so both formats have one model. */
function freshKv(shape: KvShape, rows: number, stride: number, next: () => number): FreshKv {
  const numbers = () => {
    const all = new Float32Array(rows * shape.kvHeads * stride * shape.headDim);
    for (let at = 0; at < all.length; at++) all[at] = at % shape.headDim === 5 ? 127 : Math.floor(next() * 255) - 127;
    return all;
  };
  const layers = Array.from({ length: shape.layers });
  return { keys: layers.map(numbers), values: layers.map(numbers), batchRow: 0, stride };
}

/** One row as plain numbers: [position][layer][k, v][head][d]. */
type Row = number[][][][][];

function positionOf(fresh: FreshKv, shape: KvShape, row: number, token: number): number[][][][] {
  const head = (from: Float32Array, h: number) => {
    const at = ((row * shape.kvHeads + h) * fresh.stride + token) * shape.headDim;
    return [...from.subarray(at, at + shape.headDim)];
  };
  const heads = Array.from({ length: shape.kvHeads }, (_, h) => h);
  return fresh.keys.map((keys, layer) => [
    heads.map((h) => head(keys, h)),
    heads.map((h) => head(fresh.values[layer]!, h)),
  ]);
}

/** Reads a row back through the views, as the graph would. */
function read(arena: KvArena, slot: number): Row {
  const { kvHeads, headDim: D, layers, format } = arena.shape;
  const T = arena.capacityTokens;
  const views = arena.views(0, arena.rows);
  return Array.from({ length: arena.length(slot) }, (_, position) =>
    Array.from({ length: layers }, (_, layer) => {
      const { k, v, kScale, vScale } = views[layer]!;
      const heads = Array.from({ length: kvHeads }, (_, h) => slot * kvHeads + h);
      const key = (h: number, d: number) =>
        format === 'f32'
          ? k[(h * T + position) * D + d]!
          : k[(h * T + position - (position % TILE)) * D + d * TILE + (position % TILE)]! * kScale![h * T + position]!;
      const value = (h: number, d: number) =>
        v[(h * T + position) * D + d]! * (format === 'f32' ? 1 : vScale![h * T + position]!);
      const numbers = (of: (h: number, d: number) => number) =>
        heads.map((h) => Array.from({ length: D }, (_, d) => of(h, d)));
      return [numbers(key), numbers(value)];
    }),
  );
}

function assertSame(arena: KvArena, rows: readonly Row[]): void {
  assert.equal(arena.rows, rows.length);
  for (const [slot, row] of rows.entries()) assert.deepEqual(read(arena, slot), row, `row ${slot}`);
  const T = arena.capacityTokens;
  assert.ok(arena.positions >= rows.length * T);
  assert.equal(arena.bytes, arena.positions * kvBytesPerToken(arena.shape));
  if (rows.length === 0) return;
  const bias = arena.biasFor(0, rows.length);
  assert.equal(bias.length, rows.length * T);
  for (const [slot, row] of rows.entries())
    for (let at = 0; at < T; at++) assert.equal(bias[slot * T + at], at < row.length ? 0 : Math.fround(-1e9));
  for (const { k, v, kScale, vScale } of arena.views(0, rows.length)) {
    for (const plane of [k, v]) {
      assert.equal(plane.length, rows.length * arena.shape.kvHeads * T * arena.shape.headDim);
      assert.ok(plane.every((one) => Number.isFinite(one)));
    }
    for (const scales of [kScale, vScale])
      if (scales !== null)
        for (const [at, scale] of scales.entries())
          if (at % T >= rows[Math.floor(at / T / arena.shape.kvHeads)]!.length) assert.equal(scale, 0, 'unused scale');
  }
}

describe('KvArena', () => {
  for (const format of formats) {
    const shape: KvShape = { ...geometry, format };

    it(`${format}: does what plain lists do under random operations`, () => {
      for (let seed = 1; seed <= 12; seed++) {
        const next = randomOf(seed);
        const pick = (below: number) => Math.floor(next() * below);
        const arena = new KvArena(shape, 4);
        const rows: Row[] = [];
        const saved: { span: KvSpan; copy: Row }[] = [];
        for (let step = 0; step < 120; step++) {
          const slot = pick(rows.length);
          const row = rows[slot];
          const action = pick(11);
          if (action <= 1 && rows.length < 5) {
            assert.equal(arena.addRow(), rows.length);
            rows.push([]);
          } else if (row === undefined) continue;
          else if (action <= 4) {
            const tokens = 1 + pick(action === 2 ? 40 : 3);
            if (row.length + tokens > 90) continue;
            const fresh = { ...freshKv(shape, 3, tokens + pick(2), next), batchRow: pick(3) };
            arena.ensureCapacity(row.length + tokens);
            arena.append(slot, tokens, fresh);
            for (let token = 0; token < tokens; token++) row.push(positionOf(fresh, shape, fresh.batchRow, token));
          } else if (action === 5) {
            const moved = arena.removeRow(slot, next() < 0.3);
            assert.equal(moved, slot === rows.length - 1 ? null : rows.length - 1);
            const last = rows.pop()!;
            if (slot < rows.length) rows[slot] = last;
          } else if (action === 6) {
            const other = pick(rows.length);
            arena.swapRows(slot, other);
            rows[slot] = rows[other]!;
            rows[other] = row;
          } else if (action === 7) {
            const tokens = pick(row.length + 1);
            arena.truncate(slot, tokens);
            row.length -= tokens;
          } else if (action === 8 && row.length > 0) {
            const from = pick(row.length);
            const to = from + 1 + pick(row.length - from);
            const span = arena.save(slot, from, to);
            assert.equal(span.tokens, to - from);
            assert.equal(span.bytes, (to - from) * kvBytesPerToken(shape));
            saved.push({ span, copy: row.slice(from, to) });
          } else if (action === 9) {
            const { span, copy } = saved[pick(saved.length)] ?? { span: null, copy: [] };
            if (span === null || row.length + span.tokens > 90) continue;
            const from = pick(span.tokens);
            const to = from + pick(span.tokens - from + 1);
            arena.ensureCapacity(row.length + (to - from));
            arena.restore(slot, span, from, to);
            row.push(...copy.slice(from, to));
          } else arena.trim();
          if (step % 5 === 0) assertSame(arena, rows);
        }
        assertSame(arena, rows);
        while (arena.rows > 0) arena.removeRow(0);
        assert.equal(arena.bytes, 0, 'an empty arena holds nothing');
      }
    });

    it(`${format}: memory follows the load down`, () => {
      const arena = new KvArena(shape, 64);
      for (let row = 0; row < 8; row++) arena.addRow();
      arena.ensureCapacity(1000);
      const fresh = freshKv(shape, 1, 1000, randomOf(1));
      arena.append(3, 1000, fresh);
      const full = arena.bytes;
      for (let row = 0; row < 7; row++) arena.removeRow(0);
      assert.ok(arena.bytes <= full / 4, `${arena.bytes} of ${full} bytes are still held`);
      arena.trim();
      assert.equal(arena.positions, arena.rows * 64 * Math.max(1, Math.ceil(arena.length(0) / 64)));
    });

    it(`${format}: a row in one chunk equals a row in many, bit for bit`, () => {
      const next = randomOf(7);
      const tokens = 300;
      const numbers = () =>
        Float32Array.from({ length: 2 * tokens * 16 }, () => (next() - 0.5) * 10 ** (4 * next() - 2));
      const whole: FreshKv = {
        keys: [numbers(), numbers()],
        values: [numbers(), numbers()],
        batchRow: 0,
        stride: tokens,
      };
      const part = (from: number, count: number): FreshKv => {
        const cut = (all: Float32Array) =>
          Float32Array.from(
            [0, 1].flatMap((head) => [
              ...all.subarray((head * tokens + from) * 16, (head * tokens + from + count) * 16),
            ]),
          );
        return { keys: whole.keys.map(cut), values: whole.values.map(cut), batchRow: 0, stride: count };
      };
      const arena = new KvArena(shape, 64);
      arena.addRow();
      arena.addRow();
      arena.ensureCapacity(tokens);
      arena.append(0, tokens, whole);
      for (let at = 0; at < tokens; ) {
        const count = Math.min(tokens - at, 1 + Math.floor(next() * 60) * (next() < 0.5 ? 0 : 1));
        arena.append(1, count, part(at, count));
        at += count;
      }
      for (const view of arena.views(0, 2))
        for (const plane of [view.k, view.v, view.kScale, view.vScale])
          if (plane !== null) assert.deepEqual(plane.subarray(0, plane.length / 2), plane.subarray(plane.length / 2));
    });
  }

  it('int8: numbers are within half a step of what they were', () => {
    const shape: KvShape = { ...geometry, format: 'int8' };
    const next = randomOf(3);
    const keys = [0, 1].map(() => Float32Array.from({ length: 2 * 50 * 16 }, () => next() * 6 - 3));
    const fresh: FreshKv = { keys, values: keys, batchRow: 0, stride: 50 };
    const arena = new KvArena(shape, 64);
    arena.addRow();
    arena.append(0, 50, fresh);
    for (const [position, layers] of read(arena, 0).entries())
      for (const [layer, kinds] of layers.entries())
        for (const heads of kinds)
          for (const [head, numbers] of heads.entries()) {
            const at = (head * 50 + position) * 16;
            const source = keys[layer]!.subarray(at, at + 16);
            const step = Math.max(...source.map(Math.abs)) / 127;
            for (const [d, number] of numbers.entries())
              assert.ok(Math.abs(number - source[d]!) <= step * 0.5001, `${number} for ${source[d]}, step ${step}`);
          }
  });

  it('f32: a removed row with numbers that are not finite leaves none behind', () => {
    const shape: KvShape = { ...geometry, format: 'f32' };
    const arena = new KvArena(shape, 4);
    for (let row = 0; row < 3; row++) arena.addRow();
    arena.ensureCapacity(20);
    const poison = Array.from({ length: 2 }, () => new Float32Array(2 * 20 * 16).fill(Number.NaN));
    arena.append(0, 20, { keys: poison, values: poison, batchRow: 0, stride: 20 });
    arena.append(1, 2, freshKv(shape, 1, 2, randomOf(1)));
    arena.swapRows(0, 1);
    arena.removeRow(1, true);
    for (let row = 0; row < 4; row++) arena.addRow();
    arena.ensureCapacity(40);
    for (const { k, v } of arena.views(0, arena.rows))
      for (const plane of [k, v]) assert.ok(plane.every((one) => Number.isFinite(one)));
  });

  it('views are the same objects until a layout changes', () => {
    const arena = new KvArena({ ...geometry, format: 'int8' }, 4);
    arena.addRow();
    arena.addRow();
    const before = arena.views(0, 2);
    arena.append(0, 2, freshKv(arena.shape, 1, 2, randomOf(1)));
    assert.equal(arena.views(0, 2), before);
    assert.notEqual(arena.views(0, 1), before);
    arena.ensureCapacity(5);
    assert.notEqual(arena.views(0, 2), before);
  });

  it('says what is wrong with a caller that breaks its rules', () => {
    const arena = new KvArena({ ...geometry, format: 'f32' }, 4);
    arena.addRow();
    assert.throws(
      () => arena.append(0, 5, freshKv(arena.shape, 1, 5, randomOf(1))),
      /holds 0 tokens.*given 5.*4 positions/,
    );
    assert.throws(() => arena.removeRow(1), /slot 1 is not in use; 1 rows are/);
    assert.throws(() => arena.truncate(0, 1), /holds 0 tokens/);
    assert.throws(() => arena.save(0, 0, 1), /positions 0 to 1 cannot be saved/);
    const span = (() => {
      const other = new KvArena({ ...geometry, format: 'int8' }, 4);
      other.addRow();
      other.append(0, 1, freshKv(other.shape, 1, 1, randomOf(1)));
      return other.save(0, 0, 1);
    })();
    assert.throws(() => arena.restore(0, span, 0, 1), /8 planes; the arena has 4/);
  });
});

describe('KvPool', () => {
  it('keeps buffers within the budget as long as rows × longest row is', () => {
    const next = randomOf(11);
    const pick = (below: number) => Math.floor(next() * below);
    const budget = 96;
    const pool = new KvPool({ layers: 1, kvHeads: 1, headDim: 16, keyTileTokens: TILE, format: 'int8' }, budget, 4);
    /** By class, the lengths of its rows. */
    const rows: number[][] = [[], [], []];
    const cost = () =>
      rows.reduce((sum, all) => sum + all.length * 4 * Math.max(1, Math.ceil(Math.max(0, ...all) / 4)), 0);
    const fresh = freshKv(pool.shape, 1, 1, next);
    for (let step = 0; step < 20_000; step++) {
      const index = pick(3);
      const all = rows[index]!;
      const slot = pick(all.length);
      const action = pick(4);
      if (action === 0) {
        all.push(0);
        if (cost() > budget) all.pop();
        else pool.addRow(index);
      } else if (all.length === 0) continue;
      else if (action === 1) {
        pool.arena(index).removeRow(slot);
        const last = all.pop()!;
        if (slot < all.length) all[slot] = last;
      } else {
        all[slot]!++;
        if (cost() > budget) all[slot]!--;
        else {
          pool.ensureCapacity(index, all[slot]!);
          pool.arena(index).append(slot, 1, fresh);
        }
      }
      assert.ok(pool.positions <= budget, `${pool.positions} positions of ${budget}`);
      assert.equal(
        pool.rows,
        rows.reduce((sum, one) => sum + one.length, 0),
      );
    }
  });
});
