/** What is asked about a movement, held against where the thing is drawn. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { continuedCurriculum } from '../../../gpu-backend/train/nano/curriculum.ts';
import { furthestQuestion, placesQuestion } from '../../../gpu-backend/train/nano/movement.ts';
import { Rng } from '../../../gpu-backend/train/nano/random.ts';
import { NanoStream } from '../../../gpu-backend/train/nano/samples.ts';
import type { Box, SceneObject } from '../../../gpu-backend/train/nano/scene.ts';
import { randomSequence } from '../../../gpu-backend/train/nano/sequence.ts';

const dot = (x: number, y: number): SceneObject => ({ shape: 'circle', color: 'black', size: 20, x, y });
const box = (...objects: SceneObject[]): Box => ({ kind: 'scatter', objects });

/** Questions of many draws, by their words. */
function asked(make: (rng: Rng) => ReturnType<typeof placesQuestion>): Map<string, string> {
  const all = new Map<string, string>();
  for (let i = 0; i < 60; i++) {
    const question = make(new Rng(3, i));
    if (question) all.set(question.user, question.answer);
  }
  return all;
}

describe('questions about movements', () => {
  it('give the tenth of the box in which the middle of the thing lies, `no` where it is not', () => {
    const boxes = [box(dot(0, 80)), box(), box(dot(45, 79))];
    assert.deepEqual(
      asked((rng) => placesQuestion(rng, boxes, dot(7, 7))),
      new Map([
        ['how far right is the medium black circle in each image?', '1 no 5'],
        ['how far down is the medium black circle in each image?', '9 no 8'],
      ]),
    );
    assert.equal(placesQuestion(new Rng(1, 1), [box(dot(0, 0), dot(50, 50))], dot(0, 0)), undefined);
  });

  it('name the image in which it is furthest, and none where two are as far', () => {
    const boxes = [box(dot(30, 10)), box(dot(0, 12)), box(dot(60, 40))];
    assert.deepEqual(
      asked((rng) => furthestQuestion(rng, boxes, dot(7, 7))),
      new Map([
        ['in which image is the medium black circle leftmost?', '2'],
        ['in which image is the medium black circle rightmost?', '3'],
        ['in which image is the medium black circle lowest?', '3'],
      ]),
    );
    assert.equal(asked((rng) => furthestQuestion(rng, [box(dot(0, 0)), box()], dot(0, 0))).size, 0);
  });

  it('follow from the story: the places of what moves rise or fall as its direction says', () => {
    let seen = 0;
    for (let i = 0; i < 400; i++) {
      const { story, frames } = randomSequence(new Rng(8, i), 3, 'scatter');
      if (story.event !== 'moves') continue;
      seen++;
      const question = placesQuestion(new Rng(9, i), frames, story.object);
      const isAcross = question?.user.startsWith('how far right');
      const [first = 0, , last = 0] = question?.answer.split(' ').map(Number) ?? [];
      const along = { left: true, right: true, up: false, down: false }[story.direction];
      if (along !== isAcross) assert.equal(first, last);
      else assert.equal(Math.sign(last - first), { left: -1, right: 1, up: -1, down: 1 }[story.direction]);
    }
    assert.ok(seen > 80, `${seen}`);
  });

  it('come often enough to be learnt, over told images too, whose words say the places that are answered', () => {
    const stream = new NanoStream({ seed: 4, phases: continuedCurriculum(1000) });
    let turns = 0;
    const asked = { shown: 0, told: 0 };
    for (let i = 0; i < 400; i++) {
      const dialogue = stream.dialogue(i);
      turns += dialogue.turns.length;
      const toldOf = new Map<number, string>();
      for (const { user, assistant } of dialogue.turns) {
        const words = user.filter((part) => typeof part === 'string');
        for (const text of words) {
          const [, number, box = ''] = /^\(image (\d): (.*)\)$/.exec(text) ?? [];
          if (number !== undefined) toldOf.set(Number(number), box);
        }
        const text = words.at(-1) ?? '';
        if (!/how far (right|down)|which way/i.test(text)) continue;
        asked[toldOf.size > 0 ? 'told' : 'shown']++;
        for (const box of toldOf.values()) assert.match(box, / at \d \d/, 'told with its place');
        const [, way, name] = /^\s*how far (right|down) is the (.*) in each image/.exec(text) ?? [];
        if (way === undefined) continue;
        const first = Math.min(...toldOf.keys(), ...dialogue.imageNumbers);
        for (const [number, box] of toldOf) {
          const [, right, down] = new RegExp(`${name} at (\\d) (\\d)`).exec(box) ?? [];
          assert.equal(assistant.split(' ')[number - first], way === 'right' ? right : down, `${number}: ${box}`);
        }
      }
    }
    assert.ok(asked.shown > 0.012 * turns && asked.told > 0.004 * turns, `${JSON.stringify(asked)} of ${turns}`);
  });
});
