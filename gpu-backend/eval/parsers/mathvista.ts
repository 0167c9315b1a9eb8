import type { Scored } from '../task.ts';
import { letterOf } from './letters.ts';
import { floatRepr, parseFloatOf, parseInteger, roundHalfEven, strip, truncated } from './python-text.ts';

export type MathAnswerType = 'text' | 'integer' | 'float' | 'list';

/** What of a MathVista problem decides how its answer is read. */
export interface MathProblem {
  /** Choices of a multiple-choice problem, empty for a free-form one. */
  readonly choices: readonly string[];
  readonly answerType: MathAnswerType;
  /** Decimals of a `float` answer; null where none are published. */
  readonly precision: number | null;
}

export interface Extraction {
  readonly text: string;
  readonly rule: 'empty' | 'exact choice' | 'integer' | 'float' | 'the answer is' | 'whole answer';
}

/**
 * The part of an answer that counts, by the published quick paths: one of the choices itself, an integer, a float, `The answer is "…".`. What is left is for a
 * judge to extract; without one the whole answer is taken.
 */
export function extractMath(answer: string, { choices, answerType }: MathProblem): Extraction {
  const response = strip(answer);
  if (response === '') return { text: '', rule: 'empty' };
  if (choices.includes(response)) return { text: response, rule: 'exact choice' };
  if (answerType === 'integer') {
    const integer = parseInteger(response);
    if (integer !== null) return { text: integer, rule: 'integer' };
  }
  if (answerType === 'float') {
    const float = parseFloatOf(response);
    if (float !== null) return { text: floatRepr(float), rule: 'float' };
  }
  const quoted = /The answer is "(.*)"\./.exec(response)?.[1];
  if (quoted !== undefined) return { text: quoted, rule: 'the answer is' };
  return { text: response, rule: 'whole answer' };
}

/**
 * The extraction in the form of the reference. Multiple choice: a letter (bare, or in brackets anywhere: the first) names its choice, other text the choice at
 * the least edit distance, the first of equals. Integers are cut towards zero, floats rounded to the precision, lists taken as written.
 * @returns null where the type cannot be read
 */
export function normalizeMath(extraction: string, { choices, answerType, precision }: MathProblem): string | null {
  if (choices.length > 0) {
    const text = strip(extraction);
    const letter = /\(([a-zA-Z])\)/.exec(text)?.[1]?.toUpperCase() ?? text;
    const index = choices.findIndex((_, i) => letterOf(i) === letter);
    return choices[index] ?? nearest(letter, choices);
  }
  if (answerType === 'list') return extraction;
  const value = parseFloatOf(extraction);
  if (value === null) return null;
  if (answerType === 'integer') return truncated(value);
  if (answerType === 'float') return precision === null ? null : floatRepr(roundHalfEven(value, Math.trunc(precision)));
  return extraction;
}

/** The first choice at the least edit distance. */
function nearest(text: string, choices: readonly string[]): string {
  let [best = '', ...others] = choices;
  let least = editDistance(text, best);
  for (const choice of others) {
    const distance = editDistance(text, choice);
    if (distance < least) [best, least] = [choice, distance];
  }
  return best;
}

/** Levenshtein's distance in code points: insertions, deletions and substitutions at one each. */
export function editDistance(from: string, to: string): number {
  const [a, b] = [[...from], [...to]];
  let row = Uint32Array.from({ length: b.length + 1 }, (_, j) => j);
  for (const [i, character] of a.entries()) {
    const next = new Uint32Array(b.length + 1);
    next[0] = i + 1;
    for (let j = 1; j <= b.length; j++) {
      const substituted = (row[j - 1] ?? 0) + (character === b[j - 1] ? 0 : 1);
      next[j] = Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, substituted);
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

/** @param reference the published answer; a multiple-choice one is the text of its choice */
export function scoreMath(answer: string, reference: string, problem: MathProblem): Scored {
  const { text, rule } = extractMath(answer, problem);
  // An empty answer has an edit distance too, and the publishers count it; only `ignore_empty_extractions`, off by default, does not.
  const parsed = normalizeMath(text, problem);
  return { score: parsed !== null && strip(parsed) === strip(reference) ? 1 : 0, parsed, rule };
}
