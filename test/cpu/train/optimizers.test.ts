import assert from 'node:assert/strict';
import test from 'node:test';
import * as g from '../../../gpu-backend/graph/builder.ts';
import { STANDARD_CAPABILITIES } from '../../../gpu-backend/graph/capabilities.ts';
import { Graph } from '../../../gpu-backend/graph/graph.ts';
import { f32, Session, scalarTensor, type Tensor } from '../../../gpu-backend/runtime/session.ts';
import { ADAMW_DEFAULTS } from '../../../gpu-backend/train/adamw.ts';
import { appendAdamW } from '../../../gpu-backend/train/adamw-graph.ts';
import { isMuonTensor, MuonState } from '../../../gpu-backend/train/muon.ts';
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

/** [rows, columns] times itself transposed: its eigenvalues are the squares of the singular values. */
const gram = (x: readonly number[], rows: number, columns: number): number[] =>
  Array.from({ length: rows * rows }, (_, at) => {
    const [i, j] = [Math.floor(at / rows), at % rows];
    let sum = 0;
    for (let k = 0; k < columns; k++) sum += (x[i * columns + k] as number) * (x[j * columns + k] as number);
    return sum;
  });

const times = (a: readonly number[], b: readonly number[], n: number, m: number): number[] =>
  Array.from({ length: n * m }, (_, at) => {
    const [i, j] = [Math.floor(at / m), at % m];
    let sum = 0;
    for (let k = 0; k < n; k++) sum += (a[i * n + k] as number) * (b[k * m + j] as number);
    return sum;
  });

/** Five Newton-Schulz steps as in the published code, in double precision, for no more rows than columns. */
function orthogonalised(gradient: readonly number[], rows: number, columns: number): number[] {
  const norm = Math.hypot(...gradient);
  let x = gradient.map((v) => v / norm);
  for (let step = 0; step < 5; step++) {
    const square = gram(x, rows, columns);
    const fourth = times(square, square, rows, rows);
    const polynomial = square.map((v, i) => -4.775 * v + 2.0315 * (fourth[i] as number));
    const turned = times(polynomial, x, rows, columns);
    x = x.map((v, i) => 3.4445 * v + (turned[i] as number));
  }
  return x;
}

test('Muon orthogonalises the momentum of hidden matrices and leaves the rest to AdamW', async () => {
  const hidden = [
    { name: 'model.layers.0.self_attn.q_proj.weight', shape: [6, 9] },
    { name: 'model.layers.1.self_attn.q_proj.weight', shape: [6, 9] },
    { name: 'model.layers.0.mlp.up_proj.weight', shape: [9, 6] },
  ];
  const others = [
    { name: 'model.embed_tokens.weight', shape: [8, 6] },
    { name: 'model.layers.0.input_layernorm.weight', shape: [6] },
  ];
  assert.deepEqual([...hidden, ...others].map(isMuonTensor), [true, true, true, false, false]);
  const state = await MuonState.create([...hidden, ...others], 1);
  const plain = new ParameterState(others);
  const options = { adamw: { weightDecay: 0.1 } };
  for (const [k, p] of state.parameters.entries()) p.value.set(noise(p.value.length, k));
  for (const p of plain.parameters) p.value.set(state.get(p.name).value);
  const moments = new Map<string, number[]>();
  for (const rate of [1e-2, 4e-3]) {
    const before = new Map(state.parameters.map((p) => [p.name, [...p.value]]));
    for (const [k, p] of state.parameters.entries()) p.grad.set(noise(p.value.length, k + 100 * rate));
    for (const p of plain.parameters) p.grad.set(state.get(p.name).grad);
    assert.throws(() => state.update(rate, options), /were not prepared/);
    await state.prepare(Number.POSITIVE_INFINITY);
    assert.ok(state.update(rate, options).applied);
    plain.update(rate, options);
    for (const p of plain.parameters) assert.deepEqual(state.get(p.name).value, p.value, p.name);
    for (const { name, shape } of hidden) {
      const [rows = 0, columns = 0] = shape;
      const { value, grad } = state.get(name);
      const moment = [...grad].map((v, i) => 0.95 * (moments.get(name)?.[i] ?? 0) + 0.05 * v);
      moments.set(name, moment);
      const ahead = moment.map((v, i) => 0.95 * v + 0.05 * (grad[i] as number));
      // The longer side last: a tall matrix is turned, and its result is turned back.
      const isTall = rows > columns;
      const turn = (x: readonly number[], width: number): number[] =>
        x.map((_, at) => x[(at % (x.length / width)) * width + Math.floor(at / (x.length / width))] as number);
      const made = isTall
        ? turn(orthogonalised(turn(ahead, columns), columns, rows), rows)
        : orthogonalised(ahead, rows, columns);
      const reach = 0.2 * Math.sqrt(Math.max(rows, columns));
      for (let i = 0; i < value.length; i++) {
        const expected = (before.get(name)?.[i] as number) * (1 - rate * 0.1) - rate * reach * (made[i] as number);
        assert.ok(Math.abs((value[i] as number) - expected) < 1e-5, `${name}[${i}]: ${value[i]}, expected ${expected}`);
      }
    }
  }
  state.get('model.embed_tokens.weight').grad[0] = Number.NaN;
  const held = [...state.get('model.layers.0.mlp.up_proj.weight').value];
  await state.prepare(Number.POSITIVE_INFINITY);
  assert.equal(state.update(1, options).applied, false);
  assert.deepEqual([...state.get('model.layers.0.mlp.up_proj.weight').value], held);
});
