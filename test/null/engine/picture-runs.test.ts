import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { pictureRuns } from '../../../gpu-backend/engine/picture-runs.ts';

const of = (width: number, height: number) => ({ width, height });

describe('pictureRuns', () => {
  it('puts pictures of one shape together, whoever stands between them', () => {
    const [high, wide] = [of(200, 600), of(600, 200)];
    assert.deepEqual(pictureRuns([high, wide, high, wide, wide, high]), [
      [0, 2, 5],
      [1, 3, 4],
    ]);
  });
  it('cuts a run where it has a mebipixel', () => {
    const squares = Array.from({ length: 9 }, () => of(384, 384));
    assert.deepEqual(pictureRuns(squares), [
      [0, 1, 2, 3, 4, 5, 6],
      [7, 8],
    ]);
    assert.deepEqual(pictureRuns([of(2000, 2000), of(2000, 2000)]), [[0], [1]]);
  });
  it('pads a little, not much', () => {
    assert.deepEqual(pictureRuns([of(300, 200), of(310, 200), of(296, 205)]), [[0, 1, 2]]);
    assert.deepEqual(pictureRuns([of(980, 378), of(378, 980), of(20, 20), of(980, 370)]), [[0, 3], [1], [2]]);
    assert.deepEqual(pictureRuns([]), []);
  });
  it('holds each picture once, within bounds, whatever comes', () => {
    const side = fc.oneof(fc.constantFrom(224, 336, 384), fc.integer({ min: 1, max: 1500 }));
    fc.assert(
      fc.property(fc.array(fc.tuple(side, side), { maxLength: 60 }), (sizes) => {
        const pictures = sizes.map(([width, height]) => of(width, height));
        const runs = pictureRuns(pictures);
        assert.deepEqual(
          runs.flat().sort((a, b) => a - b),
          [...pictures.keys()],
        );
        const firsts = runs.map(([first]) => first!);
        assert.deepEqual(
          firsts,
          firsts.toSorted((a, b) => a - b),
        );
        for (const run of runs) {
          const shapes = run.map((index) => pictures[index]!);
          const area = Math.max(...shapes.map((s) => s.width)) * Math.max(...shapes.map((s) => s.height)) * run.length;
          const pixels = shapes.reduce((sum, { width, height }) => sum + width * height, 0);
          assert.ok(run.length === 1 || (area <= 2 ** 20 && area - pixels <= area / 8));
        }
        // Of one shape, no more runs than there must be and one that was begun by another shape.
        for (const shape of new Set(sizes.map(String))) {
          const mine = runs.filter((run) => run.some((index) => String(sizes[index]) === shape)).length;
          const [width, height] = shape.split(',').map(Number) as [number, number];
          const count = sizes.filter((size) => String(size) === shape).length;
          const room = Math.max(1, Math.floor(2 ** 20 / (width * height)));
          assert.ok(mine <= Math.ceil(count / room) + 2, `${count} of ${shape} in ${mine} runs`);
        }
      }),
    );
  });
});
