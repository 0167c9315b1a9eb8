import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { cropRgb, type ResampleFilter, type RgbImage, resizeRgb } from '../../../gpu-backend/vision/resample.ts';
import { referenceResize } from './resample-reference.ts';

const FILTERS = ['box', 'bilinear', 'hamming', 'bicubic', 'lanczos'] as const satisfies readonly ResampleFilter[];

/** Noise that reaches both ends of the range, so that overshoot is clipped often. */
function noise(width: number, height: number, seed: number): RgbImage {
  let state = (seed ^ 0x9e3779b9) >>> 0;
  const pixels_HWC = Uint8Array.from({ length: width * height * 3 }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    const value = state >>> 23;
    return value > 400 ? 255 : value > 300 ? 0 : value & 255;
  });
  return { width, height, pixels_HWC };
}

const side = fc.integer({ min: 1, max: 90 });

test('the kernel gives what plain loops give, for every size, filter and window', () => {
  fc.assert(
    fc.property(
      side,
      side,
      side,
      side,
      fc.constantFrom(...FILTERS),
      fc.nat(),
      fc.tuple(fc.nat(), fc.nat(), fc.nat(), fc.nat()),
      (inWidth, inHeight, width, height, filter, seed, [l, t, w, h]) => {
        const image = noise(inWidth, inHeight, seed);
        const expected = referenceResize(image, width, height, filter);
        assert.deepEqual(resizeRgb(image, width, height, filter), expected);
        const [left, top] = [l % width, t % height];
        const window = { left, top, width: 1 + (w % (width - left)), height: 1 + (h % (height - top)) };
        assert.deepEqual(
          resizeRgb(image, width, height, filter, window),
          cropRgb(expected, left, top, window.width, window.height),
        );
      },
    ),
    { numRuns: 300 },
  );
});

test('also where a picture takes many strips and bands', () => {
  for (const [inWidth, inHeight, width, height] of [
    [2400, 700, 30, 650],
    [7, 9000, 900, 8],
    [9000, 5, 3, 700],
    [300, 1500, 1200, 1500],
    [1500, 300, 1500, 900],
    [1, 1, 1000, 700],
  ] as const) {
    const image = noise(inWidth, inHeight, inWidth);
    for (const filter of ['bicubic', 'bilinear'] as const)
      assert.ok(
        Buffer.from(resizeRgb(image, width, height, filter).pixels_HWC).equals(
          referenceResize(image, width, height, filter).pixels_HWC,
        ),
        `${inWidth}x${inHeight} to ${width}x${height}, ${filter}`,
      );
  }
});
