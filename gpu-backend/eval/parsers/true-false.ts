import type { Scored } from '../task.ts';

/** An answer is the one of the words "true" and "false" that it holds, in any case; with both or neither it is none. */
export function scoreTrueFalseWord(answer: string, reference: string): Scored {
  const words = new Set(answer.toLowerCase().match(/\b(?:true|false)\b/g) ?? []);
  const [word, ...others] = words;
  if (word === undefined) return { score: 0, parsed: null, rule: 'neither word' };
  if (others.length > 0) return { score: 0, parsed: null, rule: 'both words' };
  const rule = answer.trim().toLowerCase() === word ? 'word alone' : 'word in the answer';
  return { score: word === reference ? 1 : 0, parsed: word, rule };
}
