import type { ChosenRecords, EvalPart, EvalRecords, EvalTask } from '../task.ts';

/**
 * Of what whole the first `limit` records are a part, null where they are all of the benchmark or nothing is known that they lack. Reads the records once where
 * the benchmark has parts.
 * @param split what the user named, the task's own where absent
 */
export async function partOf(
  task: Pick<EvalTask, 'whole'>,
  records: Pick<EvalRecords, 'get' | 'length' | 'chosen'>,
  { split, limit = records.length }: { readonly split?: string; readonly limit?: number } = {},
): Promise<EvalPart | null> {
  const count = Math.min(limit, records.length);
  const whole = task.whole !== undefined && (split ?? task.whole.split) === task.whole.split ? task.whole : undefined;
  const chosen: ChosenRecords | undefined =
    records.chosen ?? (count < records.length ? { how: 'first', of: records.length } : undefined);
  const published = whole?.records ?? null;
  const parts = whole?.parts === undefined ? undefined : await missingParts(whole.parts, records, count);
  const isEnough = published === null || count >= published;
  const isAll = chosen === undefined || chosen.of === count || (chosen.of === null && published !== null);
  if (isEnough && isAll && parts === undefined) return null;
  return {
    ...(chosen === undefined ? {} : { chosen }),
    published,
    ...(parts === undefined ? {} : { parts }),
  };
}

async function missingParts(
  names: readonly string[],
  records: Pick<EvalRecords, 'get'>,
  count: number,
): Promise<EvalPart['parts']> {
  const missing = new Set(names);
  for (let index = 0; index < count && missing.size > 0; index++)
    missing.delete((await records.get(index)).category ?? '');
  if (missing.size === 0) return undefined;
  return { asked: names.length - missing.size, of: names.length, missing: [...missing] };
}
