/**
 * The two ways to call ONNX Runtime, onnxruntime-node's binding and its C API (runtime/native), side by side: windows that
 * alternate, medians. The last line is JSON.
 *
 *     node --import tsx test/bench/binding.ts [overhead] [decode] [inPlace] [memory] [leak] [--runs 100000] [--window 200]
 *
 * overhead  120 tensors of 16 floats, 60 additions
 * decode    a step of the decoders of nano and of SmolLM2-135M's geometry: random weights as constants, a past full of data
 * inPlace   4 rows scattered into 64 MiB
 * memory    resident bytes of processes that have two sessions over the same weights
 * leak      runs, bindings and sessions made and released; resident bytes at each tenth of them
 */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import * as g from '../../gpu-backend/graph/builder.ts';
import { evaluateDim, symbol } from '../../gpu-backend/graph/dim.ts';
import { Graph } from '../../gpu-backend/graph/graph.ts';
import { decodeGraph } from '../../gpu-backend/models/decode.ts';
import { nanoConfig } from '../../gpu-backend/models/presets.ts';
import { servingWeights } from '../../gpu-backend/models/serving-weights.ts';
import { chooseStorage, type Storage } from '../../gpu-backend/models/storage.ts';
import type { BoundRun } from '../../gpu-backend/runtime/bound-run.ts';
import { collectGarbage } from '../../gpu-backend/runtime/garbage.ts';
import { NativeSession } from '../../gpu-backend/runtime/native/native-session.ts';
import { PrepackedWeights } from '../../gpu-backend/runtime/native/prepacked-weights.ts';
import { NodeSession } from '../../gpu-backend/runtime/node-session.ts';
import { encodeOnnx } from '../../gpu-backend/runtime/onnx-encode.ts';
import { f32, ints, Session, type Tensor } from '../../gpu-backend/runtime/session.ts';

const BINDINGS = ['node', 'native'] as const;
type Binding = (typeof BINDINGS)[number];
const SECTIONS = ['overhead', 'decode', 'inPlace', 'memory', 'leak'] as const;

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    runs: { type: 'string', default: '100000' },
    window: { type: 'string', default: '200' },
    rounds: { type: 'string', default: '7' },
    /** What a child process of `memory` or `leak` does. */
    child: { type: 'string' },
  },
});

const round3 = (value: number): number => Math.round(value * 1000) / 1000;
const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
const mebibytes = (): number => Math.round(process.memoryUsage().rss / 2 ** 20);

/** Milliseconds of one call of each contender in windows that take turns: median of the windows' medians, and the best of them. */
async function alternate<K extends string>(contenders: Readonly<Record<K, () => void | Promise<void>>>) {
  const times: Record<string, number[]> = {};
  for (let round = -1; round < Number(flags.rounds); round++)
    for (const [name, run] of Object.entries<() => void | Promise<void>>(contenders)) {
      const taken: number[] = [];
      const end = performance.now() + Number(flags.window);
      do {
        const start = performance.now();
        const pending = run();
        if (pending !== undefined) await pending;
        taken.push(performance.now() - start);
      } while (performance.now() < end || taken.length < 3);
      if (round >= 0) times[name] = [...(times[name] ?? []), median(taken)];
    }
  return Object.fromEntries(
    Object.entries(times).map(([name, rounds]) => [
      name,
      { ms: round3(median(rounds)), bestMs: round3(Math.min(...rounds)) },
    ]),
  );
}

const noise = (length: number): Float32Array => Float32Array.from({ length }, () => Math.random() * 2 - 1);

/** Feeds for every input of a graph: random floats, ids and rows of 0. */
function feedsOf(graph: Graph, sizes: ReadonlyMap<string, number>): Record<string, Tensor> {
  const feeds: Record<string, Tensor> = {};
  for (const { name, kind, value } of graph.inputs) {
    if (kind === 'param') continue;
    const shape = value.shape.map((dim) => evaluateDim(dim, sizes));
    const count = shape.reduce((a, b) => a * b, 1);
    if (value.dtype === 'i64') feeds[name] = ints(new Uint8Array(count), shape);
    else if (value.dtype === 'i8')
      feeds[name] = { dtype: 'i8', shape, data: Int8Array.from(noise(count), (x) => x * 127) };
    else feeds[name] = f32(name.includes('bias') ? new Float32Array(count) : noise(count), shape);
  }
  return feeds;
}

function additions(count: number): Graph {
  const graph = new Graph();
  for (let i = 0; i < count; i++) {
    const x = graph.input(`x${i}`, 'f32', [symbol('N')]);
    graph.output(`y${i}`, g.add(graph, x, x));
  }
  return graph;
}

