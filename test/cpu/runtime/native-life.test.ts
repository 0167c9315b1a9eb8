/** What outlives what: threads, processes, collected objects, memory over many runs. Each case runs in a process of its own. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';

const from = (path: string): string => JSON.stringify(new URL(`../../../gpu-backend/${path}`, import.meta.url).href);

const PRELUDE = `
const { Worker, parentPort } = await import('node:worker_threads');
const g = await import(${from('graph/builder.ts')});
const { symbol } = await import(${from('graph/dim.ts')});
const { Graph } = await import(${from('graph/graph.ts')});
const { f32, Session } = await import(${from('runtime/session.ts')});
const { collectGarbage } = await import(${from('runtime/garbage.ts')});
const { setImmediate: turn } = await import('node:timers/promises');
/** x [N, 256] times the same weight [256, 256] as often as \`layers\`. */
const model = (layers = 1) => {
  const graph = new Graph();
  let x = graph.input('x', 'f32', [symbol('N'), 256]);
  const w = graph.input('w', 'f32', [256, 256], 'param');
  for (let i = 0; i < layers; i++) x = g.linear(graph, x, w);
  graph.output('y', x);
  return graph;
};
const identity = (memory) => {
  const w = new Float32Array(memory);
  for (let i = 0; i < 256; i++) w[257 * i] = 1;
  return f32(w, [256, 256]);
};
const open = (memory = new ArrayBuffer(262144), layers = 1) =>
  Session.create(model(layers), { binding: 'native', initializers: new Map([['w', identity(memory)]]) });
const x = (rows = 4) => f32(new Float32Array(256 * rows).fill(3), [rows, 256]);
const room = (rows = 4) => f32(new Float32Array(256 * rows), [rows, 256]);
const bind = (session, rows = 4) => {
  const run = session.bind();
  run.input('x', x(rows));
  run.output('y', room(rows));
  return run;
};
const mebibytes = () => process.memoryUsage().rss / 2 ** 20;
`;

/** Runs a module in a process of its own; @returns what it printed. Fails when it crashed, or took a minute. */
function child(body: string): string {
  const source = `${PRELUDE}\n${body}`;
  const { status, signal, stdout, stderr } = spawnSync(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '--eval', source],
    { encoding: 'utf8', timeout: 60_000, cwd: new URL('../../..', import.meta.url) },
  );
  assert.equal(signal, null, stderr);
  assert.equal(status, 0, stderr);
  return stdout.trim();
}

/** `thread(body, data)`: a worker that runs a body after the prelude. */
const THREADS = `
const tsx = ${JSON.stringify(import.meta.resolve('tsx/esm/api'))};
const prelude = ${JSON.stringify(PRELUDE)};
const thread = (body, data) => new Worker(
  '(async () => { const { workerData } = require("node:worker_threads"); (await import("' + tsx + '")).register();' +
    prelude + body + '})()',
  { eval: true, workerData: data, execArgv: [] },
);
const message = (worker) => new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
`;

test('a process ends well with sessions that nobody released', () => {
  assert.equal(child(`const run = bind(await open()); run.run(); console.log('done');`), 'done');
});

test('a process may exit while a run is under way on another thread', () => {
  child(`const run = bind(await open(undefined, 40), 512); run.runAsync(); process.exit(0);`);
  child(`const run = bind(await open(undefined, 40), 512); run.runAsync();`);
});

test('runs beside the calling thread leave it free, and what they use cannot be released', () => {
  const printed = child(`
    const session = await open(undefined, 40);
    const [a, b] = [bind(session, 512), bind(session, 512)];
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    const both = [a.runAsync(), b.runAsync()];
    const refused = [];
    for (const attempt of [() => a.input('x', x(512)), () => a.run(), () => a.release()])
      try { attempt(); } catch (error) { refused.push(error.message.includes('under way')); }
    await session.release().catch((error) => refused.push(error.message.includes('under way')));
    await Promise.all(both);
    clearInterval(timer);
    console.log(JSON.stringify({ refused, right: b.read('y').data[99] === 3, turned: turns > 0 }));
    await session.release();
  `);
  assert.deepEqual(JSON.parse(printed), { refused: [true, true, true, true], right: true, turned: true });
});

test('threads run their own sessions over one copy of the weights, and may be terminated', () => {
  const printed = child(`${THREADS}
    const memory = new SharedArrayBuffer(262144);
    identity(memory);
    const body = \`
      const session = await Session.create(model(), { binding: 'native', initializers: new Map([['w', f32(new Float32Array(workerData), [256, 256])]]) });
      const run = bind(session);
      run.run();
      parentPort.postMessage(run.read('y').data[7]);
      for (;;) { run.run(); await turn(); }
    \`;
    const threads = [thread(body, memory), thread(body, memory)];
    const answers = await Promise.all(threads.map(message));
    await Promise.all(threads.map((t) => t.terminate()));
    const again = bind(await open(memory));
    again.run();
    console.log(JSON.stringify([...answers, again.read('y').data[7]]));
  `);
  assert.deepEqual(JSON.parse(printed), [3, 3, 3]);
});

