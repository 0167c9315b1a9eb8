import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mul, reduceSum } from '../../../gpu-backend/graph/builder.ts';
import { CPU_CAPABILITIES, STANDARD_CAPABILITIES } from '../../../gpu-backend/graph/capabilities.ts';
import { gradients } from '../../../gpu-backend/graph/grad.ts';
import { Graph, type Value } from '../../../gpu-backend/graph/graph.ts';
import type { NdArray } from '../../../gpu-backend/graph/nd.ts';
import { OPS } from '../../../gpu-backend/graph/ops/table.ts';
import { differentiable, emitCase, OP_CASES, type OpCase } from '../../../gpu-backend/runtime/conformance-cases.ts';
import { randomOperand, randomSource } from '../../../gpu-backend/runtime/conformance-operands.ts';
import { interpret } from '../../../gpu-backend/runtime/interpreter.ts';
import { Session, type Tensor } from '../../../gpu-backend/runtime/session.ts';

const TOLERANCE = 2e-6;

function toTensor(value: Value, x: NdArray): Tensor {
  const { dtype } = value;
  if (dtype === 'i64') return { dtype, shape: x.shape, data: BigInt64Array.from(x.data, BigInt) };
  if (dtype === 'bool' || dtype === 'u8') return { dtype, shape: x.shape, data: Uint8Array.from(x.data) };
  if (dtype === 'i8') return { dtype, shape: x.shape, data: Int8Array.from(x.data) };
  return { dtype: 'f32', shape: x.shape, data: Float32Array.from(x.data) };
}

/** Forward outputs and, where there is one, every gradient of Σ direction ∘ op(x). */
function parityGraph(c: OpCase): Graph {
  const graph = new Graph();
  const inputs = c.inputs.map((s, i) => graph.input(`x${i}`, s.dtype, s.shape));
  const outputs = emitCase(graph, c, inputs);
  outputs.forEach((y, i) => graph.output(`y${i}`, y));
  const [y] = outputs;
  const wrt = differentiable(c)
    .map((i) => inputs[i])
    .filter((v) => v !== undefined);
  if (y === undefined || wrt.length === 0 || OPS[c.op].grad === 'none') return graph;
  const direction = graph.input('direction', 'f32', y.shape);
  const loss = reduceSum(
    graph,
    mul(graph, y, direction),
    y.shape.map((_, i) => i),
  );
  gradients(graph, loss, wrt).forEach((g, k) => graph.output(`g${k}`, g));
  return graph;
}

for (const capabilities of [CPU_CAPABILITIES, STANDARD_CAPABILITIES]) {
  for (const c of OP_CASES) {
    test(`${c.op} ${c.name}: ONNX Runtime (${capabilities.device} lowering) = interpreter`, async () => {
      const random = randomSource(11);
      const graph = parityGraph(c);
      const feeds: Record<string, NdArray> = {};
      c.inputs.forEach((s, i) => {
        feeds[`x${i}`] = randomOperand(s, random);
      });
      const direction = graph.inputs.find((i) => i.name === 'direction');
      if (direction !== undefined)
        feeds.direction = randomOperand({ dtype: 'f32', shape: direction.value.shape }, random);
      const want = interpret(graph, feeds);
      const session = await Session.create(graph, { capabilities });
      const got = await session.run(
        Object.fromEntries(graph.inputs.map((i) => [i.name, toTensor(i.value, feeds[i.name] as NdArray)])),
      );
      await session.release();
      for (const { name } of graph.outputs) {
        const [w, g] = [want[name], got[name]];
        assert.ok(w !== undefined && g !== undefined);
        assert.deepEqual([...g.shape], [...w.shape], `shape of ${name}`);
        w.data.forEach((v, i) => {
          const error = Math.abs(Number(g.data[i]) - v) / Math.max(1, Math.abs(v));
          assert.ok(error < TOLERANCE, `${name}[${i}]: interpreter ${v}, ONNX Runtime ${g.data[i]}`);
        });
      }
    });
  }
}
