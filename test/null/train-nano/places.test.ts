import assert from 'node:assert/strict';
import { it } from 'node:test';
import { placeCodes } from '../../../gpu-backend/train/nano/place-stage.ts';
import { Rng } from '../../../gpu-backend/train/nano/random.ts';

const HIDDEN = 24;
const SIDE = 3;
/** Features differ in the first of these dimensions alone, and much. */
const LOUD = 16;

function sample(): Float32Array {
  const rng = new Rng(5, 1);
  return Float32Array.from({ length: 200 * HIDDEN }, (_, i) => (i % HIDDEN < LOUD ? 4 * (rng.unit() - 0.5) : 0.3));
}

it('codes of places: one a column and one a row, of one length, where features hardly differ', () => {
  const rows = sample();
  const { codes_PD, variance } = placeCodes(rows, HIDDEN, SIDE, 1);
  assert.ok(Math.abs(variance - (LOUD * 16) / 12) < 1, `${variance}`);
  const code = (patch: number) => Array.from(codes_PD.subarray(patch * HIDDEN, (patch + 1) * HIDDEN));
  const dot = (a: number[], b: number[]) => a.reduce((sum, value, d) => sum + value * (b[d] ?? 0), 0);
  const own = dot(code(0), code(0));
  for (let a = 0; a < SIDE * SIDE; a++)
    for (let b = 0; b < SIDE * SIDE; b++) {
      const shared = Number(a % SIDE === b % SIDE) + Number(Math.floor(a / SIDE) === Math.floor(b / SIDE));
      assert.ok(Math.abs(dot(code(a), code(b)) / own - shared / 2) < 1e-4, `${a} and ${b} share ${shared}`);
    }
  const loud = code(4).slice(0, LOUD);
  assert.ok(dot(loud, loud) / own < 1e-3, 'nothing of it where features are');
});
