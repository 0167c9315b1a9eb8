import type { DataSummary } from '../../../shared/contract/datasets.ts';
import type { ExampleStore, FileCounts } from '../data/store.ts';
import type { FineTuneData } from '../finetune-spec.ts';
import type { ExampleTable } from './examples.ts';

/** One list of data as it was read. */
export interface CheckedList {
  readonly data: FineTuneData;
  readonly store: ExampleStore;
  readonly files: readonly FileCounts[];
  /** Number of the list's first example in the table. */
  readonly first: number;
}

/** Number in the table of entry `i` of a list's mixture. */
export function exampleOf(list: CheckedList, i: number): number {
  return list.first + list.store.recordOf(i);
}

/** Name under which examples of a file are counted. */
export function subsetName(data: FineTuneData, file: number): string {
  const { name, filename } = data.spec.files[file] ?? {};
  return name ?? filename ?? `file ${file + 1}`;
}

/** What training sees of a list: counts are of the mixture's entries, repetitions included. */
export function summarise(list: CheckedList, table: ExampleTable): DataSummary {
  const { store, files, data } = list;
  const total = (count: (file: FileCounts) => number): number => files.reduce((sum, file) => sum + count(file), 0);
  const lengths = new Uint32Array(store.length);
  const [perImages, perTurns, perSkill, perSubset] = [0, 0, 0, 0].map(() => new Map<string, number>());
  const count = (histogram: Map<string, number> | undefined, key: string): void => {
    histogram?.set(key, (histogram.get(key) ?? 0) + 1);
  };
  const seen = new Set<number>();
  const sums = { supervised: 0, imageTokens: 0, images: 0 };
  for (let i = 0; i < store.length; i++) {
    const e = exampleOf(list, i);
    lengths[i] = table.tokens(e);
    sums.supervised += table.supervisedTokens(e);
    sums.imageTokens += table.imageTokens(e);
    const pictures = table.pictures(e);
    sums.images += pictures.length;
    for (const picture of pictures) seen.add(picture);
    count(perImages, String(pictures.length));
    count(perTurns, String(table.turns(e)));
    count(perSkill, table.skill(e) ?? 'unknown');
    count(perSubset, subsetName(data, table.file(e)));
  }
  return {
    examples: total(({ records }) => records),
    usable: total(({ usable }) => usable),
    bad: total(({ bad }) => bad),
    not_taken: total(({ usable, taken }) => usable - taken),
    tokens: spreadOf(lengths),
    supervised_tokens: sums.supervised,
    image_tokens: sums.imageTokens,
    images: sums.images,
    unique_images: seen.size,
    images_per_example: inOrder(perImages),
    turns_per_example: inOrder(perTurns),
    skills: inOrder(perSkill),
    subsets: inOrder(perSubset),
  };
}

/** @param values are sorted in place */
export function spreadOf(values: Uint32Array): DataSummary['tokens'] {
  values.sort();
  const at = (share: number): number => values[Math.min(values.length - 1, Math.floor(share * values.length))] ?? 0;
  let total = 0;
  for (const value of values) total += value;
  return { total, min: values[0] ?? 0, median: at(0.5), p95: at(0.95), max: values.at(-1) ?? 0 };
}

/** Numbers by size, names by how many. */
function inOrder(histogram: ReadonlyMap<string, number> | undefined): Record<string, number> {
  const entries = [...(histogram ?? [])];
  const isNumeric = entries.every(([key]) => /^\d+$/.test(key));
  entries.sort(isNumeric ? (a, b) => Number(a[0]) - Number(b[0]) : (a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  return Object.fromEntries(entries);
}
