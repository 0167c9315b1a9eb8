import assert from 'node:assert/strict';
import { test } from 'node:test';
import { randomSet, towerOf } from '../../../gpu-backend/train/nano/generate.ts';
import { BalancedClaims } from '../../../gpu-backend/train/nano/grammar.ts';
import { scatterClaim } from '../../../gpu-backend/train/nano/grammar-scatter.ts';
import { towerClaim } from '../../../gpu-backend/train/nano/grammar-tower.ts';
import { numberedFrom } from '../../../gpu-backend/train/nano/numbering.ts';
import { parseStatement } from '../../../gpu-backend/train/nano/parse.ts';
import { PeoplesClaims, reworded } from '../../../gpu-backend/train/nano/people.ts';
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

const boxes = [
  scatter(put('square', 'black', 20, 80, 80), put('circle', 'blue', 10, 40, 40)),
  scatter(put('circle', 'yellow', 30, 0, 10), put('circle', 'blue', 10, 60, 0), put('triangle', 'blue', 20, 10, 79)),
  scatter(put('triangle', 'yellow', 10, 50, 50)),
];
const towers = [towerOf(['black', 'blue', 'blue']), towerOf(['yellow']), towerOf(['black', 'yellow', 'black', 'blue'])];

const scatterCases: readonly (readonly [string, boolean])[] = [
  ['There is a ble circle touching the edge.', true],
  ['there are exactly 3 blue items not touching any edge', false],
  ['Exactly two circles are not touching the wall', false],
  ['one of the grey boxes contains only one yellow item which is a triangle', true],
  ['There is a box with 3 items of which two are blue', true],
  ['there isa box with items of only blue and yelow color', true],
  ['There is a box with three items and a blue item on top', true],
  ['There is a box with three items and a yellow one on top', false],
  ['the grey box with least number of objects contains only one yellow object', true],
  ['none of the black items are touching the edge', false],
  ['There are two boxes with the same number of items', false],
  ['There is a box with only one item that is not black', true],
  ['there is a black square closely touching the bottom right corner', true],
];
const towerCases: readonly (readonly [string, boolean])[] = [
  ['There are two black blocks as the base of a tower with atleast 3 blocks', true],
  ['There is exactly one tower with four blocks having a yellow block above a black block', true],
  ['there is a tower with 3 blocks not having a yellow block at top', true],
  ['There is a blue bloxk bellow a blue block', true],
  ['There are 2 blue blocks attached with each other', true],
  ['2 of the three towers has a black base', true],
  ['there is only one tower with blocks of three different colors', true],
  ['the second block from the base of a tower is black', false],
  ['There is a two blocks tower', false],
  ['there is a tower with exactly one block which is of yellow color', true],
  ['the top of the 3 towers are 2 blue and 1 yellow blocks', true],
  ['There is a box with only black and blue items', true],
];

test("people's sentences are read, slips and all", () => {
  for (const [kind, set, cases] of [
    ['scatter', boxes, scatterCases],
    ['tower', towers, towerCases],
  ] as const)
    for (const [text, truth] of cases) {
      const claim = parseStatement(text, kind);
      assert.ok(claim, `not read: ${text}`);
      assert.equal(claim.holds(set), truth, text);
    }
  for (const text of ['the sky is high', '', 'there is a', 'there is a box with'])
    assert.equal(parseStatement(text, 'scatter'), undefined, text);
});

test('what the grammar says is read as it was meant: two implementations, one truth', () => {
  const rng = new Rng(5);
  for (const [kind, make] of [
    ['tower', towerClaim],
    ['scatter', scatterClaim],
  ] as const) {
    const sets = Array.from({ length: 24 }, () => randomSet(rng, kind, 3));
    let [read, same] = [0, 0];
    for (let i = 0; i < 300; i++) {
      const claim = make(rng);
      const parsed = parseStatement(claim.text, kind);
      if (parsed === undefined) continue;
      read++;
      if (sets.every((set) => parsed.holds(set) === claim.holds(set))) same++;
    }
    assert.ok(read > 295, `${kind}: ${read} of 300 read`);
    // What is left are two ways to take a sentence: `two blocks stacked together` in a tower of three.
    assert.ok(same / read > 0.985, `${kind}: ${same} of ${read} the same`);
  }
});

test('a person’s sentence is asked with other colors and numbers, as often true as false', () => {
  const rng = new Rng(3);
  const people = new PeoplesClaims([
    ...scatterCases.map(([statement]) => ({ statement, kind: 'scatter' as const })),
    ...towerCases.map(([statement]) => ({ statement, kind: 'tower' as const })),
  ]);
  assert.equal(people.count, scatterCases.length + towerCases.length);
  const balance = new BalancedClaims();
  const texts = new Set<string>();
  let holds = 0;
  for (let i = 0; i < 400; i++) {
    const set = randomSet(rng, i % 2 === 0 ? 'tower' : 'scatter', 3);
    const said = people.statement(rng, set, balance);
    assert.ok(said);
    texts.add(said.text);
    if (said.truth) holds++;
    assert.equal(parseStatement(said.text, i % 2 === 0 ? 'tower' : 'scatter')?.holds(set), said.truth);
  }
  assert.ok(texts.size > 120, `${texts.size} texts`);
  assert.ok(Math.abs(holds / 400 - 0.5) < 0.09, `${holds} of 400 true`);
  assert.match(reworded(rng, 'the grey square has a circle'), /^the gr[ae]y square has a (circle|square|triangle)/i);
});

test('a question about images numbered from another number than one', () => {
  const question = { user: 'Image  1 has more items than image 3', answer: 'true' };
  assert.deepEqual(numberedFrom(4, question), { user: 'Image  4 has more items than image 6', answer: 'true' });
  const which = { user: 'which image shows 2 circles?', answer: '2', answersWithImage: true as const };
  assert.deepEqual(numberedFrom(6, which), { ...which, answer: '7' });
  assert.equal(numberedFrom(1, which), which);
});
