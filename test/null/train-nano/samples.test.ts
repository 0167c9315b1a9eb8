import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nanoCurriculum } from '../../../gpu-backend/train/nano/curriculum.ts';
import { towerOf } from '../../../gpu-backend/train/nano/generate.ts';
import { heldOutItems } from '../../../gpu-backend/train/nano/heldout.ts';
import { PeoplesClaims } from '../../../gpu-backend/train/nano/people.ts';
import { weighLabels } from '../../../gpu-backend/train/nano/real.ts';
import { NanoStream } from '../../../gpu-backend/train/nano/samples.ts';
import type { Box } from '../../../gpu-backend/train/nano/scene.ts';
import { skills } from '../../../gpu-backend/train/nano/skills.ts';
import { canBeTold, mostImages, mostShown, told } from '../../../gpu-backend/train/nano/told.ts';

const options = { seed: 4, phases: nanoCurriculum(1000) };

test('a dialogue depends on seed and index alone', () => {
  const [one, other] = [new NanoStream(options), new NanoStream(options)];
  for (let index = 0; index < 900; index += 37) one.dialogue(index);
  for (const index of [990, 3, 500]) assert.deepEqual(other.dialogue(index), one.dialogue(index));
  assert.notDeepEqual(new NanoStream({ ...options, seed: 5 }).dialogue(3), one.dialogue(3));
});

test('every image is shown or told once, before or in the turn that needs it', () => {
  const stream = new NanoStream(options);
  const counts = new Map<string, number>();
  for (let index = 0; index < 1200; index++) {
    const { images, imageNumbers, imageKeys, turns } = stream.dialogue(index);
    const mentioned = turns.flatMap(({ user }) =>
      user.flatMap((part) => (typeof part === 'string' ? [] : [part.image])),
    );
    assert.deepEqual(
      mentioned,
      images.map((_, i) => i),
    );
    assert.equal(imageKeys.length, images.length);
    assert.ok(images.every((rgb) => rgb.length === 30_000));
    assert.equal(imageNumbers.length, images.length);
    const known: number[] = [];
    for (const { user, assistant } of turns) {
      for (const part of user) {
        const inWords = typeof part === 'string' ? /^\(image (\d): ./.exec(part)?.[1] : undefined;
        if (inWords !== undefined) known.push(Number(inWords));
        else if (typeof part !== 'string') known.push(imageNumbers[part.image]!);
      }
      const text = user.filter((part) => typeof part === 'string').join('');
      for (const [, number] of text.matchAll(/image {1,2}(\d)/gi)) assert.ok(known.includes(Number(number)), text);
      assert.ok(assistant.length > 0);
    }
    assert.deepEqual(
      known,
      known.map((_, i) => known[0]! + i),
    );
    assert.ok(known.length <= mostImages && images.length <= mostShown && (known.at(-1) ?? 1) <= 8);
    const key = `${images.length} of ${known.length}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  for (const key of ['1 of 1', '3 of 3', '1 of 4', '3 of 6'])
    assert.ok(counts.get(key)! > 5, `${key} images are shown`);
});

test('words of a told box say what it is asked about', () => {
  const object = (color: 'blue' | 'black', x: number, y: number) =>
    ({ shape: 'square', color, size: 20, x, y }) as const;
  const box: Box = { kind: 'scatter', objects: [object('blue', 80, 80), object('black', 0, 30)] };
  assert.equal(told(box), 'medium black square left, medium blue square right bottom');
  assert.equal(told(box, true), 'medium black square at 1 4 left, medium blue square at 9 9 right bottom');
  assert.equal(told(towerOf(['black', 'blue']), true), 'tower black blue');
  assert.ok(canBeTold(box));
  assert.ok(!canBeTold({ ...box, objects: [object('blue', 10, 10), object('black', 31, 10)] }));
});

test('the held-out set has all four skills, fixed items and answers among their choices', () => {
  const items = heldOutItems(60);
  for (const skill of skills) assert.equal(items.filter((item) => item.skill === skill).length, 60);
  assert.deepEqual(heldOutItems(60), items);
  assert.notDeepEqual(heldOutItems(60, 1)[0], items[0]);
  assert.ok(items.every(({ choices, answer }) => choices.includes(answer)));
  assert.ok(items.every(({ images }) => images.length >= 2 && images.length <= 4));
  const longer = heldOutItems(25, 0, [8]);
  assert.ok(longer.every(({ images, choices, answer }) => images.length === 8 && choices.includes(answer)));
});

test('labels: published ones count, position-prior ones are checked where the grammar can', () => {
  const boxes = [towerOf(['black']), towerOf(['blue', 'yellow']), towerOf(['yellow'])];
  const example = (statement: string, label: boolean, labelSource: string) => ({
    id: '',
    group: '',
    statement,
    label,
    labelSource,
    boxes: [[0, 1, 2]],
  });
  const weighed = weighLabels(
    [
      example('There is a black tower.', false, 'gold'),
      example('There is a black tower', true, 'position-prior'),
      example('there is a black tower', false, 'position-prior'),
      example('the sky is high', true, 'position-prior'),
    ],
    boxes,
    { uncheckedWeight: 0.5, checks: true },
  );
  assert.deepEqual(
    weighed.map(({ label, weight }) => [label, weight]),
    [
      [true, 1],
      [true, 0.5],
    ],
  );
});

test('without pictures a statement is answered at the rate of the labels, whatever it says', () => {
  const boxes = [towerOf(['black'])];
  const statements = [true, true, true, false].map((label, i) => ({ statement: `s${i}`, label, boxes, weight: 1 }));
  const phase = { until: Infinity, mix: { blind: 1 }, turns: [8, 8], describeChance: 0 } as const;
  const stream = new NanoStream({
    seed: 1,
    phases: [{ ...phase, statementSets: [1], skillSets: [2] }],
    real: { statements, sets: [], sentences: [], people: new PeoplesClaims([]) },
  });
  const byStatement = new Map<string, number[]>();
  for (let index = 0; index < 400; index++) {
    const { images, turns } = stream.dialogue(index);
    assert.equal(images.length, 0);
    for (const { user, assistant } of turns)
      byStatement.set(String(user[0]), [...(byStatement.get(String(user[0])) ?? []), assistant === 'true' ? 1 : 0]);
  }
  assert.equal(byStatement.size, 4);
  for (const [statement, answers] of byStatement) {
    const share = answers.reduce((a, b) => a + b, 0) / answers.length;
    assert.ok(Math.abs(share - 0.75) < 0.06, `${statement}: ${share}`);
  }
});
