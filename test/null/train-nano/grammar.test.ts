import assert from 'node:assert/strict';
import { test } from 'node:test';
import { randomSet, towerOf } from '../../../gpu-backend/train/nano/generate.ts';
import { BalancedClaims } from '../../../gpu-backend/train/nano/grammar.ts';
import { scatterClaim } from '../../../gpu-backend/train/nano/grammar-scatter.ts';
import { towerClaim } from '../../../gpu-backend/train/nano/grammar-tower.ts';
import type { Claim } from '../../../gpu-backend/train/nano/phrases.ts';
import { Rng } from '../../../gpu-backend/train/nano/random.ts';
import type { Box, SceneObject } from '../../../gpu-backend/train/nano/scene.ts';

const put = (
  shape: SceneObject['shape'],
  color: SceneObject['color'],
  size: SceneObject['size'],
  x: number,
  y: number,
): SceneObject => ({ shape, color, size, x, y });
const scatter = (...objects: SceneObject[]): Box => ({ kind: 'scatter', objects });

/** The first claim of the grammar with each of these wordings, drawn in one pass. */
function claimsFor(texts: readonly string[], make: (rng: Rng) => Claim): Map<string, Claim> {
  const wanted = new Set(texts);
  const found = new Map<string, Claim>();
  const rng = new Rng(11);
  for (let i = 0; found.size < wanted.size; i++) {
    if (i === 2_000_000)
      throw new Error(`the grammar never said: ${texts.filter((text) => !found.has(text)).join(' | ')}`);
    const claim = make(rng);
    if (wanted.has(claim.text) && !found.has(claim.text)) found.set(claim.text, claim);
  }
  return found;
}

const boxes = [
  scatter(put('square', 'black', 20, 80, 80), put('circle', 'blue', 10, 40, 40)),
  scatter(put('circle', 'yellow', 30, 0, 10), put('circle', 'blue', 10, 60, 0), put('triangle', 'blue', 20, 10, 80)),
  scatter(put('triangle', 'yellow', 10, 50, 50)),
];
const scatterCases: [string, boolean][] = [
  ['there is a black square touching the corner', true],
  ['there are exactly two blue circles', true],
  ['there is exactly one blue item touching the base', true],
  ['there is no black item touching the edge', false],
  ['there is a box with only blue items', false],
  ['there is a box with only yellow items', true],
  ['there is a box with a yellow circle and a blue triangle', true],
  ['there is a box with exactly three items', true],
  ['none of the yellow items are touching any edge', false],
  ['there are two boxes with a blue circle', true],
  ['each box has a blue item', false],
];
const scatterClaims = claimsFor(
  scatterCases.map(([text]) => text),
  scatterClaim,
);
for (const [text, truth] of scatterCases) {
  test(`${truth}: ${text}`, () => assert.equal(scatterClaims.get(text)?.holds(boxes), truth));
}

const towers = [towerOf(['black', 'blue', 'blue', 'yellow']), towerOf(['black', 'yellow']), towerOf(['yellow'])];
const towerCases: [string, boolean][] = [
  ['there are exactly two towers with a black block at the base', true],
  ['there is a yellow block as the top of a tower with four blocks', true],
  ['there is a yellow block on a black block', true],
  ['there is a blue block on a yellow block', false],
  ['there is a yellow tower', true],
  ['there is a tower with three blocks', false],
  ['the tower with two blocks has a yellow block at the top', true],
  ['all the towers have a yellow block at the top', true],
  ['there is a tower with two blue blocks stacked together', true],
  ['there are two towers that have the same base color', true],
];
const towerClaims = claimsFor(
  towerCases.map(([text]) => text),
  towerClaim,
);
for (const [text, truth] of towerCases) {
  test(`${truth}: ${text}`, () => assert.equal(towerClaims.get(text)?.holds(towers), truth));
}

test('labels are balanced over all and for a sentence that mostly holds', () => {
  const claims = new BalancedClaims();
  for (const kind of ['scatter', 'tower'] as const) {
    let truths = 0;
    const count = 1500;
    for (let i = 0; i < count; i++) {
      const rng = new Rng(3, i);
      if (claims.statement(rng, randomSet(rng, kind, 3)).truth) truths++;
    }
    assert.ok(Math.abs(truths / count - 0.5) < 0.05, `${kind}: ${truths / count} true`);
  }
});