test('sessions and runs that are dropped are collected', () => {
  const printed = child(`
    const series = [];
    for (let i = 0; i <= 300; i++) {
      const run = bind(await open(new ArrayBuffer(262144)), 64);
      run.run();
      if (i % 10 === 0) { collectGarbage(); await turn(); await turn(); }
      if (i % 100 === 0) series.push(mebibytes());
    }
    console.log(JSON.stringify(series));
  `);
  const series = JSON.parse(printed) as number[];
  // Each holds over half a MiB outside of the heap.
  assert.ok((series.at(-1) ?? 0) - (series[1] ?? 0) < 25, `resident MiB: ${printed}`);
});

test('memory stays flat over runs, bindings, errors and sessions', () => {
  const printed = child(`
    const session = await open();
    let run = bind(session);
    const wrong = session.bind();
    wrong.input('x', x(4));
    wrong.output('y', room(4));
    const series = [];
    for (let i = 0; i <= 20_000; i++) {
      run.run();
      if (i % 20 === 0) { run.input('x', x()); run.output('y', room()); }
      if (i % 100 === 0) {
        run.release();
        run = bind(session);
        await session.run({ x: x() });
        try { wrong.input('x', { ...x(), shape: [2, 512] }); } catch {}
        const other = await open();
        await other.release();
      }
      if (i % 4000 === 0) { collectGarbage(); await turn(); series.push(mebibytes()); }
    }
    console.log(JSON.stringify(series));
  `);
  const series = JSON.parse(printed) as number[];
  assert.ok((series.at(-1) ?? 0) - (series[1] ?? 0) < 15, `resident MiB: ${printed}`);
});

test('no sequence of calls and mistakes ends the process', () => {
  const printed = child(`
    let seed = 7;
    const random = (below) => { seed = (seed * 1103515245 + 12345) % 2147483648; return Math.floor((seed / 2147483648) * below); };
    const pick = (list) => list[random(list.length)];
    const graph = () => {
      const graph = new Graph();
      const a = graph.input('a', 'f32', [symbol('N'), 4]);
      const b = graph.input('b', 'f32', [symbol('N'), 4]);
      const at = graph.input('at', 'i64', [symbol('R')]);
      graph.output('sum', g.add(graph, a, b));
      graph.output('rows', g.gather(graph, a, at));
      return graph;
    };
    const shape = () => pick([[2, 4], [3, 4], [0, 4], [4], [2, 3], [2, 4, 1], [], [-1, 4], [1e9, 4], [2]]);
    const tensor = () => {
      const sizes = shape();
      const count = Math.max(0, pick([sizes.reduce((x, y) => x * y, 1), random(12)]));
      if (count > 1000) return { dtype: 'f32', shape: sizes, data: new Float32Array(8) };
      const dtype = pick(['f32', 'f32', 'f32', 'i64']);
      const data = dtype === 'f32' ? new Float32Array(count).fill(2) : new BigInt64Array(count).fill(BigInt(random(9) - 3));
      if (random(400) === 0 && data.byteLength > 0) return { dtype, shape: sizes, data: structuredClone(data, { transfer: [data.buffer] }) && data };
      return { dtype, shape: sizes, data };
    };
    const name = () => pick(['a', 'b', 'at', 'sum', 'rows', 'z']);
    const feeds = (run) => { run.input('a', f32(new Float32Array(8), [2, 4])); run.input('b', f32(new Float32Array(8), [2, 4])); run.input('at', { dtype: 'i64', shape: [1], data: new BigInt64Array(1) }); run.output('sum'); };
    let session, run;
    const renew = async () => { session = await Session.create(graph(), { binding: 'native' }); run = session.bind(); };
    await renew();
    let [done, refused] = [0, 0];
    const calls = [
      () => run.input(name(), tensor()), () => run.input(name(), tensor()), () => run.output(name(), tensor()),
      () => run.output(name()), () => run.output(name(), 'device'), () => run.run(), () => run.run(), () => run.read(name()),
      () => run.shapeOf(name()), () => run.feedBack(name(), name()), () => feeds(run), () => run.runAsync(),
    ];
    for (let i = 0; i < 20000; i++) {
      if (random(300) === 0) pick([() => run.release(), () => session.release(), () => { session = run = null; }])();
      if (random(300) === 0 || run === null) await renew();
      try { await pick(calls)(); done++; } catch (error) { if (!(error instanceof Error)) throw error; refused++; }
    }
    console.log(JSON.stringify({ done, refused }));
  `);
  const { done, refused } = JSON.parse(printed.split('\n').at(-1) ?? '') as { done: number; refused: number };
  assert.ok(done > 1000 && refused > 1000, printed);
});

test('where the library cannot be called, sessions take the other binding and say why, once', () => {
  const printed = child(`
    process.on('warning', (warning) => console.log(warning.message));
    Object.defineProperty(process, 'platform', { value: 'plan9' });
    const sessions = [await Session.create(model()), await Session.create(model())];
    console.log(sessions.map(({ binding }) => binding).join());
    await Session.create(model(), { binding: 'native' }).catch((error) => console.log(error.message));
    await turn();
  `);
  assert.deepEqual(
    printed.split('\n').map((line) => line.slice(0, 64)),
    [
      "sessions copy their outputs (onnxruntime-node's binding), because",
      'node,node',
      "ONNX Runtime's C API cannot be called here: onnxruntime-node has no library for plan9",
    ].map((line) => line.slice(0, 64)),
  );
});
