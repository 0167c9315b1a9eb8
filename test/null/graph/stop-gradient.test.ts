import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mul, reduceSum, stopGradient } from '../../../gpu-backend/graph/builder.ts';
import { gradients } from '../../../gpu-backend/graph/grad.ts';
import { Graph } from '../../../gpu-backend/graph/graph.ts';
import { interpret } from '../../../gpu-backend/runtime/interpreter.ts';

test('what is behind stopGradient is a constant to the gradients', () => {
  const graph = new Graph();
  const x = graph.input('x', 'f32', [3]);
  // x · stop(x²): as a function of x it is x³, its gradient is taken as x².
  const loss = reduceSum(graph, mul(graph, x, stopGradient(graph, mul(graph, x, x))), [0]);
  graph.output('loss', loss);
  const [g] = gradients(graph, loss, [x]);
  assert.ok(g !== undefined);
  graph.output('g', g);
  const out = interpret(graph, { x: { shape: [3], data: Float64Array.of(1, -2, 3) } });
  assert.equal(out.loss?.data[0], 1 - 8 + 27);
  assert.deepEqual([...(out.g?.data ?? [])], [1, 4, 9]);
});

test('a value that reaches the loss only through it has no gradient, and that is said', () => {
  const graph = new Graph();
  const x = graph.input('x', 'f32', [3]);
  const loss = reduceSum(graph, stopGradient(graph, x), [0]);
  assert.throws(() => gradients(graph, loss, [x]), /does not influence the loss/);
});
