import type { Question } from './perception.ts';
import type { Rng } from './random.ts';

/** Largest number of an image that a dialogue may carry: one digit, so that it can be an answer of one token. */
export const largestImageNumber = 8;

/**
 * Number of a dialogue's first image. Dialogues begin at 1, or are numbered as the last part of a longer conversation, so that
 * numbers are known which no dialogue is long enough to reach.
 * @param count images of the dialogue
 * @param shiftedShare chance of a dialogue not to begin at 1
 */
export function firstImageNumber(rng: Rng, count: number, shiftedShare: number): number {
  if (shiftedShare === 0 || count === 0 || count >= largestImageNumber || !rng.chance(shiftedShare)) return 1;
  return 1 + rng.int(1, largestImageNumber - count);
}

/** The question with every `image k` in it, and a `k` that is its answer, counted from `first` instead of 1. */
export function numberedFrom<T extends Question>(first: number, question: T): T {
  if (first === 1) return question;
  const shift = (k: string): string => String(Number(k) + first - 1);
  return {
    ...question,
    user: question.user.replace(/\b(image +)(\d+)\b/gi, (_, word: string, k: string) => word + shift(k)),
    ...(question.answersWithImage === true ? { answer: shift(question.answer) } : {}),
  };
}
