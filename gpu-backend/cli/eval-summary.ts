import type { EvalReport } from '../eval/report/schema.ts';
import type { EvalItem, EvalRecords } from '../eval/task.ts';

/** What a run came to, in the few numbers that a script wants: the last line with `--json`. */
export function summaryOf(report: EvalReport): { readonly [key: string]: unknown } {
  const { headline, imageOrder, counts } = report;
  return {
    task: report.spec.task,
    specHash: report.specHash,
    accuracy: headline?.mean ?? null,
    accuracyStandardError: headline?.standardError ?? null,
    accuracyInterval95: headline?.interval ?? null,
    examples: counts.records,
    groups: headline?.clusters ?? 0,
    answers: counts.scored,
    errors: counts.errors,
    ...(imageOrder === null
      ? {}
      : {
          consistency: imageOrder.groupsAllRight.mean,
          accuracyByOrder: imageOrder.orders.map(({ mean }) => mean),
        }),
    ...(report.categories.length === 0
      ? {}
      : {
          byCategory: Object.fromEntries(
            report.categories.map(({ name, mean, items }) => [name, { accuracy: mean, items }]),
          ),
        }),
    ...(report.controls.length === 0
      ? {}
      : { controls: Object.fromEntries(report.controls.map(({ control, mean }) => [control, mean])) }),
  };
}

/** Accuracy by the number of pictures of a question. */
export async function byImages(
  items: readonly EvalItem[],
  records: Pick<EvalRecords, 'get' | 'length'>,
): Promise<{ readonly [images: string]: number }> {
  const counts = new Map<string, number>();
  for (let i = 0; i < records.length; i++) {
    const { id, images } = await records.get(i);
    counts.set(id, images.length);
  }
  const tallies = new Map<number, { score: number; items: number }>();
  for (const { record, variant, score } of items) {
    if (variant.control !== 'none') continue;
    const images = counts.get(record) ?? 0;
    const tally = tallies.get(images) ?? { score: 0, items: 0 };
    tallies.set(images, { score: tally.score + score, items: tally.items + 1 });
  }
  return Object.fromEntries(
    [...tallies].sort(([a], [b]) => a - b).map(([n, { score, items: all }]) => [n, score / all]),
  );
}
