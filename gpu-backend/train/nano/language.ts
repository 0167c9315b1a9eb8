import type { Rng } from './random.ts';

/** The word list of numbers that people use for counts. */
const numberWords = ['zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven'] as const;

/** A count as people write it: a word twice out of three times, else digits. */
export function numberText(rng: Rng, count: number): string {
  const word = numberWords[count];
  return word !== undefined && count > 0 && rng.chance(0.6) ? word : String(count);
}

/** `box` → `boxes`, `square` → `squares`. */
export function plural(noun: string): string {
  return noun.endsWith('x') ? `${noun}es` : `${noun}s`;
}

/** `a blue item`, `an item`. */
export function withArticle(phrase: string): string {
  return `${/^[aeiou]/.test(phrase) ? 'an' : 'a'} ${phrase}`;
}

const misspellings: Readonly<Record<string, readonly string[]>> = {
  yellow: ['yelow', 'yelloe', 'yello'],
  black: ['back', 'blak'],
  blue: ['ble', 'bleu'],
  least: ['lest', 'leats'],
  block: ['bloxk', 'blok'],
  below: ['bellow'],
  exactly: ['exacly', 'exactley'],
  touching: ['touchin', 'toucing'],
  circle: ['circel'],
  triangle: ['traingle', 'triange'],
  square: ['sqaure', 'squre'],
  items: ['item'],
  objects: ['object'],
  with: ['wih'],
};

/**
 * What people do to a sentence: a capital or not, a final stop or not, now and then one spelling mistake, a lost blank or a doubled one.
 * @param sentence words in lower case, no final stop
 */
export function scruffy(rng: Rng, sentence: string): string {
  let words = sentence.split(' ');
  if (rng.chance(0.05)) {
    const places = words.map((word, i) => (misspellings[word] ? i : -1)).filter((i) => i >= 0);
    if (places.length > 0) {
      const place = rng.pick(places);
      words = words.with(place, rng.pick(misspellings[words[place] ?? ''] ?? ['']));
    }
  }
  let text = words.join(' ');
  if (rng.chance(0.02)) text = text.replace('at least', 'atleast');
  if (rng.chance(0.01)) text = text.replace(/ (a|is) /, (_, word: string) => ` ${word}`);
  if (rng.chance(0.01)) text = text.replace(' ', '  ');
  if (rng.chance(0.7)) text = text.charAt(0).toUpperCase() + text.slice(1);
  return rng.chance(0.5) ? `${text}.` : text;
}

/** Other words for the same, in sentences that are in NLVR's words: what follows never changes what is true. */
const otherWords: readonly (readonly [RegExp, readonly string[]])[] = [
  [/^there is\b/i, ["there's", 'there exists', 'you can see', 'we have', 'one can see']],
  [/^there are\b/i, ['there exist', 'you can see', 'we have']],
  [/\bat least (two|2)\b/i, ['$1 or more', 'more than one', 'a minimum of $1', 'no less than $1']],
  [/\bat least (\w+)\b/i, ['$1 or more', 'a minimum of $1', 'no less than $1', 'not less than $1']],
  [/\bat most (\w+)\b/i, ['no more than $1', 'not more than $1', 'a maximum of $1', '$1 or less']],
  [/\bexactly\b/i, ['precisely', 'just', 'only']],
  [/\bonly\b/i, ['just']],
  [/\bitem(s?)\b/i, ['object$1', 'shape$1', 'figure$1', 'thing$1']],
  [/\bobject(s?)\b/i, ['item$1', 'shape$1']],
  [/(?<!gr[ea]y )\bbox(es)?\b/i, ['grey box$1', 'gray box$1', 'image$1']],
  [/\bclosely touching\b/i, ['touching', 'very near to', 'up against', 'close to']],
  [
    /\btouching (the|an?) (edge|wall|side)\b/i,
    ['touching $1 border', 'at $1 $2', 'against $1 $2', 'next to $1 $2', 'that touches $1 $2'],
  ],
  [/\bthe (edge|wall)\b/i, ['a wall', 'the side', 'the border']],
  [
    /\btouching the (base|bottom)\b/i,
    ['at the bottom', 'on the floor', 'lying on the base', 'touching the lower wall'],
  ],
  [/\b(not|n't) touching\b/i, ['away from', 'not in contact with']],
  [/\bas the base of\b/i, ['at the bottom of', 'as the bottom of', 'at the base of', 'in the lowest position of']],
  [/\bas the top of\b/i, ['at the top of', 'on top of', 'on the top of', 'in the highest position of']],
  [/\bat the (base|bottom)\b/i, ['as its base', 'as the lowest block', 'on the bottom', 'as the first block']],
  [/\bat the top\b/i, ['on top', 'as the highest block', 'as its top', 'in the top position']],
  [/\bblock(s?)\b/i, ['square$1', 'cube$1', 'item$1', 'brick$1']],
  [/\btower(s?)\b/i, ['stack$1', 'tower$1 of blocks', 'pile$1']],
  [/\b(above|over)\b/i, ['on top of', 'on', 'directly above', 'directly over', 'sitting on']],
  [/\bbelow\b/i, ['under', 'directly below', 'beneath', 'underneath']],
  [/\b(with|that has|which has)\b/i, ['containing', 'that contains', 'having', 'including']],
  [/\bdifferent color(s?)\b/i, ['distinct color$1', 'different colour$1']],
  [/\bsame color\b/i, ['same colour', 'identical color']],
  [/\beach\b/i, ['every', 'each and every']],
];

/** The sentence with one or two of its expressions said in other words; unchanged where none is known. */
export function paraphrased(rng: Rng, sentence: string): string {
  let text = sentence;
  const capital = /^[A-Z]/.test(sentence);
  for (let i = rng.int(1, 2); i > 0; i--) {
    const known = otherWords.filter(([pattern]) => pattern.test(text));
    if (known.length === 0) break;
    const [pattern, words] = rng.pick(known);
    text = text.replace(pattern, rng.pick(words));
  }
  return capital ? text.charAt(0).toUpperCase() + text.slice(1) : text;
}
