import type { Scored } from '../task.ts';
import { strip, stripOf } from './python-text.ts';

/** What a question of the Mantis form is scored against. */
export interface MantisQuestion {
  readonly type: 'multi-choice' | 'short-answer';
  /** As published, with whatever letters they hold. */
  readonly options: readonly string[];
  /** As published: `B`, `(B)`, `(B) both` or a short answer. */
  readonly reference: string;
  /** NLVR2 alone: where the letter is out of range, an answer that says either "true" or "false" counts for the option that does. */
  readonly acceptsTrueFalse: boolean;
}

/** What an answer is read after, in this order; the first place of the first one that occurs. */
const MARKERS = ['final answer:', 'the answer is', 'answer:'] as const;

/** The part of an answer that is looked at, and the name of the rule that found it. Without any marker it is everything, white space included. */
export function afterMarker(answer: string): { readonly text: string; readonly rule: string | null } {
  const lower = answer.toLowerCase();
  for (const marker of MARKERS) {
    const at = lower.indexOf(marker);
    if (at < 0) continue;
    // Places are counted in characters of the lowered text and taken in the raw one, as published; they differ after an "İ", which grows.
    const before = [...lower.slice(0, at)].length;
    return { text: strip([...answer].slice(before + marker.length).join('')), rule: marker };
  }
  return { text: answer, rule: null };
}

/** The letter of a reference: brackets and spaces are stripped, then it is the only character, or the first letter. @returns null where there is no letter */
export function referenceLetter(published: string): string | null {
  const stripped = stripOf(published, '()\n ');
  if ([...stripped].length === 1) return stripped;
  return firstLetter(stripped);
}

/**
 * Scores by the rules of the Mantis paper's evaluation (TIGER-AI-Lab/Mantis, mantis/benchmark/eval.py, as of May 2024).
 *
 * Multi-choice: of the text after the marker, `Answer: X` at its start, else the first letter of any alphabet in upper case, is the choice where it is within
 * range. So "A dog" is A, and "The correct option is B" is T, which is out of range. Out of range the raw answer must be the text of the right option (NLVR2:
 * say either true or false). Short answers: equal in lower case.
 */
export function scoreMantis(answer: string, question: MantisQuestion): Scored {
  const { text, rule: marker } = afterMarker(answer);
  if (question.type === 'short-answer') {
    const isRight = stripOf(question.reference, '()\n ').toLowerCase() === text.toLowerCase();
    return { score: isRight ? 1 : 0, parsed: text === '' ? null : text, rule: marker ?? 'whole answer' };
  }
  const reference = referenceLetter(question.reference);
  const form = /^Answer: ([A-Z])/.exec(text)?.[1];
  const choice = form ?? firstLetter(text)?.toUpperCase() ?? null;
  if (choice !== null && placeOf(choice) < question.options.length) {
    const rule = form !== undefined ? 'Answer: X' : `first letter${marker === null ? '' : ` after "${marker}"`}`;
    return { score: choice === reference?.toUpperCase() ? 1 : 0, parsed: choice, rule };
  }
  const none = choice === null ? 'no letter' : 'out of range';
  const place = reference === null ? Number.POSITIVE_INFINITY : placeOf(reference.toUpperCase());
  const right = question.options[place];
  if (reference === null || right === undefined) return { score: 0, parsed: null, rule: none };
  if (question.acceptsTrueFalse) return scoreTrueFalse(answer, question.options, right, none);
  const given = strip(answer);
  // The right option first: where two have one text, it counts.
  const places = [place, ...question.options.keys()];
  const named = places.find(
    (at) => given === optionText(question.options[at] ?? '', at === place ? reference : letterAt(at)),
  );
  if (named === undefined) return { score: 0, parsed: null, rule: none };
  return { score: named === place ? 1 : 0, parsed: letterAt(named), rule: 'exact option' };
}

function scoreTrueFalse(answer: string, options: readonly string[], right: string, none: string): Scored {
  const lower = answer.toLowerCase();
  const said = (['true', 'false'] as const).filter((word) => lower.includes(word));
  const [word] = said;
  if (word === undefined || said.length > 1) return { score: 0, parsed: null, rule: none };
  const named = options.findIndex((option) => option.toLowerCase().includes(word));
  const isRight = right.toLowerCase().includes(word);
  return { score: isRight ? 1 : 0, parsed: named < 0 ? null : letterAt(named), rule: 'true or false' };
}

/** The text of an option without the letter that it may begin with: `B.`, `B:` or `(B)`. */
function optionText(option: string, letter: string): string {
  for (const prefix of [`${letter}.`, `${letter}:`, `(${letter})`]) {
    if (option.startsWith(prefix)) return strip(option.slice(prefix.length));
  }
  return strip(option);
}

function firstLetter(text: string): string | null {
  return /\p{L}/u.exec(text)?.[0] ?? null;
}

const letterAt = (place: number): string => String.fromCharCode(65 + place);

/** Place of an option by its letter in upper case; endless for what is no single letter after A ("ß" becomes "SS"). */
function placeOf(letter: string): number {
  const place = [...letter].length === 1 ? (letter.codePointAt(0) ?? 0) - 65 : Number.POSITIVE_INFINITY;
  return place < 0 ? Number.POSITIVE_INFINITY : place;
}