async function bindAll(session: Session, feeds: Readonly<Record<string, Tensor>>): Promise<BoundRun> {
  const run = session.bind();
  for (const [name, tensor] of Object.entries(feeds)) run.input(name, tensor);
  const first = await session.run(feeds);
  for (const [name, { dtype, shape, data }] of Object.entries(first))
    run.output(name, { dtype, shape, data: data.slice() });
  return run;
}

async function overhead() {
  const graph = additions(60);
  const feeds = feedsOf(graph, new Map([['N', 16]]));
  const node = await Session.create(graph, { binding: 'node' });
  const native = await Session.create(graph, { binding: 'native' });
  const bound = await bindAll(native, feeds);
  const rebound = await bindAll(native, feeds);
  const outputs = Object.fromEntries(Object.keys(feeds).map((name) => [name.replace('x', 'y'), noise(16)]));
  const async = native.bind();
  for (const [name, tensor] of Object.entries(feeds)) async.input(name, tensor);
  for (const name of Object.keys(outputs)) async.output(name);
  return await alternate({
    node: async () => void (await node.run(feeds)),
    nativeRun: async () => void (await native.run(feeds)),
    nativeBound: () => bound.run(),
    nativeBoundRoomMade: () => async.run(),
    nativeRebound: () => {
      for (const [name, tensor] of Object.entries(feeds))
        rebound.input(name, { ...tensor, data: tensor.data.subarray(0) });
      for (const [name, data] of Object.entries(outputs)) rebound.output(name, f32(data.subarray(0), [16]));
      return rebound.run();
    },
  });
}

const TOKENS = { imageToken: 3, bosToken: 1, eosTokens: [2], padToken: 0, tiedHead: true, maxPositions: 8192 };
const DECODERS = {
  /** Decoder of SmolLM2-135M: 134.5M parameters. */
  '135M': nanoConfig({ ...TOKENS, vocab: 49152, hidden: 576, layers: 30, heads: 9, kvHeads: 3, intermediate: 1536 }),
  /** The size of the model that the project ships. */
  nano: nanoConfig({ ...TOKENS, vocab: 2048 }),
} as const;

const INT8: Storage = { ...chooseStorage({ precision: 'int8' }), w8a8: 'all' };

function decoder(size: keyof typeof DECODERS, format: 'f32' | 'int8') {
  const config = DECODERS[size];
  const plain = decodeGraph(config, { images: false });
  const model = format === 'f32' ? plain : decodeGraph(config, { images: false, storage: INT8, kv: 'int8' });
  const floats = new Map(
    [...plain.weights].map(([name, shape]) => {
      const data = noise(shape.reduce((a, b) => a * b, 1)).map((value) => value * 0.05);
      return [name, f32(data, shape)] as const;
    }),
  );
  return { graph: model.graph, weights: servingWeights(model, floats, INT8) };
}

async function decode() {
  const results: Record<string, unknown> = {};
  for (const [size, format] of [
    ['nano', 'f32'],
    ['nano', 'int8'],
    ['135M', 'f32'],
    ['135M', 'int8'],
  ] as const) {
    const { graph, weights } = decoder(size, format);
    const sessions = new Map<Binding, Session>();
    for (const binding of BINDINGS)
      sessions.set(binding, await Session.create(graph, { initializers: weights, binding }));
    for (const [B, T] of [
      [1, 128],
      [8, 128],
      [1, 1984],
    ] as const) {
      const sizes = new Map(Object.entries({ B, S: 1, T, N: T / 64, R: B }));
      const feeds = feedsOf(graph, sizes);
      const [node, native] = BINDINGS.map((binding) => sessions.get(binding)!) as [Session, Session];
      const bound = await bindAll(native, feeds);
      const times = await alternate({
        node: async () => void (await node.run(feeds)),
        nativeRun: async () => void (await native.run(feeds)),
        nativeBound: () => bound.run(),
      });
      const name = `${size} ${format} B${B} ctx${T}`;
      results[name] = times;
      console.log(name, times);
      bound.release();
    }
    for (const session of sessions.values()) await session.release();
  }
  return results;
}

