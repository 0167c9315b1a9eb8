import assert from 'node:assert/strict';
import test from 'node:test';
import * as g from '../../../gpu-backend/graph/builder.ts';
import { STANDARD_CAPABILITIES } from '../../../gpu-backend/graph/capabilities.ts';
import { Graph } from '../../../gpu-backend/graph/graph.ts';
import { f32, Session, scalarTensor, type Tensor } from '../../../gpu-backend/runtime/session.ts';
import { ADAMW_DEFAULTS } from '../../../gpu-backend/train/adamw.ts';
import { appendAdamW } from '../../../gpu-backend/train/adamw-graph.ts';
import { ParameterState } from '../../../gpu-backend/train/state.ts';

const specs = [
  { name: 'w', shape: [5, 7] },
  { name: 'norm.weight', shape: [7] },
];
const noise = (length: number, seed: number): Float32Array =>
  Float32Array.from({ length }, (_, i) => Math.sin((i + 1) * 12.9898 + seed * 78.233));

for (const maxNorm of [0.5, 1e30]) {
  test(`the update in the graph equals the host's, max_norm ${maxNorm}`, async () => {
    const graph = new Graph();
    const targets = specs.map(({ name, shape }) => ({
      name,
      value: graph.input(name, 'f32', shape, 'param'),
      grad: g.scale(graph, graph.input(`g.${name}`, 'f32', shape), 1),
    }));
    appendAdamW(graph, targets);
    const session = await Session.create(graph, { capabilities: STANDARD_CAPABILITIES });
    const state = new ParameterState(specs);
    const feeds: Record<string, Tensor> = { max_norm: scalarTensor(maxNorm) };
    for (const [k, p] of state.parameters.entries()) {
      p.value.set(noise(p.value.length, k));
      feeds[p.name] = f32(p.value.slice(), p.shape);
      feeds[`first.${p.name}`] = f32(new Float32Array(p.value.length), p.shape);
      feeds[`second.${p.name}`] = f32(new Float32Array(p.value.length), p.shape);
    }
    for (let step = 1; step <= 8; step++) {
      feeds.learning_rate = scalarTensor(1e-2 / step);
      feeds.correction1 = scalarTensor(1 / (1 - ADAMW_DEFAULTS.beta1 ** step));
      feeds.correction2 = scalarTensor(1 / Math.sqrt(1 - ADAMW_DEFAULTS.beta2 ** step));
      for (const [k, p] of state.parameters.entries()) {
        p.grad.set(noise(p.value.length, 10 * step + k));
        feeds[`g.${p.name}`] = f32(p.grad.slice(), p.shape);
      }
      const results = await session.run(feeds);
      const { norm } = state.update(1e-2 / step, { maxNorm });
      assert.ok(Math.abs(Number(results.grad_norm?.data[0]) - norm) < 1e-5 * norm);
      for (const p of state.parameters) {
        for (const [kind, key] of [
          ['new', p.name],
          ['new_first', `first.${p.name}`],
          ['new_second', `second.${p.name}`],
        ] as const)
          feeds[key] = results[`${kind}.${p.name}`] as Tensor;
        const value = feeds[p.name]?.data as Float32Array;
        for (let i = 0; i < value.length; i++)
          assert.ok(Math.abs((value[i] as number) - (p.value[i] as number)) < 2e-6, `${p.name}[${i}] at step ${step}`);
      }
    }
  });
}
