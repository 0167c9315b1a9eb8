import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mul, reduceSum } from '../../../gpu-backend/graph/builder.ts';
import { gradients } from '../../../gpu-backend/graph/grad.ts';
import { Graph } from '../../../gpu-backend/graph/graph.ts';
import type { NdArray } from '../../../gpu-backend/graph/nd.ts';
import { OPS } from '../../../gpu-backend/graph/ops/table.ts';
import { verify } from '../../../gpu-backend/graph/passes.ts';
import { differentiable, emitCase, OP_CASES, type OpCase } from '../../../gpu-backend/runtime/conformance-cases.ts';
import { randomOperand, randomSource } from '../../../gpu-backend/runtime/conformance-operands.ts';
import { interpret } from '../../../gpu-backend/runtime/interpreter.ts';

const STEP = 1e-5;
const TOLERANCE = 1e-7;

/** loss = Σ c ∘ op(x): a random direction c reaches every element of the Jacobian. */
function lossGraph(c: OpCase): Graph {
  const graph = new Graph();
  const inputs = c.inputs.map((s, i) => graph.input(`x${i}`, s.dtype, s.shape));
  const [y] = emitCase(graph, c, inputs);
  assert.ok(y !== undefined);
  const direction = graph.input('direction', 'f32', y.shape);
  const loss = reduceSum(
    graph,
    mul(graph, y, direction),
    y.shape.map((_, i) => i),
  );
  graph.output('loss', loss);
  const wrt = differentiable(c)
    .map((i) => inputs[i])
    .filter((v) => v !== undefined);
  if (wrt.length > 0) gradients(graph, loss, wrt).forEach((g, k) => graph.output(`g${k}`, g));
  verify(graph);
  return graph;
}

test('every op has a case', () => {
  const covered = new Set(OP_CASES.map((c) => c.op));
  assert.deepEqual(
    Object.keys(OPS).filter((op) => !covered.has(op as OpCase['op'])),
    [],
  );
});

for (const c of OP_CASES.filter(({ op }) => OPS[op].grad !== 'none')) {
  test(`gradient of ${c.op} ${c.name}`, () => {
    const random = randomSource(7);
    const graph = lossGraph(c);
    const feeds: Record<string, NdArray> = {};
    c.inputs.forEach((s, i) => {
      feeds[`x${i}`] = randomOperand(s, random);
    });
    const yShape = graph.inputs[graph.inputs.length - 1]?.value.shape ?? [];
    feeds.direction = randomOperand({ dtype: 'f32', shape: yShape }, random);
    const base = interpret(graph, feeds);
    differentiable(c).forEach((i, k) => {
      const x = feeds[`x${i}`];
      const g = base[`g${k}`];
      assert.ok(x !== undefined && g !== undefined);
      for (let e = 0; e < x.data.length; e++) {
        const kept = x.data[e] ?? 0;
        const lossAt = (v: number): number => {
          x.data[e] = v;
          return interpret(graph, feeds).loss?.data[0] ?? Number.NaN;
        };
        const numeric = (lossAt(kept + STEP) - lossAt(kept - STEP)) / (2 * STEP);
        x.data[e] = kept;
        const analytic = g.data[e] ?? Number.NaN;
        const error = Math.abs(numeric - analytic) / Math.max(1, Math.abs(numeric));
        assert.ok(
          error < TOLERANCE,
          `input ${i} element ${e}: finite difference ${numeric}, gradient rule ${analytic}`,
        );
      }
    });
  });
}
