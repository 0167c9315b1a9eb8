/** What part of a benchmark a run asked, in words. */
import type { EvalReport } from './schema.ts';

type Asked = Pick<EvalReport, 'spec' | 'counts'>;

const MAX_NAMED = 6;

/** Whether scores that were published for the benchmark may stand beside this one. */
export function isWhole({ spec }: Pick<EvalReport, 'spec'>): boolean {
  return spec.data.part === undefined;
}

/** `a sample of 20 of 989 questions, 1 of 14 tasks`; null for a whole benchmark, or where nothing is known that is missing. */
export function coverageWords({ spec, counts }: Asked): string | null {
  const { part } = spec.data;
  if (part === undefined) return null;
  const { chosen, published, parts } = part;
  const asked = counts.records;
  const said: string[] = [];
  if (chosen !== undefined) {
    const of = chosen.of ?? published;
    const count = of === null ? questions(asked) : `${asked} of ${questions(of)}`;
    said.push(chosen.how === 'first' ? `the first ${count}` : `a sample of ${count}`);
  } else if (published !== null && asked < published) said.push(`${asked} of ${published} published questions`);
  if (parts !== undefined) {
    const named = parts.missing.slice(0, MAX_NAMED).join(', ');
    const more = parts.missing.length > MAX_NAMED ? ` and ${parts.missing.length - MAX_NAMED} more` : '';
    said.push(`${parts.asked} of ${parts.of} parts (not ${named}${more})`);
  }
  return said.length === 0 ? 'a part of the benchmark' : said.join('; ');
}

/** `1 question`, `2 questions`. */
export function questions(count: number): string {
  return counted(count, 'question');
}

/** `1 answer`, `2 answers`: nouns whose plural is made by an s. */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
