import assert from 'node:assert/strict';
import test from 'node:test';
import {
  ADAMW_DEFAULTS,
  adamwScalars,
  clipScale,
  decaysUnder,
  referenceKernels,
} from '../../../gpu-backend/train/adamw.ts';
import { ParameterState } from '../../../gpu-backend/train/state.ts';

/** Deterministic values in (-1, 1). */
function noise(length: number, seed: number): Float32Array {
  return Float32Array.from({ length }, (_, i) => Math.sin((i + 1) * 12.9898 + seed * 78.233));
}

test('the reference update is the AdamW formula', () => {
  const [p, g, m, v] = [[0.5], [0.2], [0.1], [0.04]].map((x) => Float32Array.from(x)) as [
    Float32Array,
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  const [lr, step, scale] = [1e-2, 3, 0.5];
  referenceKernels.adamw(p, g, m, v, adamwScalars(ADAMW_DEFAULTS, step, lr, scale, true));
  const grad = Math.fround(0.2) * scale;
  const first = 0.9 * Math.fround(0.1) + 0.1 * grad;
  const second = 0.999 * Math.fround(0.04) + 0.001 * grad ** 2;
  const expected =
    0.5 * (1 - lr * 0.01) -
    (lr * (first / (1 - 0.9 ** step))) / (Math.sqrt(second / (1 - 0.999 ** step)) + ADAMW_DEFAULTS.epsilon);
  assert.ok(Math.abs((p[0] as number) - expected) < 1e-7);
});

test('SIMD kernels agree with the reference on lengths of every remainder', () => {
  for (const length of [1, 2, 3, 4, 5, 17, 1024, 4099]) {
    const state = new ParameterState(
      [
        { name: 'first', shape: [length, 1] },
        { name: 'norm', shape: [3] },
      ],
      { average: true },
    );
    const [w, bias] = state.parameters;
    assert.ok(w !== undefined && bias !== undefined);
    w.value.set(noise(length, 1));
    const [p, m, v] = [w.value.slice(), new Float32Array(length), new Float32Array(length)];
    for (let step = 1; step <= 4; step++) {
      w.grad.set(noise(length, step + 1));
      bias.grad.fill(0.5);
      const norm = Math.sqrt(referenceKernels.sumSquares(w.grad) + 0.75);
      const result = state.update(1e-2, { maxNorm: 0.7 });
      assert.ok(Math.abs(result.norm - norm) < 1e-9 * norm);
      referenceKernels.adamw(p, w.grad, m, v, adamwScalars(ADAMW_DEFAULTS, step, 1e-2, clipScale(norm, 0.7), true));
      state.updateAverages(0.9);
    }
    for (let i = 0; i < length; i++) assert.ok(Math.abs((p[i] as number) - (w.value[i] as number)) < 2e-6);
    assert.notEqual(w.average?.[0], 0);
  }
});

test('the norm is summed in double precision', () => {
  const state = new ParameterState([{ name: 'w', shape: [200_000] }]);
  state.get('w').grad.fill(1e-3);
  state.get('w').grad[0] = 1000;
  const exact = Math.sqrt(1e6 + 199_999 * Math.fround(1e-3) ** 2);
  assert.ok(Math.abs(state.gradientNorm() - exact) < 1e-9);
});

test('the first gradient of a step takes the place of the zeros, others are added from beside', () => {
  const state = new ParameterState([{ name: 'w', shape: [3] }]);
  for (let step = 0; step < 2; step++) {
    state.zeroGradients();
    for (const values of [
      [1, 2, 3],
      [10, 20, 30],
      [100, 200, 300],
    ]) {
      state.placeForGradient('w').set(values);
      state.takeGradient('w');
    }
    assert.deepEqual([...state.get('w').grad], [111, 222, 333]);
  }
  assert.throws(() => state.placeForGradient('v'), /v is not a trainable tensor/);
});

test('a non-finite gradient changes nothing', () => {
  const state = new ParameterState([{ name: 'w', shape: [8] }]);
  const w = state.get('w');
  w.value.fill(1);
  w.grad.fill(1);
  w.grad[5] = Number.NaN;
  assert.deepEqual(state.update(0.1), { norm: Number.NaN, applied: false });
  assert.deepEqual([...w.value], new Array(8).fill(1));
  assert.equal(state.step, 0);
});

test('decay leaves norms, biases and position tables alone', () => {
  assert.equal(decaysUnder('matrices', 'language_model.lm_head.weight', [4, 4]), true);
  assert.equal(decaysUnder('matrices', 'layers.0.input_layernorm.weight', [4]), false);
  assert.equal(decaysUnder('matrices', 'embeddings.position_embedding.weight', [4, 4]), false);
  assert.equal(decaysUnder('all', 'layers.0.input_layernorm.weight', [4]), true);
});

test('five clipped steps equal torch.optim.AdamW', () => {
  // torch 2.13: AdamW([p, b], lr=1e-2, weight_decay=0.1) after clip_grad_norm_([p, b], 0.7), same inputs.
  const golden = {
    norms: [1.893074870109558, 1.8664580583572388, 1.876732587814331, 1.961956262588501, 2.1390678882598877],
    p: [0.427791357, 0.763182044, 0.966364682, 1.002162457, 0.863775134, 0.575137377],
    b: [0.448992103, -0.198937565],
  };
  const state = new ParameterState([
    { name: 'p', shape: [2, 3] },
    { name: 'b', shape: [2] },
  ]);
  const [p, b] = [state.get('p'), state.get('b')];
  p.value.set(noise(6, 0));
  b.value.set([0.5, -0.25]);
  for (let step = 1; step <= 5; step++) {
    p.grad.set(noise(6, step));
    b.grad.set([0.3 * step, -0.1]);
    const { norm } = state.update(1e-2, { adamw: { weightDecay: 0.1 }, decay: 'all', maxNorm: 0.7 });
    assert.ok(Math.abs(norm - (golden.norms[step - 1] ?? 0)) < 2e-6);
  }
  golden.p.forEach((x, i) => {
    assert.ok(Math.abs(x - (p.value[i] ?? 0)) < 1e-6, `p[${i}]`);
  });
  golden.b.forEach((x, i) => {
    assert.ok(Math.abs(x - (b.value[i] ?? 0)) < 1e-6, `b[${i}]`);
  });
});
