import type { Scored } from '../task.ts';
import { strip, words } from './python-text.ts';

/** `A`, `B`, … for the option at an index below 26. */
export const letterOf = (index: number): string => String.fromCharCode(65 + index);

/** `A. cat` lines. */
export const letteredLines = (options: readonly string[]): string =>
  options.map((option, i) => `${letterOf(i)}. ${option}`).join('\n');

const score = (parsed: string | null, rule: string, isRight: boolean): Scored => ({
  score: isRight ? 1 : 0,
  parsed,
  rule,
});

/**
 * ScienceQA's rule: the answer is the letter in either case, or begins with an upper-case letter and a full stop; nothing else counts.
 * @param target the right letter
 */
export function scoreExactLetter(answer: string, target: string): Scored {
  const text = strip(answer);
  if (text.toLowerCase() === target.toLowerCase()) return score(text.toUpperCase(), 'exact letter', true);
  const [first = '', second] = text;
  if (second === '.' && /^\p{Lu}/u.test(text)) return score(first, 'letter and full stop', first === target);
  return score(/^[A-Za-z]$/.test(text) ? text.toUpperCase() : null, 'exact letter', false);
}

/** MuirBench's rule: an upper-case letter and a full stop at the start, else the whole answer must be the letter, in either case. */
export function scoreLeadingLetter(answer: string, target: string): Scored {
  const lead = /^\s*([A-Z])\./.exec(answer)?.[1];
  if (lead !== undefined) return score(lead, 'letter and full stop', lead === target.toUpperCase());
  const text = strip(answer);
  const isRight = text.toLowerCase() === strip(target).toLowerCase();
  return score(/^[A-Za-z]$/.test(text) ? text.toUpperCase() : null, 'exact letter', isRight);
}

/**
 * MMIU's rule: full stops, commas and brackets at the ends are dropped, then a lone letter A to N counts that the reference holds; other answers are for the judge,
 * and wrong without one.
 */
export function scoreLoneLetter(answer: string, target: string): Scored {
  const text = strip(
    strip(answer)
      .replaceAll('\u00a0', '')
      .replace(/^[.,()]+|[.,()]+$/g, ''),
  );
  if (!/^[a-nA-N]$/.test(text)) return score(null, text === '' ? 'empty' : 'no letter', false);
  return score(text.toUpperCase(), 'lone letter', target.toLowerCase().includes(text.toLowerCase()));
}

/** Decorations in which MMBench's matching knows a letter, in its order. */
const DECORATIONS: readonly (readonly [before: string, after: string])[] = [
  ['', '.'],
  ['', ','],
  ['', ':'],
  ['', ')'],
  ['', ').'],
  ['(', ')'],
  ['(', ').'],
  [':', ''],
  [':', ','],
  [':', '.'],
  [':', ')'],
  [':', ').'],
];

export interface Inferred {
  readonly letter: string;
  readonly rule: 'letter' | 'decorated letter' | 'option text';
}

/**
 * MMBench's matching of an answer with its options (VLMEvalKit and lmms-eval, `can_infer`): exactly one letter A to E among the words, plain (where "A" is one of
 * more than three words it may be an article, and the word is not trusted) or in one decoration; else exactly one of the options A to D within the answer, in
 * lower case. E is always known, and means that none fits.
 * @returns null where none is found, or more than one
 */
export function inferOption(answer: string, options: readonly string[]): Inferred | null {
  const tokens = new Set(words(answer));
  const count = words(answer).length;
  const letters = ['A', 'B', 'C', 'D', 'E'];
  const found = (before: string, after: string) => letters.filter((letter) => tokens.has(before + letter + after));
  const [plain, ...more] = found('', '');
  if (plain !== undefined && more.length === 0 && !(tokens.has('A') && count > 3))
    return { letter: plain, rule: 'letter' };
  for (const [before, after] of DECORATIONS) {
    const [letter, ...others] = found(before, after);
    if (letter !== undefined && others.length === 0) return { letter, rule: 'decorated letter' };
  }
  const text = answer.toLowerCase();
  const named = options.flatMap((option, i) => (i < 4 && text.includes(option.toLowerCase()) ? [letterOf(i)] : []));
  return named.length === 1 && named[0] !== undefined ? { letter: named[0], rule: 'option text' } : null;
}

/** MMBench: the option that `inferOption` finds; without one (and without a judge) the answer is wrong. */
export function scoreInferred(answer: string, options: readonly string[], target: string): Scored {
  const inferred = inferOption(answer, options);
  if (inferred === null) return score(null, 'no option', false);
  return score(inferred.letter, inferred.rule, inferred.letter === target);
}
