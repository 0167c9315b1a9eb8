import { sha256Hex } from '../../io/digest.ts';
import type { Scored } from '../task.ts';
import { letterOf } from './letters.ts';
import { parseFloatOf, parseStringList, roundHalfEven, strip, stripOf, words } from './python-text.ts';

/**
 * Which published reading of a multiple-choice answer. `lmms-eval` (v0.1 to v0.5, what the Mantis tables were made with) takes a letter before a space, then one
 * before a full stop; `mmmu` (the benchmark's own repository) only a letter between spaces. They agree on all but odd answers.
 */
export type MmmuReading = 'lmms-eval' | 'mmmu';

export interface Choice {
  readonly letter: string;
  readonly rule: 'bracketed letter' | 'letter and space' | 'letter and full stop' | 'option text' | 'drawn';
}

/**
 * Reads a multiple-choice answer: letters in brackets, else plain letters, else (in answers of more than five words) the options' texts; of several the one
 * that stands last. Where the publishers draw a random letter, ours is SHA-256(id) modulo the number of options: as often right, and the same for ever.
 * @param id the record's, for the draw
 */
export function parseMultiChoice(
  answer: string,
  options: readonly string[],
  id: string,
  reading: MmmuReading = 'lmms-eval',
): Choice {
  let trimmed = answer;
  for (const mark of [',', '.', '!', '?', ';', ':', "'"]) trimmed = stripOf(trimmed, mark);
  const text = ` ${trimmed} `;
  const letters = options.map((_, i) => letterOf(i));
  const having = (form: (letter: string) => string) => letters.filter((letter) => text.includes(form(letter)));

  const bracketed = having((letter) => `(${letter})`);
  if (bracketed.length > 0)
    return { letter: lastOf(bracketed, (letter) => text.lastIndexOf(`(${letter})`)), rule: 'bracketed letter' };
  const between = (letter: string): number => text.lastIndexOf(` ${letter} `);
  const spaced = having((letter) => (reading === 'mmmu' ? ` ${letter} ` : `${letter} `));
  if (spaced.length > 0) return { letter: lastOf(spaced, between), rule: 'letter and space' };
  const stopped = reading === 'mmmu' ? [] : having((letter) => `${letter}.`);
  if (stopped.length > 0) return { letter: lastOf(stopped, between), rule: 'letter and full stop' };
  if (words(text).length > 5) {
    const lower = text.toLowerCase();
    const place = (letter: string): number => lower.lastIndexOf((options[letters.indexOf(letter)] ?? '').toLowerCase());
    const named = letters.filter((letter) => place(letter) >= 0);
    if (named.length > 0) return { letter: lastOf(named, place), rule: 'option text' };
  }
  return { letter: letterOf(Number.parseInt(sha256Hex(id).slice(0, 8), 16) % options.length), rule: 'drawn' };
}

/** The candidate whose place is greatest, the first of equals (numpy's argmax). */
function lastOf(candidates: readonly string[], place: (letter: string) => number): string {
  let best = candidates[0] ?? '';
  for (const candidate of candidates) if (place(candidate) > place(best)) best = candidate;
  return best;
}

/** What an open answer is compared by: lower-case text, or a number of two decimals. */
export type Span = string | number;

/** A number (thousands' commas dropped) rounded to two decimals, else lower-case text; one character is padded so that it does not match within words. */
export function normalizeSpan(text: string): Span[] {
  const stripped = strip(text);
  const value = parseFloatOf(stripped.replaceAll(',', ''));
  if (value !== null) return [roundHalfEven(value, 2)];
  const lower = stripped.toLowerCase();
  return [...lower].length === 1 ? [` ${lower}`, `${lower} `] : [lower];
}

const NUMBERS = [
  // 1,234,567
  /-?(?<![\p{L}\p{N}_])\d{1,3}(?:,\d{3})+(?![\p{L}\p{N}_])/gu,
  // 1.2e-3
  /-?\d+(?:\.\d+)?[eE][+-]?\d+/g,
  // 12, 1.5, .5
  /-?(?:\d+\.\d+|\.\d+|\d+(?![\p{L}\p{N}_]))(?![eE][+-]?\d+)(?![,\d])/gu,
];

const SIGNS_OF_AN_ANSWER = ['could be ', 'so ', 'is ', 'thus ', 'therefore ', 'final ', 'answer ', 'result '];
const TRIVIAL = new Set([':', ',', '.', '!', '?', ';', "'"]);

/**
 * The spans that may be meant by an open answer: of each line the shortest tail behind a sign of an answer ("is ", "thus ", …; in the last line "=" too), else
 * the whole answer; and all numbers within them.
 */
export function parseOpen(answer: string): Span[] {
  // Published after lower-casing, the pattern that would split sentences before a capital never matches: lines it is.
  const whole = stripOf(strip(answer), '.').toLowerCase();
  const lines = whole.split('\n');
  const tails: string[] = [];
  for (const [i, line] of lines.entries()) {
    const signs = i === lines.length - 1 ? [...SIGNS_OF_AN_ANSWER, '='] : SIGNS_OF_AN_ANSWER;
    let shortest = '';
    for (const sign of signs) {
      if (!line.includes(sign)) continue;
      const tail = strip(line.slice(line.lastIndexOf(sign) + sign.length));
      if (shortest === '' || tail.length < shortest.length) shortest = tail;
    }
    if (shortest !== '' && !TRIVIAL.has(shortest)) tails.push(shortest);
  }
  const spans = tails.length === 0 ? [whole] : tails;
  const numbers = spans.flatMap((span) => NUMBERS.flatMap((pattern) => span.match(pattern) ?? []));
  return [...new Set([...spans, ...numbers].flatMap(normalizeSpan))];
}

/** Right when a reference stands within a span of text, or equals a span that is a number. */
export function matchesOpen(spans: readonly Span[], references: readonly string[]): boolean {
  const wanted = references.flatMap(normalizeSpan);
  return spans.some((span) =>
    typeof span === 'number'
      ? wanted.some((reference) => reference === span)
      : wanted.some((reference) => typeof reference === 'string' && span.includes(reference)),
  );
}

/** References of an open question: the published cell, or the strings of a list where it holds one (`['24/7', '3.429']`). */
export const openReferences = (cell: string): readonly string[] => parseStringList(cell) ?? [cell];

/** @param options empty for an open question */
export function scoreMmmu(
  answer: string,
  options: readonly string[],
  references: readonly string[],
  id: string,
  reading: MmmuReading = 'lmms-eval',
): Scored {
  if (options.length > 0) {
    const { letter, rule } = parseMultiChoice(answer, options, id, reading);
    return { score: references.includes(letter) ? 1 : 0, parsed: letter, rule };
  }
  const spans = parseOpen(answer);
  return { score: matchesOpen(spans, references) ? 1 : 0, parsed: spans.join(' | '), rule: 'open' };
}
