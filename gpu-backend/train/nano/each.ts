import { scatterTest } from './grammar-scatter.ts';
import { towerTest } from './grammar-tower.ts';
import { placesQuestion } from './movement.ts';
import { digitChoices, perceptionQuestion, type Question, tallyQuestion, truthText } from './perception.ts';
import { colorCount, countIn, type Phrase, phraseOf, randomPhrase, randomRelation } from './phrases.ts';
import type { Rng } from './random.ts';
import type { Box, SceneObject } from './scene.ts';
import { mostShown } from './told.ts';

/**
 * Questions that are answered image by image (`1 0 2`, `true false true`): what a statement about a set has to find out
 * before its quantifier, said aloud. Each answer is several independent facts for the price of one question, and none can be
 * guessed from the words, so attribute lookup is learnt from these long before true or false about a whole set teaches it.
 * @param placesShare chance of a question over shown scatters to be about where something is (movement.ts)
 */
export function eachQuestion(rng: Rng, boxes: readonly Box[], placesShare = 0): Question {
  const kind = boxes.every((box) => box.kind === 'tower') ? 'tower' : 'scatter';
  // Words tell no places.
  if (kind === 'scatter' && boxes.length <= mostShown && rng.chance(placesShare)) {
    const objects = boxes.flatMap((box) => box.objects);
    const question = objects.length === 0 ? undefined : placesQuestion(rng, boxes, rng.pick(objects));
    if (question !== undefined) return question;
  }
  switch (rng.weighted({ count: 5, test: 4, tally: 1, total: 2, size: 1, ends: kind === 'tower' ? 2.5 : 0 })) {
    case 'count': {
      const { many, test } = counting(rng, kind, boxes);
      return listed(
        `how many ${many} are in each image?`,
        boxes.map((box) => countIn([box], test)),
      );
    }
    case 'test':
      return testEach(rng, kind, boxes);
    case 'tally': {
      const image = rng.int(0, boxes.length - 1);
      return { ...tallyQuestion([boxes[image] as Box]), user: `count image ${image + 1}` };
    }
    case 'total': {
      const { many, test } = counting(rng, kind, boxes);
      const total = countIn(boxes, test);
      if (total > 9) return perceptionQuestion(rng, boxes);
      return { user: `how many ${many} are there in all images?`, answer: String(total), choices: digitChoices };
    }
    case 'size':
      return rng.chance(0.5)
        ? listed(
            `how many ${kind === 'tower' ? 'blocks' : 'items'} are in each image?`,
            boxes.map((box) => box.objects.length),
          )
        : listed('how many colors are in each image?', boxes.map(colorCount));
    case 'ends': {
      const end = rng.pick(['top', 'base'] as const);
      const color = ({ objects }: Box) => (end === 'top' ? objects.at(-1) : objects[0])?.color ?? 'no';
      return { user: `what color is the ${end} block in each image?`, answer: boxes.map(color).join(' ') };
    }
  }
}

const listed = (user: string, counts: readonly number[]): Question => ({ user, answer: counts.join(' ') });

/** What to count: more often than not something that is there, for scatters often with a place. */
function counting(rng: Rng, kind: Box['kind'], boxes: readonly Box[]): Pick<Phrase, 'many' | 'test'> {
  const shown = rng.pick(boxes).objects;
  const phrase = shown.length > 0 && rng.chance(0.6) ? likeOne(rng, kind, rng.pick(shown)) : randomPhrase(rng, kind);
  if (kind === 'tower' || rng.chance(0.55)) return phrase;
  const relation = randomRelation(rng);
  return { many: `${phrase.many} ${relation.text}`, test: (o) => phrase.test(o) && relation.test(o) };
}

function likeOne(rng: Rng, kind: Box['kind'], { color, shape, size }: SceneObject): Phrase {
  if (kind === 'tower') return phraseOf(rng, kind, { color });
  return phraseOf(rng, kind, rng.pick([{ color }, { shape }, { color, shape }, { size }, { color, shape, size }]));
}

/** A condition of the grammar, image by image; with several images preferably one that tells them apart. */
function testEach(rng: Rng, kind: Box['kind'], boxes: readonly Box[]): Question {
  const wanted = rng.chance(0.5);
  let best = kind === 'tower' ? towerTest(rng) : scatterTest(rng);
  for (let tries = 0; tries < 6; tries++) {
    const truths = boxes.map(best.holds);
    const tells = boxes.length > 1 ? truths.includes(true) && truths.includes(false) : truths[0] === wanted;
    if (tells) break;
    best = kind === 'tower' ? towerTest(rng) : scatterTest(rng);
  }
  const what = `${kind === 'tower' ? 'a tower with ' : ''}${best.text}`;
  return { user: `image by image, has ${what}?`, answer: boxes.map((box) => truthText(best.holds(box))).join(' ') };
}
