import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as g from '../../../gpu-backend/graph/builder.ts';
import { CPU_CAPABILITIES, STANDARD_CAPABILITIES } from '../../../gpu-backend/graph/capabilities.ts';
import { symbol } from '../../../gpu-backend/graph/dim.ts';
import { fuseNodes } from '../../../gpu-backend/graph/fuse.ts';
import { gradients } from '../../../gpu-backend/graph/grad.ts';
import { Graph, type Value } from '../../../gpu-backend/graph/graph.ts';
import { lowerGraph } from '../../../gpu-backend/graph/lowering.ts';
import { verify } from '../../../gpu-backend/graph/passes.ts';

const N = symbol('N');

/** norm(a + b) and what else is asked of it. */
function sumAndNorm(more: (graph: Graph, sum: Value, norm: Value) => void = () => {}): Graph {
  const graph = new Graph();
  const [a, b] = [graph.input('a', 'f32', [N, 8]), graph.input('b', 'f32', [N, 8])];
  const sum = g.add(graph, a, b);
  const norm = g.rmsNorm(graph, sum, graph.input('weight', 'f32', [8], 'param'), 1e-5);
  graph.output('norm', norm);
  more(graph, sum, norm);
  return graph;
}

const opsOf = (graph: Graph): string[] => fuseNodes(graph, graph.nodes).map(({ op }) => op);

test('a sum and the norm that reads it become one node, wherever else the sum is read', () => {
  assert.deepEqual(opsOf(sumAndNorm()), ['addRmsNorm']);
  const graph = sumAndNorm((graph, sum) => graph.output('scaled', g.scale(graph, sum, 2)));
  const fused = fuseNodes(graph, graph.nodes);
  assert.deepEqual(
    fused.map(({ op }) => op),
    ['addRmsNorm', 'mul'],
  );
  verify(graph, fused);
});

test('not where a gradient reads what the kernel does not give', () => {
  const graph = sumAndNorm((graph, sum, norm) => {
    const [dSum] = gradients(graph, g.reduceSum(graph, norm, [0, 1]), [sum]);
    graph.output('gradient', dSum as Value);
  });
  assert.ok(!opsOf(graph).includes('addRmsNorm'));
});

test('not where a sum spreads one of its operands, nor over a weight that is made later', () => {
  const graph = new Graph();
  const x = graph.input('x', 'f32', [N, 8]);
  const spread = g.add(graph, x, graph.input('row', 'f32', [8]));
  graph.output('y', g.rmsNorm(graph, spread, graph.input('weight', 'f32', [8], 'param'), 1e-5));
  const sum = g.add(graph, x, x);
  const weight = g.scale(graph, graph.input('half', 'f32', [8], 'param'), 2);
  graph.output('z', g.rmsNorm(graph, sum, weight, 1e-5));
  assert.deepEqual(opsOf(graph), ['add', 'rmsNorm', 'add', 'mul', 'rmsNorm']);
});

test('a gate whose sigmoid nothing reads is one node', () => {
  const graph = new Graph();
  graph.output('y', g.silu(graph, graph.input('x', 'f32', [N, 8])));
  const lowered = (capabilities: typeof CPU_CAPABILITIES): string[] =>
    lowerGraph(graph, capabilities).nodes.map(({ opType }) => opType);
  assert.deepEqual(lowered(CPU_CAPABILITIES), ['QuickGelu']);
  assert.deepEqual(lowered(STANDARD_CAPABILITIES), ['Sigmoid', 'Mul']);
});