/** ScatterND of 4 rows into 64 MiB, as a cache is written: the graph language has no in-place values, so ONNX by hand. */
function scatterModel(): Uint8Array {
  const shape = [ROWS, WIDTH];
  return encodeOnnx({
    inputs: [
      { name: 'past', dtype: 'f32', shape },
      { name: 'at', dtype: 'i64', shape: [4, 1] },
      { name: 'new', dtype: 'f32', shape: [4, WIDTH] },
    ],
    outputs: [{ name: 'present', dtype: 'f32', shape }],
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
}
const [ROWS, WIDTH] = [16384, 1024];

async function inPlace() {
  const model = scatterModel();
  const options = { graphOptimizationLevel: 'disabled', intraOpNumThreads: 1, interOpNumThreads: 1 } as const;
  const node = (await NodeSession.create(model, options)).bind();
  const native = new NativeSession(model, { options });
  const [apart, same] = [native.bind(), native.bind()];
  const cache = () => f32(noise(ROWS * WIDTH), [ROWS, WIDTH]);
  const shared = cache();
  for (const run of [node, apart, same]) {
    run.input('past', run === same ? shared : cache());
    run.input('at', ints([5, 70, 900, 16000], [4, 1]));
    run.input('new', f32(new Float32Array(4 * WIDTH).fill(7), [4, WIDTH]));
    run.output('present', run === same ? shared : cache());
  }
  const times = await alternate({
    node: () => node.run(),
    nativeBound: () => apart.run(),
    nativeInPlace: () => same.run(),
  });
  const right = [5, 70, 900, 16000].every((row) => shared.data[row * WIDTH] === 7) && shared.data[WIDTH] !== 7;
  return { ...times, right };
}

/** In a process of its own: two sessions over the same weights, such as prefill and decode have. */
async function resident(kind: string): Promise<void> {
  const { graph, weights } = decoder('135M', 'int8');
  collectGarbage();
  const before = mebibytes();
  const prepacked = kind === 'shared' ? { prepacked: new PrepackedWeights() } : {};
  const binding = kind === 'node' ? 'node' : 'native';
  const sessions = [];
  const createMs: number[] = [];
  for (let i = 0; i < 2; i++) {
    const start = performance.now();
    sessions.push(await Session.create(graph, { initializers: weights, binding, ...prepacked }));
    createMs.push(Math.round(performance.now() - start));
  }
  const feeds = feedsOf(graph, new Map(Object.entries({ B: 1, S: 1, T: 128, N: 2, R: 1 })));
  for (const session of sessions) await session.run(feeds, ['logits']);
  collectGarbage();
  console.log(JSON.stringify({ weightsMiB: before, addedMiB: mebibytes() - before, createMs }));
}

const memory = () =>
  Object.fromEntries(['node', 'native', 'shared'].map((kind) => [kind, inProcess([], ['--child', kind])]));

/** @returns the last line that this file prints in a process of its own, parsed */
function inProcess(nodeFlags: readonly string[], args: readonly string[]): unknown {
  const argv = [...nodeFlags, '--import', 'tsx', fileURLToPath(import.meta.url), ...args];
  const text = execFileSync(process.execPath, argv, { encoding: 'utf8' });
  return JSON.parse(text.trim().split('\n').at(-1) ?? '');
}

/** In a process whose young generation cannot grow: its size would be taken for a leak. */
const leak = () => inProcess(['--max-semi-space-size=2'], ['--child', 'leak', '--runs', flags.runs]);

async function leakRuns(): Promise<void> {
  const graph = additions(8);
  const feeds = feedsOf(graph, new Map([['N', 4096]]));
  const runs = Number(flags.runs);
  const series: number[] = [];
  const session = await Session.create(graph, { binding: 'native' });
  let bound = await bindAll(session, feeds);
  for (let i = 0; i < runs; i++) {
    await bound.run();
    if (i % 10 === 0) bound.input('x0', { ...feeds.x0!, data: feeds.x0!.data.slice() });
    if (i % 100 === 0) {
      // Everything that holds native memory, made anew: bindings, results of the run, sessions, and errors.
      bound.release();
      bound = await bindAll(session, feeds);
      const other = await Session.create(graph, { binding: 'native' });
      await other.run(feeds);
      await other.release();
      const wrong = session.bind();
      for (const [name, tensor] of Object.entries(feeds)) wrong.input(name, tensor);
      wrong.output('y0');
      await wrong.run();
      wrong.read('y0');
      wrong.release();
    }
    if (i % (runs / 10) === 0) {
      collectGarbage();
      series.push(mebibytes());
    }
    if (i % 1000 === 0) await new Promise((resolve) => setImmediate(resolve)); // finalizers
  }
  collectGarbage();
  console.log(JSON.stringify({ runs, sessions: runs / 100, residentMiB: [...series, mebibytes()] }));
}

if (flags.child === 'leak') await leakRuns();
else if (flags.child !== undefined) await resident(flags.child);
else {
  const all = { overhead, decode, inPlace, memory, leak };
  const results: Record<string, unknown> = {};
  for (const section of positionals.length === 0 ? SECTIONS : positionals) {
    const run = all[section as keyof typeof all];
    if (run === undefined) throw new Error(`no section ${section}; there are ${SECTIONS.join(', ')}`);
    results[section] = await run();
    console.log(section, results[section]);
  }
  console.log(JSON.stringify(results));
}
