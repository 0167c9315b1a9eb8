import type { Scored } from '../task.ts';

/** An answer is the choice that it equals, else the only one that it holds as words, in any case and without full stops around it. */
export function scoreChoice(answer: string, choices: readonly string[], reference: string): Scored {
  const text = tidy(answer);
  const same = choices.find((choice) => tidy(choice) === text);
  if (same !== undefined) return { score: same === reference ? 1 : 0, parsed: same, rule: 'choice' };
  const held = choices.filter((choice) => ` ${text} `.includes(` ${tidy(choice)} `));
  const [only, ...others] = held;
  if (only === undefined || others.length > 0)
    return { score: 0, parsed: null, rule: only === undefined ? 'no choice' : 'several choices' };
  return { score: only === reference ? 1 : 0, parsed: only, rule: 'choice in the answer' };
}

/** Lower case, words alone. */
function tidy(text: string): string {
  return text
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, ' ')
    .trim();
}
