import type { EvalItem } from '../task.ts';
import { clip, groupBy } from './items.ts';
import type { EvalReport } from './schema.ts';

const MAX_CAUSES = 12;
const MAX_CAUSE_CHARS = 240;

/** What stood in the way of answers, the commonest first. Messages that differ by numbers and digests only are one cause. */
export function causesOf(items: readonly Pick<EvalItem, 'error'>[]): EvalReport['errors'] {
  const messages = items.flatMap(({ error }) => error ?? []);
  return [...groupBy(messages, (message) => message.replace(/[0-9a-f]{16,}|\d+/gi, '#').slice(0, 500))]
    .map(([, own]) => ({ cause: clip(own[0] ?? '', MAX_CAUSE_CHARS), items: own.length }))
    .sort((a, b) => b.items - a.items || (a.cause < b.cause ? -1 : 1))
    .slice(0, MAX_CAUSES);
}
