import * as g from '../../graph/builder.ts';
import { CPU_CAPABILITIES } from '../../graph/capabilities.ts';
import { symbol } from '../../graph/dim.ts';
import { Graph } from '../../graph/graph.ts';
import { lowerGraph } from '../../graph/lowering.ts';
import { encodeOnnx } from '../onnx-encode.ts';
import type { Tensor } from '../session.ts';
import { NativeSession } from './native-session.ts';

const floats = (values: readonly number[], shape: readonly number[]): Tensor => ({
  dtype: 'f32',
  shape,
  data: Float32Array.from(values),
});

/**
 * Proves on a small model that the C API does here what this folder takes it to do: a weight in our memory, outputs in place
 * and made by the run, an error that comes back as one. Takes a few milliseconds.
 * @throws Error that says what went wrong
 */
export function testNativeBinding(): void {
  const graph = new Graph();
  const x_NK = graph.input('x', 'f32', [symbol('N'), 2]);
  const w_MK = graph.input('w', 'f32', [3, 2], 'param');
  const y_NM = g.linear(graph, x_NK, w_MK);
  graph.output('y', y_NM);
  graph.output('rows', g.gather(graph, y_NM, graph.input('at', 'i64', [symbol('R')])));
  const places = new Map([['w', { location: 'w', offsetBytes: 0, lengthBytes: 24 }]]);
  const model = encodeOnnx(lowerGraph(graph, CPU_CAPABILITIES, graph.nodes, { places }));
  const session = new NativeSession(model, {
    options: { graphOptimizationLevel: 'basic', intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 4 },
    initializers: new Map([['w', floats([1, 0, 0, 1, 1, 1], [3, 2])]]),
  });
  try {
    const run = session.bind();
    const x = floats([1, 2, 3, 4], [2, 2]);
    const y = floats([0, 0, 0, 0, 0, 0], [2, 3]);
    run.input('x', x);
    run.input('at', { dtype: 'i64', shape: [1], data: BigInt64Array.of(1n) });
    run.output('y', y);
    run.output('rows');
    run.run();
    expect('an output in place', y, '2,3:1,2,3,3,4,7');
    expect('an output of the run', run.read('rows'), '1,3:3,4,7');
    x.data[3] = 5;
    run.input('at', { dtype: 'i64', shape: [2], data: BigInt64Array.of(1n, 0n) });
    run.run();
    expect('an output of another shape', run.read('rows'), '2,3:3,5,8,1,2,3');
    run.output('y', floats([0, 0, 0], [1, 3]));
    let message: string | undefined;
    try {
      run.run();
    } catch (error) {
      message = (error as Error).message;
    }
    if (message === undefined) throw new Error('an output of the wrong shape was not refused');
  } finally {
    void session.release();
  }
}

function expect(what: string, { shape, data }: Tensor, wanted: string): void {
  const got = `${shape}:${[...data]}`;
  if (got !== wanted) throw new Error(`${what}: expected ${wanted}, got ${got}`);
}
