import { type Color, colors, type SceneObject, type Shape, shapes } from './scene.ts';

/** What reading people's sentences has in common for towers and scatters: spelling, numbers, noun phrases. */

export type ObjectTest = (object: SceneObject) => boolean;
export type CountTest = (count: number) => boolean;

const numbers: Readonly<Record<string, string>> = {
  zero: '0',
  one: '1',
  two: '2',
  three: '3',
  four: '4',
  five: '5',
  six: '6',
  seven: '7',
};

/** Slips that are whole words themselves or more than one letter away from what was meant. */
const slips: readonly (readonly [RegExp, string])[] = [
  [/\bisa\b/g, 'is a'],
  [/\ba(black|blue|yellow|box|tower|block)\b/g, 'a $1'],
  [/\b(at)(least|most)\b/g, '$1 $2'],
  [/\b(yelloe|yello|yelow)\b/g, 'yellow'],
  [/\bleats\b/g, 'least'],
  [/\bbellow\b/g, 'below'],
  [/\bll the\b/g, 'all the'],
  [/^t least\b/, 'at least'],
  [/ t least\b/g, ' at least'],
  [/\bback (block|item|circle|square|triangle)/g, 'black $1'],
  [/^the is\b/, 'there is'],
  [/\bas (black|blue|yellow|box|tower)\b/g, 'a $1'],
  [/\b(tower|box) than (contains|has)\b/g, '$1 that $2'],
  [/\bwith has\b/g, 'with'],
  [/\bcolou?rs?\b/g, 'color'],
  [/\bobject/g, 'item'],
  [/\bgr[ea]y (squares|boxes)\b/g, 'boxes'],
  [/\bgr[ea]y (square|box|item)\b/g, 'box'],
  [/\bedges?\b/g, 'edge'],
  [/\bhaving\b/g, 'with'],
  [/\bjust\b/g, 'only'],
  [/\bis of (black|blue|yellow) color\b/g, 'is $1'],
  [/\bare of (black|blue|yellow) color\b/g, 'are $1'],
];

const vocabulary = new Set(
  (
    'a an the there is are no not none any each every all both of in it its on at as to with that which who where from and or but ' +
    'exactly only least most more than less fewer many multiple lot single number same different other another size color shape kinds ' +
    'black blue yellow small medium big large item items circle circles square squares triangle triangles block blocks ' +
    'box boxes tower towers base bases bottom top roof middle level first second third fourth last has have contain contains containing ' +
    'touching touch closely nearly directly right left corner edge wall side above over below beneath under between attached ' +
    'attach stacked together position positions near including being they either after before without upper lower ' +
    '0 1 2 3 4 5 6 7 ,'
  ).split(' '),
);

/** The known word that is one letter (two in long words) away from an unknown one, if there is exactly one such. */
function respelled(word: string): string {
  if (vocabulary.has(word) || word.length < 3) return word;
  const most = word.length >= 7 ? 2 : 1;
  const near = [...vocabulary].filter((known) => known.length > 2 && distance(word, known, most) <= most);
  return near.length === 1 && near[0] !== undefined ? near[0] : word;
}

/** Edit distance with neighbours swapped as one edit; anything above `most` is `most + 1`. */
function distance(a: string, b: string, most: number): number {
  if (Math.abs(a.length - b.length) > most) return most + 1;
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let best = Math.min((row[j - 1] ?? 0) + 1, (last[j] ?? 0) + 1, (last[j - 1] ?? 0) + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, (before[j - 2] ?? 0) + 1);
      row.push(best);
    }
    before = last;
    last = row;
  }
  return last[b.length] ?? most + 1;
}

/** Lower case, digits, known spelling, one blank between words, no closing punctuation. */
export function normalized(statement: string): string {
  let text = statement
    .toLowerCase()
    .replace(/[./;:!?'"]+/g, ' ')
    .replace(/,/g, ' , ')
    .replace(/-/g, ' ')
    .replace(/\s+/g, ' ')
    .trim();
  const fix = (): void => {
    for (const [pattern, right] of slips) text = text.replace(pattern, right);
  };
  fix();
  text = text
    .split(' ')
    .map((word) => numbers[word] ?? respelled(word))
    .map((word) => numbers[word] ?? word)
    .join(' ')
    .replace(/\b(black|blue|yellow) 1\b/g, '$1 item');
  fix();
  return text;
}

export interface Quantity {
  readonly test: CountTest;
  /** What follows the number. */
  readonly rest: string;
  /** `a`, `an`: at least one. */
  readonly isArticle: boolean;
}

/** The number phrase that a text begins with. A bare `2` means exactly two. */
export function quantityAt(text: string): Quantity | undefined {
  const match =
    /^(?:(exactly|only|at least|at most|more than|less than|fewer than) )?(\d|a lot of|(?:a )?single|an?|no|many|multiple)(?: (.*))?$/.exec(
      text,
    );
  if (!match) return undefined;
  const [, form, word = '', rest = ''] = match;
  const isArticle = word === 'a' || word === 'an';
  if (word === 'many' || word === 'multiple' || word === 'a lot of')
    return form === undefined ? { test: (c) => c >= 2, rest, isArticle: false } : undefined;
  if (word === 'no') return form === undefined ? { test: (c) => c === 0, rest, isArticle: false } : undefined;
  const n = /\d/.test(word) ? Number(word) : 1;
  switch (form) {
    case 'at least':
      return { test: (c) => c >= n, rest, isArticle };
    case 'at most':
      return { test: (c) => c <= n, rest, isArticle };
    case 'more than':
      return { test: (c) => c > n, rest, isArticle };
    case 'less than':
    case 'fewer than':
      return { test: (c) => c < n, rest, isArticle };
    case undefined:
      return { test: isArticle ? (c) => c >= 1 : (c) => c === n, rest, isArticle };
    default:
      return { test: (c) => c === n, rest, isArticle };
  }
}

const sizeOf: Readonly<Record<string, number>> = { small: 10, medium: 20, big: 30, large: 30 };
const isColor = (word: string | undefined): word is Color => colors.some((color) => color === word);
const isShape = (word: string | undefined): word is Shape => shapes.some((shape) => shape === word);

/** `small blue circles`, `black`, `items`; undefined where it is not a plain noun phrase. */
export function nounPhrase(text: string): ObjectTest | undefined {
  const match =
    /^(?:(small|medium|big|large) )?(?:(black|blue|yellow)(?: color)?)?(?: ?\b(item|circle|square|triangle|block)s?)?(?: items?)?$/.exec(
      text,
    );
  if (!match || text === '') return undefined;
  const [, size, color, noun] = match;
  return (o) =>
    (size === undefined || o.size === sizeOf[size]) &&
    (!isColor(color) || o.color === color) &&
    (!isShape(noun) || o.shape === noun);
}

/** `black`, `blue and yellow`, `black , blue and yellow`: the colors of a list. */
export function colorList(text: string): Color[] | undefined {
  const words = text.split(/ and | , /).map((word) => word.replace(/^(?:and )?(?:1 )?/, ''));
  return words.every(isColor) ? words : undefined;
}

/** Both halves of a text at every ` and ` or ` , `, the first one first. */
export function conjunctions(text: string): [string, string][] {
  return [...text.matchAll(/ , and | and with | and | , | with | where (?:the )?| but | (?=not with )/g)].map(
    (match) => [text.slice(0, match.index), text.slice(match.index + match[0].length)],
  );
}
