import { numberText, plural, withArticle } from './language.ts';
import type { Rng } from './random.ts';
import { type Box, boxSidePx, type Color, colors, type SceneObject, shapes, sizesPx } from './scene.ts';

/** A noun phrase that selects objects of a box. `key` names its meaning, not its words. */
export interface Phrase {
  one: string;
  many: string;
  key: string;
  test(object: SceneObject): boolean;
}

/** A number phrase: `exactly two`, `at least 1`, `a`, `no`. */
export interface Quantity {
  text: string;
  takesPlural: boolean;
  key: string;
  test(count: number): boolean;
}

/** A condition on one box, worded to follow `with` or `has`. */
export interface BoxTest {
  text: string;
  key: string;
  holds(box: Box): boolean;
}

/** A statement about a set of boxes with a computable truth. `text` is lower case without final stop. */
export interface Claim {
  text: string;
  key: string;
  holds(boxes: readonly Box[]): boolean;
}

export const sizeWords: Readonly<Record<SceneObject['size'], readonly string[]>> = {
  10: ['small'],
  20: ['medium'],
  30: ['big', 'large'],
};

export interface PhraseChoice {
  color?: Color | undefined;
  shape?: SceneObject['shape'] | undefined;
  size?: SceneObject['size'] | undefined;
}

/** Words for a choice of attributes, for example `small blue circle` or `black item`. */
export function phraseOf(rng: Rng, kind: Box['kind'], { color, shape, size }: PhraseChoice): Phrase {
  const noun = shape ?? (kind === 'tower' ? (rng.chance(0.9) ? 'block' : 'item') : rng.chance(0.7) ? 'item' : 'object');
  const words = [size === undefined ? '' : rng.pick(sizeWords[size]), color ?? ''].filter((word) => word !== '');
  return {
    one: [...words, noun].join(' '),
    many: [...words, plural(noun)].join(' '),
    key: `${size ?? ''}${color ?? ''}${shape ?? ''}`,
    test: (o) =>
      (color === undefined || o.color === color) &&
      (shape === undefined || o.shape === shape) &&
      (size === undefined || o.size === size),
  };
}

export function randomPhrase(rng: Rng, kind: Box['kind'], sizeChance = 0.06): Phrase {
  if (kind === 'tower') return phraseOf(rng, kind, { color: rng.chance(0.92) ? rng.pick(colors) : undefined });
  const form = rng.weighted({ color: 4, both: 4, shape: 2, any: 1 });
  return phraseOf(rng, kind, {
    color: form === 'color' || form === 'both' ? rng.pick(colors) : undefined,
    shape: form === 'shape' || form === 'both' ? rng.pick(shapes) : undefined,
    size: rng.chance(sizeChance) ? rng.pick(sizesPx) : undefined,
  });
}

export type QuantityForm = 'exactly' | 'only' | 'atLeast' | 'atMost' | 'moreThan' | 'lessThan' | 'bare' | 'a' | 'no';

/** Words and test of one number phrase. A bare `two` means exactly two, as the published labels read it most often. */
export function quantityOf(rng: Rng, form: QuantityForm, n: number): Quantity {
  const number = numberText(rng, n);
  const many = n !== 1;
  switch (form) {
    case 'exactly':
      return { text: `exactly ${number}`, takesPlural: many, key: `=${n}`, test: (c) => c === n };
    case 'only':
      return { text: `only ${number}`, takesPlural: many, key: `=${n}`, test: (c) => c === n };
    case 'bare':
      return { text: number, takesPlural: many, key: `b${n}`, test: (c) => c === n };
    case 'atLeast':
      return { text: `at least ${number}`, takesPlural: many, key: `>=${n}`, test: (c) => c >= n };
    case 'atMost':
      return { text: `at most ${number}`, takesPlural: many, key: `<=${n}`, test: (c) => c <= n };
    case 'moreThan':
      return { text: `more than ${number}`, takesPlural: many, key: `>${n}`, test: (c) => c > n };
    case 'lessThan':
      return { text: `less than ${number}`, takesPlural: many, key: `<${n}`, test: (c) => c < n };
    case 'a':
      return { text: 'a', takesPlural: false, key: '>=1', test: (c) => c >= 1 };
    case 'no':
      return { text: 'no', takesPlural: false, key: '=0', test: (c) => c === 0 };
  }
}

export type FormWeights = Readonly<Partial<Record<QuantityForm, number>>>;

export function randomQuantity(rng: Rng, weights: FormWeights, largest: number): Quantity {
  const form = rng.weighted(weights);
  const skewed = Math.min(rng.int(1, largest), rng.int(1, largest));
  return quantityOf(
    rng,
    form,
    form === 'lessThan' || (form === 'moreThan' && largest > 1) ? Math.max(skewed, 2) : skewed,
  );
}

