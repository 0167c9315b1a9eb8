import type { Scored } from '../task.ts';
import { words } from './python-text.ts';

const LETTERS = ['A', 'B', 'C', 'D', 'E'] as const;

/**
 * The letter that BLINK's evaluation finds without a model (zeyofu/BLINK_Benchmark, eval/test_benchmark.py): the answer is nothing but a letter `A` … `E`, with
 * or without brackets; else exactly one of the bracketed letters of the question's choices is a word of its own, in the last paragraph or in the whole answer.
 * @returns null where the publishers ask GPT-3.5
 */
export function blinkChoice(
  answer: string,
  choices: number,
): { readonly letter: string; readonly rule: string } | null {
  for (const letter of LETTERS)
    if (answer === letter || answer === `(${letter})`) return { letter, rule: 'letter alone' };
  const own = LETTERS.slice(0, choices);
  const within = (text: string): string[] => {
    const found = new Set(words(text));
    return own.filter((letter) => found.has(`(${letter})`));
  };
  const [first, ...others] = within(answer);
  const [last, ...otherLast] = within(answer.split('\n\n').at(-1) ?? '');
  if (last !== undefined && otherLast.length === 0) return { letter: last, rule: 'letter in the last paragraph' };
  if (first !== undefined && others.length === 0) return { letter: first, rule: 'letter in the answer' };
  return null;
}

/** @param reference as published, `(B)` */
export function scoreBlink(answer: string, choices: number, reference: string): Scored {
  const found = blinkChoice(answer, choices);
  if (found === null) return { score: 0, parsed: null, rule: 'no match' };
  return { score: `(${found.letter})` === reference ? 1 : 0, parsed: found.letter, rule: found.rule };
}
