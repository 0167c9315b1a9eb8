import type { EvalRecord, Scored } from '../task.ts';

/** Scores against the one reference of a record; a record whose benchmark keeps it to itself scores nothing, but is read. */
export function againstReference({ answers }: EvalRecord, score: (reference: string) => Scored): Scored {
  const [reference] = answers;
  const scored = score(reference ?? '');
  return reference === undefined ? { ...scored, score: 0, rule: 'no reference' } : scored;
}
