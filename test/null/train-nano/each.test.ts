import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eachQuestion } from '../../../gpu-backend/train/nano/each.ts';
import { randomSet } from '../../../gpu-backend/train/nano/generate.ts';
import { Rng } from '../../../gpu-backend/train/nano/random.ts';
import type { Box, SceneObject } from '../../../gpu-backend/train/nano/scene.ts';

const rng = new Rng(5);
const drawn = Array.from({ length: 4000 }, (_, i) => {
  const boxes: readonly Box[] = randomSet(rng, i % 2 === 0 ? 'tower' : 'scatter', rng.int(1, 4));
  return { boxes, ...eachQuestion(rng, boxes) };
});

/** Counts again from the words alone, for phrases without a place: `small blue circles`. */
function recount(phrase: string): ((o: SceneObject) => boolean) | undefined {
  const sizes: Readonly<Record<string, number>> = { small: 10, medium: 20, big: 30, large: 30 };
  const tests: ((o: SceneObject) => boolean)[] = [];
  for (const word of phrase.split(' ')) {
    const single = word.replace(/s$/, '');
    if (sizes[word] !== undefined) tests.push((o) => o.size === sizes[word]);
    else if (['black', 'yellow', 'blue'].includes(word)) tests.push((o) => o.color === word);
    else if (['circle', 'square', 'triangle'].includes(single)) tests.push((o) => o.shape === single);
    else if (!['item', 'object', 'block'].includes(single)) return undefined;
  }
  return (o) => tests.every((holds) => holds(o));
}

test('counts image by image agree with a count from the words', () => {
  let checked = 0;
  for (const { boxes, user, answer } of drawn) {
    const phrase = /^how many (.*) are (?:in each image|there in all images)\?$/.exec(user)?.[1];
    const holds = phrase === undefined ? undefined : recount(phrase);
    if (holds === undefined) continue;
    const counts = boxes.map((box) => box.objects.filter(holds).length);
    const total = counts.reduce((a, b) => a + b, 0);
    assert.equal(answer, user.includes('in all images') ? String(total) : counts.join(' '), user);
    checked++;
  }
  assert.ok(checked > 1000, `only ${checked} questions could be counted again`);
});

test('conditions are answered once an image, and a single image is not mostly false', () => {
  const conditions = drawn.filter(({ user }) => user.startsWith('image by image, has '));
  assert.ok(conditions.length > 500);
  for (const { boxes, answer } of conditions) {
    const words = answer.split(' ');
    assert.equal(words.length, boxes.length);
    assert.ok(words.every((word) => word === 'true' || word === 'false'));
  }
  const single = conditions.filter(({ boxes }) => boxes.length === 1);
  const share = single.filter(({ answer }) => answer === 'true').length / single.length;
  assert.ok(share > 1 / 3 && share < 2 / 3, `${share}`);
});

test('what several images are asked usually tells them apart', () => {
  const several = drawn.filter(({ boxes, user }) => boxes.length > 1 && user.startsWith('image by image'));
  const telling = several.filter(({ answer }) => answer.includes('true') && answer.includes('false')).length;
  assert.ok(telling / several.length > 0.8, `${telling} of ${several.length}`);
});
