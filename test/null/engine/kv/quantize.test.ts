import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { quantizeReference, quantizeStage } from '../../../../gpu-backend/engine/kv/quantize.ts';
import { randomOf } from './random.ts';

const stage = quantizeStage();

function both(rows: Float32Array, D: number) {
  const count = rows.length / D;
  stage.floats.set(rows);
  stage.run(count, D);
  const quantized = new Int8Array(rows.length);
  const scales = new Float32Array(count);
  quantizeReference(rows, quantized, scales, count, D);
  return {
    stage: { quantized: stage.quantized.slice(0, rows.length), scales: stage.scales.slice(0, count) },
    quantized,
    scales,
  };
}

describe('quantising rows', () => {
  it('SIMD and definition agree to the bit, at every magnitude', () => {
    const next = randomOf(5);
    for (const D of [16, 32, 64, 128]) {
      const rows = Float32Array.from(
        { length: D * 200 },
        (_, at) => (next() - 0.5) * 10 ** ((((at / D) | 0) % 70) - 35),
      );
      const { stage: simd, quantized, scales } = both(rows, D);
      assert.deepEqual(simd.quantized, quantized);
      assert.deepEqual(simd.scales, scales);
      assert.ok(quantized.every((q) => q >= -127 && q <= 127));
    }
  });

  it('halves go to even, the largest number becomes 127, zeros stay zeros', () => {
    const row = Float32Array.from({ length: 16 }, (_, at) => [127, 0.5, 1.5, -0.5, -1.5, 2.5, 0, -127][at % 8]!);
    const { stage: simd, quantized, scales } = both(Float32Array.from([...row, ...new Float32Array(16)]), 16);
    assert.deepEqual([...quantized.subarray(0, 8)], [127, 0, 2, 0, -2, 2, 0, -127]);
    assert.deepEqual([...scales], [1, 0]);
    assert.deepEqual(simd, { quantized, scales });
  });

  it('a number that is not finite shows in the scale', () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
      for (const at of [0, 7, 15]) {
        const row = Float32Array.from({ length: 16 }, (_, index) => (index === at ? bad : index - 8));
        const { stage: simd, quantized, scales } = both(row, 16);
        assert.ok(!Number.isFinite(scales[0]) && !Number.isFinite(simd.scales[0]));
        assert.ok(quantized.every((q) => q === 0) && simd.quantized.every((q) => q === 0));
      }
  });

  it('takes rows whose length is no multiple of 16', () => {
    const rows = Float32Array.from({ length: 24 }, (_, at) => at - 12);
    const { stage: simd, quantized, scales } = both(rows, 12);
    assert.deepEqual(simd, { quantized, scales });
  });
});
