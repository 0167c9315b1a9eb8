import assert from 'node:assert/strict';
import { test } from 'node:test';
import { add, crossEntropy, gelu, linear, mul, reduceSum, rmsNorm } from '../../../gpu-backend/graph/builder.ts';
import { evaluateDim, symbol } from '../../../gpu-backend/graph/dim.ts';
import { gradients } from '../../../gpu-backend/graph/grad.ts';
import { Graph } from '../../../gpu-backend/graph/graph.ts';
import { liveNodes, orderForRelease, peakLiveBytes, printGraph, verify } from '../../../gpu-backend/graph/passes.ts';
import { randomOperand, randomSource } from '../../../gpu-backend/runtime/conformance-operands.ts';
import { interpret } from '../../../gpu-backend/runtime/interpreter.ts';

const LAYERS = 6;
const WIDTH = 4;

/** Residual MLP tower with a loss; `checkpointed` recomputes every layer in the backward pass. */
function tower(checkpointed: boolean): Graph {
  const graph = new Graph();
  const S = symbol('S');
  let x = graph.input('x', 'f32', [S, WIDTH]);
  const zero = graph.input('zero', 'f32', []);
  const params = Array.from({ length: LAYERS }, (_, i) => ({
    norm: graph.input(`norm${i}`, 'f32', [WIDTH], 'param'),
    up: graph.input(`up${i}`, 'f32', [8, WIDTH], 'param'),
    down: graph.input(`down${i}`, 'f32', [WIDTH, 8], 'param'),
  }));
  params.forEach((p, i) => {
    const body = () =>
      graph.scope(`layer${i}`, () =>
        add(graph, x, linear(graph, gelu(graph, linear(graph, rmsNorm(graph, x, p.norm, 1e-5), p.up), 'erf'), p.down)),
      );
    x = checkpointed ? graph.checkpoint([x], body) : body();
  });
  const targets = graph.input('targets', 'i64', [S]);
  const weights = graph.input('weights', 'f32', [S]);
  const loss = crossEntropy(graph, x, targets, weights);
  graph.output('loss', loss);
  const wrt = params.flatMap((p) => [p.norm, p.up, p.down]);
  gradients(graph, loss, wrt, zero).forEach((g, i) => graph.output(`g${i}`, g));
  verify(graph);
  return graph;
}

function run(graph: Graph): ReturnType<typeof interpret> {
  const random = randomSource(3);
  const feeds = Object.fromEntries(
    graph.inputs.map((i) => {
      const values = i.value.dtype === 'i64' ? ({ below: WIDTH } as const) : ('real' as const);
      const operand = randomOperand({ dtype: i.value.dtype, shape: i.value.shape, values }, random);
      if (i.name === 'zero') operand.data.fill(0);
      return [i.name, operand];
    }),
  );
  return interpret(graph, feeds);
}

test('recomputed layers give the same loss and gradients', () => {
  const plain = run(tower(false));
  const recomputed = run(tower(true));
  assert.deepEqual(Object.keys(recomputed), Object.keys(plain));
  for (const [name, x] of Object.entries(plain)) {
    x.data.forEach((v, i) => {
      assert.ok(Math.abs(v - (recomputed[name]?.data[i] ?? Number.NaN)) < 1e-12, `${name}[${i}]`);
    });
  }
});

test('recomputation lowers the simulated peak of live activations', () => {
  const bytes = (graph: Graph): number => {
    const sizes = new Map([['S', 64]]);
    const nodes = liveNodes(graph);
    return peakLiveBytes(graph, nodes, (v) => 4 * v.shape.reduce<number>((n, d) => n * evaluateDim(d, sizes), 1));
  };
  const [plain, recomputed] = [bytes(tower(false)), bytes(tower(true))];
  assert.ok(recomputed < 0.5 * plain, `${recomputed} of ${plain} bytes`);
});

test('leaves are emitted last and in reverse order', () => {
  const graph = tower(false);
  const ordered = orderForRelease(liveNodes(graph));
  verify(graph, ordered);
  const consumed = new Set(ordered.flatMap((n) => n.inputs.map((v) => v.id)));
  const firstLeaf = ordered.findIndex((n) => !n.outputs.some((o) => consumed.has(o.id)));
  assert.ok(ordered.slice(firstLeaf).every((n) => !n.outputs.some((o) => consumed.has(o.id))));
});

test('verify names the node that breaks an invariant', () => {
  const graph = new Graph();
  const x = graph.input('x', 'f32', [2]);
  const y = graph.scope('block', () => mul(graph, x, x));
  graph.output('y', y);
  assert.throws(() => verify(graph, []), /output "y" is not computed/);
  const [node] = graph.nodes;
  assert.ok(node !== undefined);
  assert.throws(() => verify(graph, [node, node]), /assigned twice \(mul at block\)/);
  const orphan = new Graph();
  orphan.output('z', orphan.emit('fill', [], { shape: [symbol('Q')], value: 0 })[0] ?? x);
  assert.throws(() => verify(orphan), /needs symbol "Q"/);
});

test('shape rules refuse with expectation and received shapes', () => {
  const graph = new Graph();
  const a = graph.input('a', 'f32', [2, 3]);
  const b = graph.input('b', 'f32', [4, 5]);
  assert.throws(
    () => graph.scope('mlp', () => linear(graph, a, b)),
    /gemm at mlp: inner axes of \[2, 3\] and \[4, 5\]: 3 and 5 differ/,
  );
  assert.throws(() => add(graph, a, b), /cannot broadcast \[2, 3\] with \[4, 5\]/);
  assert.throws(() => gradients(graph, a, [b]), /needs a scalar loss/);
  assert.throws(() => gradients(graph, reduceSum(graph, a, [0, 1]), [b]), /does not influence the loss/);
});

test('a graph prints one line a node', () => {
  const graph = new Graph();
  const x = graph.input('x', 'f32', [symbol('B'), 4]);
  const w = graph.input('w', 'f32', [3, 4], 'param');
  graph.output(
    'y',
    graph.scope('head', () => linear(graph, x, w)),
  );
  assert.equal(
    printGraph(graph),
    'data x: f32[B, 4]\nparam w: f32[3, 4]\n%2: f32[B, 3] = gemm(x, w, transA=false, transB=true, alpha=1, beta=1)  # head\nreturn y = %2',
  );
});
