import type { Scored } from '../task.ts';
import { strip } from './python-text.ts';

/**
 * What an answer is read after, in this order: the last place of the first one that occurs; capitals count. The third is cut at the longer text, as published:
 * without a space behind it nothing is cut.
 */
const MARKERS = [
  { marker: 'the answer is', cut: 'the answer is' },
  { marker: 'answer:', cut: 'answer:' },
  { marker: 'the option is', cut: 'the option is ' },
  { marker: 'Answer:', cut: 'Answer:' },
] as const;

/**
 * Scores by the rules of the Mantis paper's MVBench evaluation (TIGER-AI-Lab/Mantis, mantis/benchmark/eval_on_mvbench.py, as of September 2024): the first letter of
 * any alphabet after the marker, as it is written, must be the right option's capital.
 * @param reference the letter, `B`
 */
export function scoreMvBench(answer: string, reference: string): Scored {
  const found = MARKERS.find(({ marker }) => answer.includes(marker));
  const text = found === undefined ? answer : strip(answer.split(found.cut).at(-1) ?? '');
  const letter = /\p{L}/u.exec(text)?.[0];
  if (letter === undefined) return { score: 0, parsed: null, rule: 'no letter' };
  const rule = `first letter${found === undefined ? '' : ` after "${found.marker}"`}`;
  return { score: letter === reference ? 1 : 0, parsed: letter, rule };
}
