import type { Findings } from './findings.ts';
import { findAlike, findNearExamples } from './near.ts';

/** Near duplicates, and validation pictures that look like training pictures. */
export async function compareExamples(findings: Findings): Promise<void> {
  const { table, pictures, hooks, counts, inTraining, inValidation } = findings;
  findings.progress('comparing', 0, table.length);
  const examples = Array.from({ length: table.length }, (_, e) => e).filter((e) => !findings.copies.has(e));
  const { pairs, isWhole } = await findNearExamples(
    table,
    pictures,
    examples,
    async (e) => (await findings.recordOf(e)).messages,
    hooks.signal,
  );
  const validationList = findings.input.training.length;
  for (const { first, second } of pairs) {
    const [a, b] = [table.list(first), table.list(second)];
    if (a === b) {
      counts.near++;
      findings.tell(second, 'near_duplicate', `Almost the same example as line ${findings.lineOf(first)}.`);
    } else if (b === validationList) {
      counts.leakedExamples++;
      findings.tell(
        second,
        'leaked_example',
        `Almost the same example is in the training data, line ${findings.lineOf(first)}.`,
      );
    }
  }
  if (!isWhole)
    findings.tellAll(
      'warning',
      'near_duplicates_incomplete',
      'So many examples are alike that not all of them were compared; there may be more near duplicates.',
    );
  const wanted = [...inValidation.keys()].filter((picture) => !inTraining.has(picture));
  for (const picture of (await findAlike(pictures, wanted, [...inTraining])).keys()) {
    counts.leakedImages++;
    const example = inValidation.get(picture) ?? 0;
    const position = table.pictures(example).indexOf(picture) + 1;
    findings.tell(example, 'leaked_image', `Image ${position} looks the same as one of the training data.`);
  }
  findings.progress('comparing', table.length, table.length);
}
