import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import * as g from '../../../gpu-backend/graph/builder.ts';
import { symbol } from '../../../gpu-backend/graph/dim.ts';
import { Graph } from '../../../gpu-backend/graph/graph.ts';
import { LoopGraph } from '../../../gpu-backend/graph/loop.ts';
import { scalar } from '../../../gpu-backend/graph/ops/infer.ts';
import { loadCheckpoint } from '../../../gpu-backend/models/load.ts';
import { f32, i64, Session } from '../../../gpu-backend/runtime/session.ts';
import { decodeByLoop, decodeByStep, firstTokens } from '../../fixtures/greedy.ts';
import { FAMILIES, writeRandomFamily } from '../../fixtures/random-families.ts';

const NANO = join(import.meta.dirname, '../../../gpu-backend/models/nano');
const dir = mkdtempSync(join(tmpdir(), 'mantis-loop-'));
after(() => rmSync(dir, { recursive: true }));

const steps = (n: number) => i64(BigInt64Array.of(BigInt(n)), []);

test('a loop carries, stacks and stops', async () => {
  const graph = new Graph();
  const x_N = graph.input('x', 'f32', [symbol('N')]);
  const list_M = graph.input('list', 'f32', [symbol('M')]);
  const y_N = g.add(graph, x_N, graph.input('by', 'f32', []));
  const total = g.reduceSum(graph, y_N, [0]);
  graph.output('y', y_N);
  graph.output('longer', g.concat(graph, [list_M, g.reshape(graph, total, [1])], 0));
  graph.output('total', total);
  const below = g.sqrt(graph, graph.emit('squaredRelu', [g.sub(graph, scalar(graph, 20), total)], {})[0]!);
  graph.output('going', g.cast(graph, below, 'bool'));
  const carried = new Map([
    ['y', 'x'],
    ['longer', 'list'],
  ]);
  const session = await Session.create(new LoopGraph(graph, carried, ['total'], 'going'));
  const feeds = {
    x: f32(Float32Array.of(1, 2), [2]),
    list: f32(new Float32Array(0), [0]),
    by: f32(Float32Array.of(1), []),
  };
  // Sums 5, 7, 9, … : three steps are asked for; then so many that the condition ends it at the first sum that is not below 20.
  const three = await session.run({ ...feeds, steps: steps(3) });
  assert.deepEqual([...three.y!.data], [4, 5]);
  assert.deepEqual([...three.total!.data], [5, 7, 9]);
  assert.deepEqual([...three.longer!.data], [5, 7, 9]);
  const all = await session.run({ ...feeds, steps: steps(100) });
  assert.deepEqual([...all.total!.data], [5, 7, 9, 11, 13, 15, 17, 19, 21]);
  await session.release();
});

test('what cannot be carried is refused with both names', () => {
  const graph = new Graph();
  const x = graph.input('x', 'f32', [2]);
  graph.output('sum', g.reduceSum(graph, x, [0]));
  graph.output('y', x);
  graph.output('going', g.cast(graph, g.reduceSum(graph, x, [0]), 'bool'));
  assert.throws(() => new LoopGraph(graph, new Map([['sum', 'x']]), [], 'going'), /"sum" cannot be carried to "x"/);
  assert.throws(() => new LoopGraph(graph, new Map([['y', 'z']]), [], 'going'), /no data input "z"/);
  assert.throws(() => new LoopGraph(graph, new Map([['y', 'x']]), [], 'y'), /"y" must be bool/);
});

test('tokens of a loop are those of single steps: nano, 40 tokens in runs of 1, 7 and 16', async () => {
  const checkpoint = loadCheckpoint(NANO);
  const prompts = [
    [1, 5, 9, 30, 41, 7],
    [1, 77, 12, 300, 6, 8, 99, 14, 2],
    [1, 250, 251],
  ];
  const prefilled = await firstTokens(checkpoint, prompts);
  const want = await decodeByStep(checkpoint, prefilled, 40);
  for (const run of [1, 7, 16]) {
    const got = await decodeByLoop(checkpoint, prefilled, 40, run);
    assert.deepEqual(got.tokens, want.tokens, `runs of ${run}`);
    assert.equal(got.keys.length, want.keys.length);
    got.keys.forEach((key, i) => {
      assert.ok(Math.abs(key - (want.keys[i] ?? Number.NaN)) < 1e-5, `key ${i} after runs of ${run}`);
    });
  }
});

for (const family of FAMILIES)
  test(`so they are for ${family}`, async () => {
    const folder = join(dir, family);
    await writeRandomFamily(folder, family);
    const checkpoint = loadCheckpoint(folder);
    const prefilled = await firstTokens(checkpoint, [
      [1, 5, 9, 30, 41, 7, 11, 12, 13, 14, 15, 16],
      [1, 77, 12],
    ]);
    const want = await decodeByStep(checkpoint, prefilled, 24);
    assert.deepEqual((await decodeByLoop(checkpoint, prefilled, 24, 8)).tokens, want.tokens);
  });

test('a run ends when every row has stopped', async () => {
  const checkpoint = loadCheckpoint(NANO);
  const prefilled = await firstTokens(checkpoint, [
    [1, 5, 9, 30],
    [1, 77],
  ]);
  const free = await decodeByStep(checkpoint, prefilled, 12);
  // A stop id for each row, met at step 3 and at step 6 (or before, where an id comes earlier).
  const stops = [free.tokens[0]![3]!, free.tokens[1]![6]!];
  const ends = free.tokens.map((row) => row.findIndex((id) => stops.includes(id)));
  const got = await decodeByLoop(checkpoint, prefilled, 12, 12, stops);
  assert.equal(got.tokens[0]!.length, Math.max(...ends) + 1);
  got.tokens.forEach((row, i) => {
    assert.deepEqual(row, free.tokens[i]!.slice(0, row.length));
  });
});
