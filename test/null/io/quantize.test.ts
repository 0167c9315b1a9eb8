import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type BlockFormat, blockSizes, dequantizeRow, quantizeRow } from '../../../gpu-backend/io/quantize.ts';
import { randomSource } from '../graph/random.ts';

function roundTrip(
  row: Float32Array,
  format: BlockFormat,
): { back: Float32Array; packed: Uint8Array; scales: Float32Array } {
  const { blocks, bytes } = blockSizes(row.length, format);
  const [packed, scales] = [new Uint8Array(bytes + 2), new Float32Array(blocks + 1)];
  quantizeRow(row, format, packed, 1, scales, 1);
  const back = new Float32Array(row.length);
  dequantizeRow(back, format, packed, 1, scales, 1);
  assert.equal(packed[0], 0, 'nothing is written before the row');
  assert.equal(packed[bytes + 1], 0, 'nothing is written behind the row');
  return { back, packed, scales };
}

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
    assert.equal(packed[(32 * bits) / 8], bits === 4 ? 0x88 : 128);
  }
});

test('two values share a byte, the earlier in its low half', () => {
  const row = new Float32Array(16);
  row.set([-8, 7, 1]);
  const { packed, scales } = roundTrip(row, { bits: 4, blockSize: 16 });
  assert.deepEqual([...packed.subarray(1, 4)], [0xf0, 0x89, 0x88]);
  assert.equal(scales[1], 1);
});

test('a value that is not finite is refused', () => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    const row = new Float32Array(32);
    row[17] = bad;
    assert.throws(
      () => roundTrip(row, { bits: 4, blockSize: 16 }),
      /finite values, found one that is not among 16 to 32/,
    );
  }
});
