import type { EvalItem } from '../task.ts';
import { byRecord, estimateFrom, groupBy, observationsOf, shareFrom } from './items.ts';
import type { EvalReport } from './schema.ts';

/** How answers depend on the places of the options; null where options were not rotated. */
export function optionRotationOf(items: readonly EvalItem[]): EvalReport['optionRotation'] {
  const asked = items.filter(({ variant }) => variant.control === 'none' && variant.imageOrder === undefined);
  const records = [...byRecord(asked).values()].filter((own) => own.length > 1);
  if (records.length === 0) return null;
  const compared = records.flat();
  const letters = lettersOf(compared);
  return {
    rotations: [...groupBy(compared, ({ variant }) => String(variant.optionRotation ?? 0))]
      .map(([by, own]) => ({ by: Number(by), ...estimateFrom(observationsOf(own, 'records')) }))
      .sort((a, b) => a.by - b.by),
    circular: shareFrom(
      records.map((own) => ({ cluster: own[0]?.group ?? '', is: own.every(({ score }) => score === 1) })),
    ),
    letters,
    recallDeviation: letters.length < 2 ? null : deviation(letters.map(({ found }) => found)),
  };
}

function lettersOf(items: readonly EvalItem[]): NonNullable<EvalReport['optionRotation']>['letters'] {
  const read = items.flatMap(({ parsed, reference, score }) => {
    const expected = letterIn(reference);
    return expected === null ? [] : [{ given: parsed === null ? null : letterIn(parsed), expected, score }];
  });
  const answered = read.filter(({ given }) => given !== null);
  // Benchmarks that are answered by words have no letters to prefer.
  if (answered.length * 2 < items.length) return [];
  return [...groupBy(read, ({ expected }) => expected)]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([letter, own]) => ({
      letter,
      given: answered.filter(({ given }) => given === letter).length / answered.length,
      expected: own.length / read.length,
      found: own.reduce((sum, { score }) => sum + score, 0) / own.length,
    }));
}

/** `B` of `(B)`, `b.`, `B`; null for anything else. */
export function letterIn(answer: string): string | null {
  return /^\s*[([]?\s*([A-Za-z])\s*[)\].:]?\s*$/.exec(answer)?.[1]?.toUpperCase() ?? null;
}

function deviation(values: readonly number[]): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
}
