/**
 * Pictures told in words: `(image 4: tower black blue)` stands in a conversation where a picture would. Sets of more images than are
 * ever shown teach counting and comparing over many, so that the number of pictures a model was shown is no bound of it.
 */
import { randomScatter, randomTower } from './generate.ts';
import { tenth } from './movement.ts';
import { describe, fullName } from './perception.ts';
import { touchesWall, touching } from './phrases.ts';
import type { Rng } from './random.ts';
import type { NanoDialogue, UserPart } from './samples.ts';
import { type Box, renderBox, type SceneObject } from './scene.ts';

/** Most pictures that one dialogue shows: NLVR's three. */
export const mostShown = 3;
/** Most images that one dialogue has, shown and told. */
export const mostImages = 8;

/** How many pictures a larger set shows: the more, the nearer to a set that is shown as a whole. */
const shownOfMany = [1, 2, 2, 3, 3, 3];

const walls = ['left', 'right', 'top', 'bottom'] as const;

/**
 * What a box is told as: all that questions are asked about, with the walls that objects touch; nothing of touching each other.
 * @param hasPlaces also how far right and down each object is, in tenths: `small blue circle at 3 7`
 */
export function told(box: Box, hasPlaces = false): string {
  if (box.kind === 'tower' || box.objects.length === 0) return describe(box);
  const objects = box.objects.toSorted((a, b) => a.y - b.y || a.x - b.x);
  const place = (o: SceneObject) => (hasPlaces ? ['at', tenth(o.x, o), tenth(o.y, o)] : []);
  return objects
    .map((o) => [fullName(o), ...place(o), ...walls.filter((wall) => touchesWall(o, wall))].join(' '))
    .join(', ');
}

/** Whether the words tell all there is: two objects that touch are not told. */
export const canBeTold = ({ kind, objects }: Box): boolean =>
  kind === 'tower' || !objects.some((a, i) => objects.some((b, j) => i < j && touching(a, b)));

/** The box, or another of its kind that can be told. */
export function tellable(rng: Rng, box: Box): Box {
  let candidate = box;
  for (let attempt = 0; attempt < 20 && !canBeTold(candidate); attempt++)
    candidate = box.kind === 'tower' ? randomTower(rng) : randomScatter(rng);
  return canBeTold(candidate) ? candidate : { ...box, objects: box.objects.slice(0, 1) };
}

/**
 * Which of a set's boxes are told: none of a set that can be shown; of a larger one as many as are too many, or more, all of which
 * can be told.
 */
export function chooseTold(rng: Rng, boxes: readonly Box[]): ReadonlySet<number> {
  if (boxes.length <= mostShown) return new Set();
  const shown = rng.pick(shownOfMany);
  return new Set(
    rng.sample(
      boxes.map((_, i) => i),
      boxes.length - shown,
    ),
  );
}

/** How a dialogue's boxes come in: one part a box, in order, and what is shown of them. @param hasPlaces of those that are told */
export function introduce(
  boxes: readonly Box[],
  toldBoxes: ReadonlySet<number>,
  firstNumber: number,
  hasPlaces = false,
): { readonly parts: readonly UserPart[] } & Pick<NanoDialogue, 'images' | 'imageKeys' | 'imageNumbers'> {
  const shown = boxes.map((box, i) => ({ box, number: firstNumber + i })).filter((_, i) => !toldBoxes.has(i));
  let next = 0;
  return {
    parts: boxes.map((box, i) =>
      toldBoxes.has(i) ? `(image ${firstNumber + i}: ${told(box, hasPlaces)})` : { image: next++ },
    ),
    images: shown.map(({ box }) => renderBox(box)),
    imageKeys: shown.map(({ box }) => boxKey(box)),
    imageNumbers: shown.map(({ number }) => number),
  };
}

const boxKey = (box: Box): string =>
  box.objects.map((o) => `${o.shape[0]}${o.color.slice(0, 3)}${o.size}@${o.x},${o.y}`).join(';') || 'empty';
