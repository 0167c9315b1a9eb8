import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeBfloat16, decodeFloat16, encodeBfloat16, encodeFloat16 } from '../../../gpu-backend/io/half.ts';

test('every float16 survives decode and encode', () => {
  const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const back = encodeFloat16(decodeFloat16(bits));
  for (let i = 0; i < 65536; i++) {
    const isNaN16 = (i & 0x7c00) === 0x7c00 && (i & 0x3ff) !== 0;
    if (isNaN16) assert.equal(back[i]! & 0x7e00, 0x7e00);
    else assert.equal(back[i], i);
  }
});

test('every bfloat16 survives decode and encode', () => {
  const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const back = encodeBfloat16(decodeBfloat16(bits));
  for (let i = 0; i < 65536; i++) {
    if ((i & 0x7f80) === 0x7f80 && (i & 0x7f) !== 0) assert.equal(back[i]! & 0x7fc0, 0x7fc0);
    else assert.equal(back[i], i);
  }
});

const rounding: [string, number, number][] = [
  ['ties go to even, down', 1 + 2 ** -11, 0x3c00],
  ['ties go to even, up', 1 + 3 * 2 ** -11, 0x3c02],
  ['the largest number', 65504, 0x7bff],
  ['just below the tie to infinity', 65519.996, 0x7bff],
  ['the tie to infinity', 65520, 0x7c00],
  ['the smallest subnormal', 2 ** -24, 0x0001],
  ['half of it goes to zero', 2 ** -25, 0x0000],
  ['more than half of it does not', 2 ** -25 * 1.0001, 0x0001],
  ['subnormal ties go to even', 3 * 2 ** -25, 0x0002],
  ['rounding up into the normal range', 2 ** -14 - 2 ** -26, 0x0400],
  ['negative zero', -0, 0x8000],
];
for (const [what, value, bits] of rounding) {
  test(`float16: ${what}`, () => assert.equal(encodeFloat16(Float32Array.of(value))[0], bits));
}

test('bfloat16 rounds half to even and overflows to infinity', () => {
  const words = new Uint32Array([0x3f808000, 0x3f818000, 0x3f808001, 0x7f7fffff, 0xff7fffff]);
  assert.deepEqual([...encodeBfloat16(new Float32Array(words.buffer))], [0x3f80, 0x3f82, 0x3f81, 0x7f80, 0xff80]);
});
