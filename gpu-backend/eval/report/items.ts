import { clusteredMean } from '../statistics/clustered.ts';
import type { Observation } from '../statistics/design.ts';
import type { Aggregate, EvalItem, EvalRecord, EvalRecords, EvalSpec } from '../task.ts';
import { REPORT_CONFIDENCE, type ReportEstimate } from './schema.ts';

/** What a report needs of a record. */
export interface ReportRecord extends Pick<EvalRecord, 'id' | 'question' | 'options'> {
  readonly images: readonly { readonly sha256: string }[];
}

/** The first `count` records, one after another. */
export async function* recordsOf(records: Pick<EvalRecords, 'get'>, count: number): AsyncGenerator<EvalRecord> {
  for (let i = 0; i < count; i++) yield await records.get(i);
}

/** Items whose reference is published: the others count in no number. */
export function withReference(items: readonly EvalItem[]): EvalItem[] {
  return items.filter(({ reference }) => reference !== '');
}

/** Whether an item is asked as the benchmark asks, so that it counts in the headline. */
export function isOfProtocol({ variant }: EvalItem, spec: Pick<EvalSpec, 'variants'>): boolean {
  if (variant.control !== 'none' || (variant.optionRotation ?? 0) !== 0) return false;
  return variant.imageOrder === undefined || spec.variants.protocolOrders === true;
}

/** Whether an item is the question as published: nothing changed, first order. */
export function isPlain({ variant }: EvalItem): boolean {
  return variant.control === 'none' && variant.imageOrder === undefined && (variant.optionRotation ?? 0) === 0;
}

/** What the parser read, or the whole answer where it read nothing: two answers are the same where this is. */
export function readOf({ parsed, answer }: Pick<EvalItem, 'parsed' | 'answer'>): string {
  return parsed ?? `\u0000${answer.trim()}`;
}

/** Items by record, in the order of their first item. */
export function byRecord(items: readonly EvalItem[]): Map<string, EvalItem[]> {
  return groupBy(items, ({ record }) => record);
}

export function groupBy<T>(items: Iterable<T>, keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [item]);
    else group.push(item);
  }
  return groups;
}

/** Scores as the benchmark counts them: one an item, or the lowest of each group. */
export function observationsOf(items: readonly EvalItem[], aggregate: Aggregate): Observation[] {
  if (aggregate !== 'groups')
    return items.map(({ group, category, score }) => ({ cluster: group, category, value: score }));
  return [...groupBy(items, ({ group }) => group)].map(([group, own]) => ({
    cluster: group,
    category: own[0]?.category ?? null,
    value: own.reduce((least, { score }) => Math.min(least, score), 1),
  }));
}

/** A mean of scores as a report shows it. */
export function estimateFrom(
  observations: readonly Observation[],
  by: 'records' | 'categories' = 'records',
): ReportEstimate {
  const { mean, standardError, interval, items, clusters, effectiveItems, method } = clusteredMean(observations, {
    by,
    confidence: REPORT_CONFIDENCE,
  });
  return { mean, standardError, interval: [...interval], items, clusters, effectiveItems, method };
}

/** Share of yes among facts about records or groups. */
export function shareFrom(facts: readonly { readonly cluster: string; readonly is: boolean }[]): ReportEstimate {
  return estimateFrom(facts.map(({ cluster, is }) => ({ cluster, category: null, value: Number(is) })));
}

/** Every number of a JSON value to six digits: what is beyond them is rounding, and no two runs should differ by it. */
export function rounded<T>(value: T): T {
  if (typeof value === 'number') return (Number.isFinite(value) ? Number(value.toFixed(6)) + 0 : value) as T;
  if (Array.isArray(value)) return value.map((one: unknown) => rounded(one)) as T;
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, rounded(one)])) as T;
}

/** Text of others cut to a length that a page can hold. */
export function clip(text: string, maxChars: number): string {
  const characters = text.length > maxChars ? [...text.slice(0, 2 * maxChars)].slice(0, maxChars) : null;
  return characters === null ? text : `${characters.join('')}…`;
}
