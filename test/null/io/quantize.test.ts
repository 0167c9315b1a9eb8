import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeBfloat16, encodeBfloat16 } from '../../../gpu-backend/io/half.ts';
import { type BlockFormat, blockSizes, dequantizeRow, Quantizer } from '../../../gpu-backend/io/quantize.ts';
import { bytesOf } from '../../../gpu-backend/io/tensor.ts';
import { randomSource } from '../../../gpu-backend/runtime/conformance-operands.ts';

interface Quantized {
  readonly packed: Uint8Array;
  readonly scales: Float32Array;
}

/** The rule, value by value, in f32 arithmetic. */
function reference(row: Float32Array, format: BlockFormat): Quantized {
  const { bits, blockSize } = format;
  const { blocks, bytes } = blockSizes(row.length, format);
  const [packed, scales] = [new Uint8Array(bytes), new Float32Array(blocks)];
  const steps = 2 ** (bits - 1);
  for (let block = 0; block < blocks; block++) {
    const values = Float32Array.from({ length: blockSize }, (_, i) => row[block * blockSize + i] ?? 0);
    const [high, low] = [Math.max(...values), Math.min(...values)];
    const scale = Math.fround((high > -low ? high : low) / -steps) + 0;
    scales[block] = scale;
    const factor = scale === 0 ? 0 : Math.fround(1 / scale);
    values.forEach((x, i) => {
      // Whole numbers of this size are neighbours in f32: the sum rounds to the nearest, to even at ties.
      const rounded = Math.fround(Math.fround(x * factor) + (2 ** 23 + 2 ** 22 + steps)) - 2 ** 23 - 2 ** 22;
      const q = Math.min(rounded, 2 * steps - 1);
      const at = block * blockSize + i;
      if (bits === 8) packed[at] = q;
      else packed[at >> 1] = (packed[at >> 1] ?? 0) | (q << (4 * (at & 1)));
    });
  }
  return { packed, scales };
}

function quantize(row: Float32Array, format: BlockFormat): Quantized {
  const { blocks, bytes } = blockSizes(row.length, format);
  const [packed, scales] = [new Uint8Array(bytes), new Float32Array(blocks)];
  new Quantizer(row.length, format, 'f32').quantize(bytesOf(row), packed, scales);
  return { packed, scales };
}

function roundTrip(row: Float32Array, format: BlockFormat): Quantized & { back: Float32Array } {
  const { packed, scales } = quantize(row, format);
  const back = new Float32Array(row.length);
  dequantizeRow(back, format, packed, 0, scales, 0);
  return { back, packed, scales };
}

test('the kernel does what the rule says, bit for bit, in f32 and bf16', () => {
  const random = randomSource(5);
  for (const bits of [4, 8] as const)
    for (const blockSize of [16, 32, 64, 128, 256])
      for (const [rows, width] of [
        [1, 1],
        [3, blockSize],
        [700, 2 * blockSize + 16],
        [5, 3 * blockSize - 1],
      ] as const) {
        const format = { bits, blockSize };
        const { blocks, bytes } = blockSizes(width, format);
        const half = encodeBfloat16(Float32Array.from({ length: rows * width }, () => (random() - 0.5) ** 3));
        if (rows > 1) half.fill(0, width, width + Math.min(width, blockSize));
        const values = decodeBfloat16(half);
        for (const [dtype, source] of [
          ['f32', bytesOf(values)],
          ['bf16', bytesOf(half)],
        ] as const) {
          const [packed, scales] = [new Uint8Array(rows * bytes), new Float32Array(rows * blocks)];
          new Quantizer(width, format, dtype).quantize(source, packed, scales);
          for (let r = 0; r < rows; r++) {
            const want = reference(values.subarray(r * width, (r + 1) * width), format);
            assert.deepEqual(
              packed.subarray(r * bytes, (r + 1) * bytes),
              want.packed,
              `${dtype} ${bits} ${blockSize} ${width}`,
            );
            assert.deepEqual(scales.subarray(r * blocks, (r + 1) * blocks), want.scales);
          }
        }
      }
});

test('no value moves by more than half a step, and the largest of a block not at all', () => {
  const random = randomSource(3);
  for (const bits of [4, 8] as const)
    for (const blockSize of [16, 32, 128])
      for (const width of [1, 2, 31, 32, 33, 128, 200]) {
        const row = Float32Array.from({ length: width }, () => (random() - 0.5) ** 3);
        const { back } = roundTrip(row, { bits, blockSize });
        for (let start = 0; start < width; start += blockSize) {
          const block = row.subarray(start, start + blockSize);
          const largest = block.reduce((m, v) => (Math.abs(v) > Math.abs(m) ? v : m), 0);
          const step = Math.abs(largest) / 2 ** (bits - 1);
          block.forEach((value, i) => {
            // The end of the range opposite to the largest value has one step less.
            const limit = -Math.sign(largest) * step * (2 ** (bits - 1) - 1);
            const wanted = largest > 0 ? Math.max(value, limit) : Math.min(value, limit);
            const error = Math.abs((back[start + i] ?? Number.NaN) - wanted);
            assert.ok(error <= step * 0.5001, `${bits} bits, width ${width}: ${value} became ${back[start + i]}`);
            if (value === largest) assert.ok(Math.abs((back[start + i] ?? 0) - value) <= Math.abs(value) * 1e-6);
          });
        }
      }
});

test('zeros stay zero, and padding decodes to zero', () => {
  for (const bits of [4, 8] as const) {
    const { back, packed } = roundTrip(new Float32Array(20), { bits, blockSize: 16 });
    assert.ok(back.every((value) => value === 0));
    assert.equal(packed.at(-1), bits === 4 ? 0x88 : 128);
  }
});

test('two values share a byte, the earlier in its low half', () => {
  const row = new Float32Array(16);
  row.set([-8, 7, 1]);
  const { packed, scales } = roundTrip(row, { bits: 4, blockSize: 16 });
  assert.deepEqual([...packed.subarray(0, 3)], [0xf0, 0x89, 0x88]);
  assert.equal(scales[0], 1);
});

test('a value that is not finite is refused', () => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    const row = new Float32Array(32);
    row[17] = bad;
    assert.throws(() => roundTrip(row, { bits: 4, blockSize: 16 }), /row 0: expected finite values/);
  }
});
