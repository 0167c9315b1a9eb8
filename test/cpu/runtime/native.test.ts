import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as g from '../../../gpu-backend/graph/builder.ts';
import { symbol } from '../../../gpu-backend/graph/dim.ts';
import { Graph } from '../../../gpu-backend/graph/graph.ts';
import { scalar } from '../../../gpu-backend/graph/ops/infer.ts';
import type { BoundRun } from '../../../gpu-backend/runtime/bound-run.ts';
import { collectGarbage } from '../../../gpu-backend/runtime/garbage.ts';
import { chooseBinding, nativeFailure } from '../../../gpu-backend/runtime/native/choose-binding.ts';
import { NativeSession } from '../../../gpu-backend/runtime/native/native-session.ts';
import { PrepackedWeights } from '../../../gpu-backend/runtime/native/prepacked-weights.ts';
import { encodeOnnx } from '../../../gpu-backend/runtime/onnx-encode.ts';
import { encodeGraph, f32, ints, Session, type Tensor } from '../../../gpu-backend/runtime/session.ts';

const BINDINGS = ['node', 'native'] as const;
const QUIET = { graphOptimizationLevel: 'disabled', intraOpNumThreads: 1, logSeverityLevel: 4 } as const;

/** x [N, 3] · wᵀ → y [N, 2], rows `at` [R] of it → picked [R, 2]. */
function model(): Graph {
  const graph = new Graph();
  const x_NK = graph.input('x', 'f32', [symbol('N'), 3]);
  const y_NM = g.linear(graph, x_NK, graph.input('w', 'f32', [2, 3], 'param'));
  graph.output('y', y_NM);
  graph.output('picked', g.gather(graph, y_NM, graph.input('at', 'i64', [symbol('R')])));
  return graph;
}

const w = (): Tensor => f32(Float32Array.of(1, 2, 3, 0, 1, 0), [2, 3]);
const x = (): Tensor => f32(Float32Array.of(1, 1, 1, 2, 0, 1), [2, 3]);
const Y = [6, 1, 5, 0];
const room = (rows: number): Tensor => f32(new Float32Array(2 * rows), [rows, 2]);
const nativeModel = () => new NativeSession(encodeGraph(model()), { options: QUIET });

function bindModel(run: BoundRun): BoundRun {
  run.input('x', x());
  run.input('w', w());
  run.input('at', ints([1], [1]));
  return run;
}

test('the C API can be called here', () => {
  assert.equal(nativeFailure(), undefined);
});

