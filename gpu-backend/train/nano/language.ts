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