/** `exactly two blue items`, `a circle`, `no tower with …` (what follows the noun comes as `tail`). */
export function counted(quantity: Quantity, one: string, many: string, tail = ''): string {
  if (quantity.text === 'a') return withArticle(one) + tail;
  return `${quantity.text} ${quantity.takesPlural ? many : one}${tail}`;
}

/** `there is` or `there are`, with people's slips in number. */
export function thereIs(rng: Rng, quantity: Quantity): string {
  const plural = quantity.takesPlural !== rng.chance(0.03);
  return plural ? 'there are' : 'there is';
}

export type Wall = 'left' | 'right' | 'top' | 'bottom';
export const touchesWall = (o: SceneObject, wall: Wall): boolean => {
  switch (wall) {
    case 'left':
      return o.x === 0;
    case 'right':
      return o.x + o.size === boxSidePx;
    case 'top':
      return o.y === 0;
    case 'bottom':
      return o.y + o.size === boxSidePx;
  }
};
export const touchesSide = (o: SceneObject) => touchesWall(o, 'left') || touchesWall(o, 'right');
export const touchesAnyWall = (o: SceneObject) => touchesSide(o) || touchesWall(o, 'top') || touchesWall(o, 'bottom');
export const touchesCorner = (o: SceneObject) => touchesSide(o) && (touchesWall(o, 'top') || touchesWall(o, 'bottom'));

export interface Relation {
  text: string;
  key: string;
  test(object: SceneObject): boolean;
}

/** A place relation of an object of a scatter: at a wall, in a corner, or free of them. */
export function randomRelation(rng: Rng): Relation {
  switch (rng.weighted({ any: 5, none: 4, bottom: 5, right: 3, top: 1, left: 1, corner: 2 })) {
    case 'any':
      return {
        text: rng.pick([
          'touching the edge',
          'touching the wall',
          'touching the side',
          'touching any edge',
          'touching an edge',
          'closely touching a wall of a box',
          'touching the side of the box',
        ]),
        key: 'any',
        test: touchesAnyWall,
      };
    case 'none':
      return {
        text: rng.pick(['not touching any edge', 'not touching the edge', 'not touching the wall']),
        key: 'none',
        test: (o) => !touchesAnyWall(o),
      };
    case 'bottom':
      return {
        text: rng.pick([
          'touching the base',
          'closely touching the bottom of a box',
          'touching the bottom base',
          'touching the bottom',
        ]),
        key: 'bottom',
        test: (o) => touchesWall(o, 'bottom'),
      };
    case 'right':
      return {
        text: rng.pick(['closely touching right wall of a box', 'touching the right wall', 'touching the right side']),
        key: 'right',
        test: (o) => touchesWall(o, 'right'),
      };
    case 'top':
      return {
        text: rng.pick(['closely touching the roof of a box', 'touching the top', 'touching the top wall']),
        key: 'top',
        test: (o) => touchesWall(o, 'top'),
      };
    case 'left':
      return {
        text: rng.pick(['closely touching left wall of a box', 'touching the left wall', 'touching the left side']),
        key: 'left',
        test: (o) => touchesWall(o, 'left'),
      };
    case 'corner':
      return {
        text: rng.pick([
          'closely touching a corner',
          'closely touching a corner of a box',
          'touching the corner',
          'in the corner of the box',
        ]),
        key: 'corner',
        test: touchesCorner,
      };
  }
}

/** Columns [left, right] that a shape covers in its row `row`. */
function extent(o: SceneObject, row: number): [number, number] {
  const half = o.size / 2;
  if (o.shape === 'square') return [o.x, o.x + o.size - 1];
  const reach =
    o.shape === 'triangle' ? (row >> 1) + 1 : Math.round(Math.sqrt(Math.max(0, half * half - (row + 0.5 - half) ** 2)));
  return [o.x + half - reach, o.x + half + reach - 1];
}

/** Whether two objects touch as people see it: outlines at most `gapPx` background pixels apart (the pictures never let them meet). */
export function touching(a: SceneObject, b: SceneObject, gapPx = 2): boolean {
  if (
    a.x > b.x + b.size + gapPx ||
    b.x > a.x + a.size + gapPx ||
    a.y > b.y + b.size + gapPx ||
    b.y > a.y + a.size + gapPx
  )
    return false;
  for (let i = 0; i < a.size; i++) {
    const [leftA, rightA] = extent(a, i);
    for (let j = 0; j < b.size; j++) {
      if (Math.abs(a.y + i - b.y - j) > gapPx + 1) continue;
      const [leftB, rightB] = extent(b, j);
      if (Math.max(leftA - rightB, leftB - rightA) - 1 <= gapPx) return true;
    }
  }
  return false;
}

export const countIn = (boxes: readonly Box[], test: (o: SceneObject) => boolean): number => {
  let count = 0;
  for (const box of boxes) for (const object of box.objects) if (test(object)) count++;
  return count;
};
export const colorCount = (box: Box): number => new Set(box.objects.map((o) => o.color)).size;