for (const binding of BINDINGS) {
  test(`${binding}: a bound run reads inputs as they are and writes outputs where they lie`, async () => {
    const session = await Session.create(model(), { binding, initializers: new Map([['w', w()]]) });
    assert.equal(session.binding, binding);
    const [input, y] = [x(), room(2)];
    const run = session.bind();
    run.input('x', input);
    run.input('at', ints([1], [1]));
    run.output('y', y);
    run.output('picked');
    await run.run();
    assert.deepEqual([...y.data], Y);
    assert.equal(run.read('y'), y);
    assert.deepEqual(run.read('picked'), f32(Float32Array.of(5, 0), [1, 2]));
    input.data[0] = 11;
    run.input('at', ints([0, 0, 1], [3]));
    await run.runAsync();
    assert.deepEqual([...y.data], [16, 1, 5, 0]);
    assert.deepEqual(run.shapeOf('picked'), [3, 2]);
    assert.deepEqual([...run.read('picked').data], [16, 1, 16, 1, 5, 0]);
    await session.release();
  });

  test(`${binding}: state is carried from run to run`, async () => {
    const graph = new Graph();
    const state = graph.input('state', 'f32', [symbol('N')]);
    graph.output('next', g.add(graph, g.add(graph, state, state), scalar(graph, 1)));
    const session = await Session.create(graph, { binding });
    const run = session.bind();
    run.input('state', f32(Float32Array.of(0, 1), [2]));
    run.output('next', 'device');
    for (let i = 0; i < 5; i++) {
      await run.run();
      run.feedBack('next', 'state');
    }
    run.output('next');
    await run.run();
    assert.deepEqual([...run.read('next').data], [63, 127]);
    await session.release();
  });

  test(`${binding}: mistakes are errors that say what is wrong`, async () => {
    const session = await Session.create(model(), { binding });
    const run = bindModel(session.bind());
    assert.throws(() => run.input('z', x()), /the model has no input "z"; it has x, w, at/);
    assert.throws(() => run.output('z'), /the model has no output "z"; it has y, picked/);
    await assert.rejects(async () => run.run(), /no output is bound/);
    const unfed = session.bind();
    unfed.output('y');
    unfed.input('x', x());
    await assert.rejects(async () => unfed.run(), /input '?"?w/);
    await assert.rejects(session.run({ x: x(), w: w() }), /input '?"?at/);
    run.output('y', room(2));
    assert.throws(() => run.read('y'), /output "y" is there after a run/);
    run.release();
    await assert.rejects(async () => run.run(), /released/);
    await session.release();
  });
}

test('both bindings give the same, bit by bit', async () => {
  const graph = new Graph();
  const h = g.rmsNorm(graph, graph.input('x', 'f32', [symbol('N'), 64]), graph.input('n', 'f32', [64], 'param'), 1e-5);
  graph.output('y', g.softmax(graph, g.linear(graph, h, graph.input('w', 'f32', [48, 64], 'param'))));
  const wave = (count: number, shape: number[]) =>
    f32(
      Float32Array.from({ length: count }, (_, i) => Math.sin(i * i)),
      shape,
    );
  const initializers = new Map([
    ['n', wave(64, [64])],
    ['w', wave(48 * 64, [48, 64])],
  ]);
  const [node, native] = await Promise.all(
    BINDINGS.map(async (binding) => {
      const session = await Session.create(graph, { binding, initializers });
      const { y } = await session.run({ x: wave(5 * 64, [5, 64]) });
      await session.release();
      return y;
    }),
  );
  assert.deepEqual(native, node);
});

test('native: wrong types, ranks, sizes and memory are refused before native code sees them', async () => {
  const session = nativeModel();
  const run = bindModel(session.bind());
  const refusals: [RegExp, () => unknown][] = [
    [/input "x" of the model is f32 \[\?,3\], got f32 \[2,4\]/, () => run.input('x', f32(new Float32Array(8), [2, 4]))],
    [/input "x" of the model is f32 \[\?,3\], got f32 \[6\]/, () => run.input('x', f32(new Float32Array(6), [6]))],
    [/input "at" of the model is i64 \[\?\], got f32/, () => run.input('at', f32(new Float32Array(1), [1]))],
    [/output "y" of the model is f32 \[\?,2\], got i64/, () => run.output('y', ints([0, 0], [1, 2]))],
    [
      /f32 \[4,3\] needs a Float32Array of 48 bytes, got a Float32Array of 24/,
      () => run.input('x', { ...x(), shape: [4, 3] }),
    ],
    [/is no shape/, () => run.input('x', { ...x(), shape: [-2, 3] })],
    [/is no shape/, () => run.input('x', { ...x(), shape: [Number.NaN, 3] })],
    [/needs a Float32Array/, () => run.input('x', { dtype: 'f32', shape: [2, 3], data: new Uint8Array(24) })],
    [
      /resizable buffer/,
      () => {
        const Resizable = ArrayBuffer as unknown as new (n: number, o: { maxByteLength: number }) => ArrayBuffer;
        run.input('x', f32(new Float32Array(new Resizable(24, { maxByteLength: 48 })), [2, 3]));
      },
    ],
    [
      /memory of "x" was transferred away/,
      () => {
        const gone = x();
        const other = bindModel(session.bind());
        other.input('x', gone);
        other.output('y');
        structuredClone(gone.data.buffer, { transfer: [gone.data.buffer as ArrayBuffer] });
        other.run();
      },
    ],
  ];
  for (const [message, attempt] of refusals) assert.throws(attempt, message);
  run.output('y', room(2));
  run.run();
  await session.release();
});

test("native: ONNX Runtime's refusals are errors, and the run can be used afterwards", async () => {
  const session = nativeModel();
  const run = bindModel(session.bind());
  run.output('picked');
  run.output('y', room(3));
  assert.throws(() => run.run(), /shape \{3,2\}.*\{2,2\}/s);
  assert.throws(() => run.read('picked'), /after a run that succeeded/);
  run.output('y', room(2));
  run.input('at', ints([7], [1]));
  assert.throws(() => run.run(), /indices element out of data bounds/);
  run.input('at', ints([0], [1]));
  run.run();
  assert.deepEqual([...run.read('picked').data], [6, 1]);
  await session.release();
  assert.throws(() => run.run(), /the run or its session is released/);
  assert.throws(() => run.read('y'), /released/);
  assert.throws(() => session.bind(), /the session is released/);
  run.release();
  await session.release();
  assert.throws(() => new NativeSession(new Uint8Array(64), { options: QUIET }), /protobuf/);
  assert.throws(() => new NativeSession('/nowhere.onnx', { options: QUIET }), /nowhere\.onnx/);
});

test('native: small arrays inside the heap of V8 stay bound while it is collected', async () => {
  const session = nativeModel();
  const run = session.bind();
  const [input, y] = [x(), room(2)];
  run.input('x', input);
  run.input('w', w());
  run.input('at', ints([0], [1]));
  run.output('y', y);
  let litter: unknown[] = [];
  for (let i = 1; i <= 50; i++) {
    for (let j = 0; j < 2000; j++) litter.push(Float32Array.of(i, j, i, j));
    if (i % 5 === 0) litter = [];
    collectGarbage();
    input.data[0] = i;
    run.run();
    assert.equal(y.data[0], i + 5);
  }
  await session.release();
});

test('native: a cache is written in place when it is bound as input and output', async () => {
  const bytes = encodeOnnx({
    inputs: [
      { name: 'past', dtype: 'f32', shape: ['T', 4] },
      { name: 'at', dtype: 'i64', shape: ['S', 1] },
      { name: 'new', dtype: 'f32', shape: ['S', 4] },
    ],
    outputs: [{ name: 'present', dtype: 'f32', shape: ['T', 4] }],
    initializers: [],
    externals: [],
    nodes: [
      {
        opType: 'ScatterND',
        domain: '',
        inputs: ['past', 'at', 'new'],
        outputs: ['present'],
        attrs: {},
        name: 'write',
      },
    ],
  });
  const session = new NativeSession(bytes, { options: QUIET });
  const cache = f32(new Float32Array(32).fill(1), [8, 4]);
  const run = session.bind();
  run.input('past', cache);
  run.output('present', cache);
  for (const row of [2, 5]) {
    run.input('at', ints([row], [1, 1]));
    run.input('new', f32(new Float32Array(4).fill(row), [1, 4]));
    run.run();
  }
  const rows = Array.from({ length: 8 }, (_, row) => cache.data[row * 4]);
  assert.deepEqual(rows, [1, 1, 2, 1, 1, 5, 1, 1]);
  await session.release();
});

test('native: weights are read where they lie, shared memory included', async () => {
  const graph = new Graph();
  const sum = g.add(graph, graph.input('x', 'f32', [symbol('N'), 64]), graph.input('w', 'f32', [64], 'param'));
  graph.output('y', sum);
  for (const memory of [new ArrayBuffer(256), new SharedArrayBuffer(256)]) {
    const weights = new Float32Array(memory).fill(1);
    const initializers = new Map([['w', f32(weights, [64])]]);
    const session = await Session.create(graph, { binding: 'native', initializers });
    const feeds = { x: f32(new Float32Array(64).fill(2), [1, 64]) };
    assert.equal((await session.run(feeds)).y?.data[63], 3);
    weights.fill(5);
    assert.equal((await session.run(feeds)).y?.data[63], 7);
    await session.release();
  }
});

test('native: sessions share packed weights and outlive each other', async () => {
  const prepacked = new PrepackedWeights();
  const options = { binding: 'native', initializers: new Map([['w', w()]]), prepacked } as const;
  const first = await Session.create(model(), options);
  const second = await Session.create(model(), options);
  const feeds = { x: x(), at: ints([0], [1]) };
  assert.deepEqual([...((await first.run(feeds)).y?.data ?? [])], Y);
  await first.release();
  collectGarbage();
  assert.deepEqual([...((await second.run(feeds)).y?.data ?? [])], Y);
  await second.release();
});

test('native: constants are folded over the weights that are given', async () => {
  const graph = new Graph();
  const half = g.cast(graph, graph.input('w', 'f16', [2, 3], 'param'), 'f32');
  graph.output('y', g.linear(graph, graph.input('x', 'f32', [symbol('N'), 3]), half));
  const weights: Tensor = { dtype: 'f16', shape: [2, 3], data: Uint16Array.of(0x3c00, 0x4000, 0x4200, 0, 0x3c00, 0) };
  for (const binding of BINDINGS) {
    const session = await Session.create(graph, {
      binding,
      foldConstants: true,
      initializers: new Map([['w', weights]]),
    });
    assert.deepEqual([...((await session.run({ x: x() })).y?.data ?? [])], Y, binding);
    await session.release();
  }
});

test('weights that no result depends on may be given, and those that do not fit are named', async () => {
  const graph = model();
  graph.input('unused', 'f32', [2], 'param');
  const unused = f32(new Float32Array(2), [2]);
  for (const binding of BINDINGS) {
    const weights = { unused, w: w(), elsewhere: unused };
    const session = await Session.create(graph, { binding, initializers: new Map(Object.entries(weights)) });
    assert.deepEqual([...((await session.run({ x: x(), at: ints([0], [1]) })).y?.data ?? [])], Y);
    await session.release();
    const create = (name: string, tensor: Tensor) =>
      Session.create(graph, { binding, initializers: new Map([[name, tensor]]) });
    await assert.rejects(create('w', f32(new Float32Array(6), [3, 2])), /weight w: .* f32 \[2,3\], got f32 \[3,2\]/);
    await assert.rejects(create('x', x()), /input x changes with every run/);
  }
});

test('the environment overrides the choice of a binding', () => {
  assert.equal(chooseBinding('auto', {}), 'native');
  assert.equal(chooseBinding('node', {}), 'node');
  assert.equal(chooseBinding('native', { MANTIS_BINDING: 'node' }), 'node');
  assert.throws(
    () => chooseBinding('auto', { MANTIS_BINDING: 'ffi' }),
    /MANTIS_BINDING is "ffi"; it can be auto, node or native/,
  );
});
