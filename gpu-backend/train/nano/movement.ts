/**
 * Where a thing is, image by image: what the direction of a movement follows from, said aloud. `left`, `right`, `up` or `down` alone is two bits about two places that
 * no other question asks for, and was never learnt from: after 6,910 steps it was answered at chance.
 */
import { fullName, type Question } from './perception.ts';
import type { Rng } from './random.ts';
import type { Box, SceneObject } from './scene.ts';

const looksLike =
  (object: SceneObject) =>
  (other: SceneObject): boolean =>
    other.shape === object.shape && other.color === object.color && other.size === object.size;

/** Tenths of the box's side from its left or upper edge to the middle of the object: 0 … 9, one digit. */
export const tenth = (from: number, { size }: SceneObject): string => String(Math.floor((from + size / 2) / 10));

/**
 * How far right, or down, one thing is in each image (`2 no 7`): a fact an image.
 * @returns undefined where an image shows several that look like it
 */
export function placesQuestion(rng: Rng, boxes: readonly Box[], object: SceneObject): Question | undefined {
  const found = boxes.map(({ objects }) => objects.filter(looksLike(object)));
  if (found.some(({ length }) => length > 1)) return undefined;
  const isAcross = rng.chance(0.5);
  const places = found.map(([one]) => (one === undefined ? 'no' : tenth(isAcross ? one.x : one.y, one)));
  return {
    user: `how far ${isAcross ? 'right' : 'down'} is the ${fullName(object)} in each image?`,
    answer: places.join(' '),
  };
}

/** In which image one thing is furthest to a side. @returns undefined where it is not alone in each image, or two places differ by less than 4 px */
export function furthestQuestion(rng: Rng, boxes: readonly Box[], object: SceneObject): Question | undefined {
  const side = rng.pick(['leftmost', 'rightmost', 'highest', 'lowest'] as const);
  const ranks = boxes.map(({ objects }) => {
    const [one, another] = objects.filter(looksLike(object));
    if (one === undefined || another !== undefined) return Number.NaN;
    const along = side === 'leftmost' || side === 'rightmost' ? one.x : one.y;
    return side === 'leftmost' || side === 'highest' ? along : -along;
  });
  const [first = Number.NaN, second = Number.NaN] = ranks.toSorted((a, b) => a - b);
  if (ranks.some(Number.isNaN) || second - first < 4) return undefined;
  return {
    user: `in which image is the ${fullName(object)} ${side}?`,
    answer: String(ranks.indexOf(first) + 1),
    answersWithImage: true,
  };
}
