import { colorCount, countIn, phraseOf, randomPhrase, touchesAnyWall } from './phrases.ts';
import type { Rng } from './random.ts';
import { type Box, colors, type SceneObject, shapes } from './scene.ts';

/** One question with its answer. `choices` lists the answers a scorer compares; it is absent where the answer is free text. */
export interface Question {
  user: string;
  answer: string;
  choices?: readonly string[];
  /** The answer is the number of an image. */
  answersWithImage?: true;
}

export const truthChoices = ['true', 'false'] as const;
export const digitChoices = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'] as const;
export const truthText = (truth: boolean): string => (truth ? 'true' : 'false');

const sizeNames: Readonly<Record<SceneObject['size'], string>> = { 10: 'small', 20: 'medium', 30: 'big' };
export const fullName = (o: SceneObject): string => `${sizeNames[o.size]} ${o.color} ${o.shape}`;

/** Everything in a box in a fixed order: rows of 20 px from the top, left to right; a tower from the base up. */
export function describe(box: Box): string {
  if (box.kind === 'tower') return `tower ${box.objects.map((o) => o.color).join(' ')}`;
  if (box.objects.length === 0) return 'empty';
  const row = (o: SceneObject) => Math.floor((o.y + o.size / 2) / 20);
  const ordered = box.objects.slice().sort((a, b) => row(a) - row(b) || a.x - b.x);
  return ordered.map(fullName).join(', ');
}

export function describeQuestion(boxes: readonly Box[], image: number): Question {
  return { user: `describe image ${image + 1}`, answer: describe(boxes[image] as Box) };
}

const tallies = (label: string, counts: readonly number[]): string => `${label} ${counts.join(' ')}`;

/**
 * Everything that statements count, as one dense answer: a dozen numbers for a few words of question, in the fixed order
 * of colors, shapes, sizes. `with` counts the images that have at least one.
 */
export function tallyQuestion(boxes: readonly Box[]): Question {
  const objects = boxes.flatMap((box) => box.objects);
  const perColor = (pick: (box: Box) => readonly SceneObject[]): number[] =>
    colors.map((color) => boxes.filter((box) => pick(box).some((o) => o.color === color)).length);
  const groups = [
    tallies(
      'each',
      boxes.map((box) => box.objects.length),
    ),
    tallies(
      'colors',
      colors.map((color) => objects.filter((o) => o.color === color).length),
    ),
    tallies(
      'with',
      perColor((box) => box.objects),
    ),
  ];
  if (boxes.every((box) => box.kind === 'tower')) {
    groups.push(
      tallies(
        'base',
        perColor((box) => box.objects.slice(0, 1)),
      ),
    );
    groups.push(
      tallies(
        'top',
        perColor((box) => box.objects.slice(-1)),
      ),
    );
  } else {
    for (const [label, values, of] of [
      ['shapes', shapes, (o: SceneObject) => o.shape],
      ['sizes', [10, 20, 30], (o: SceneObject) => o.size],
    ] as const) {
      const has = (o: SceneObject, value: string | number): boolean => of(o) === value;
      groups.push(
        tallies(
          label,
          values.map((v) => objects.filter((o) => has(o, v)).length),
        ),
      );
      groups.push(
        tallies(
          'with',
          values.map((v) => boxes.filter((box) => box.objects.some((o) => has(o, v))).length),
        ),
      );
    }
  }
  return { user: 'count all images', answer: groups.join(', ') };
}

/** A short question about one image: how many, which colour, which shape. */
export function perceptionQuestion(rng: Rng, boxes: readonly Box[], image = rng.int(0, boxes.length - 1)): Question {
  const box = boxes[image] as Box;
  const where = `image ${image + 1}`;
  const form = rng.weighted({
    count: 4,
    all: 1.5,
    wall: box.kind === 'scatter' ? 1 : 0,
    colors: 0.7,
    top: 1.5,
    attribute: box.kind === 'scatter' ? 2.5 : 0,
  });
  const digit = (user: string, count: number): Question => ({ user, answer: String(count), choices: digitChoices });
  if (form === 'count') {
    // Ask half of the time about something that is there, so that the answer is not mostly zero.
    const shown = box.objects.length > 0 && rng.chance(0.6) ? rng.pick(box.objects) : undefined;
    const phrase = shown
      ? phraseOf(
          rng,
          box.kind,
          box.kind === 'tower'
            ? { color: shown.color }
            : rng.pick([{ color: shown.color }, { shape: shown.shape }, { color: shown.color, shape: shown.shape }]),
        )
      : randomPhrase(rng, box.kind);
    return digit(`how many ${phrase.many} are in ${where}?`, countIn([box], phrase.test));
  }
  if (form === 'colors') return digit(`how many colors are in ${where}?`, colorCount(box));
  if (form === 'wall') return digit(`how many items touch the wall in ${where}?`, countIn([box], touchesAnyWall));
  if (form === 'top' && box.objects.length > 0) {
    if (box.kind === 'tower') {
      const end = rng.pick(['top', 'base'] as const);
      const block = end === 'top' ? box.objects.at(-1) : box.objects[0];
      return { user: `what color is the ${end} block in ${where}?`, answer: block?.color ?? '', choices: colors };
    }
    const end = rng.pick(['highest', 'lowest', 'leftmost', 'rightmost'] as const);
    const rank = (o: SceneObject) =>
      end === 'highest' ? o.y : end === 'lowest' ? -o.y - o.size : end === 'leftmost' ? o.x : -o.x - o.size;
    const ranked = box.objects.slice().sort((a, b) => rank(a) - rank(b));
    const [first, next] = ranked;
    if (first && (!next || rank(next) - rank(first) >= 4)) {
      return rng.chance(0.5)
        ? { user: `what color is the ${end} item in ${where}?`, answer: first.color, choices: colors }
        : { user: `what shape is the ${end} item in ${where}?`, answer: first.shape, choices: shapes };
    }
  }
  if (form === 'attribute') {
    const target = box.objects.length > 0 ? rng.pick(box.objects) : undefined;
    const alone = (test: (o: SceneObject) => boolean) => box.objects.filter(test).length === 1;
    if (target && alone((o) => o.shape === target.shape && o.size === target.size)) {
      return {
        user: `what color is the ${sizeNames[target.size]} ${target.shape} in ${where}?`,
        answer: target.color,
        choices: colors,
      };
    }
    if (target && alone((o) => o.color === target.color && o.size === target.size)) {
      return {
        user: `what shape is the ${sizeNames[target.size]} ${target.color} item in ${where}?`,
        answer: target.shape,
        choices: shapes,
      };
    }
  }
  return digit(`how many ${box.kind === 'tower' ? 'blocks' : 'items'} are in ${where}?`, box.objects.length);
}
