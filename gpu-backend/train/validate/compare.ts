import type { Findings } from './findings.ts';
import { findAlike, findNearExamples } from './near.ts';

/** Near duplicates, and validation pictures that look like training pictures. */
export async function compareExamples(findings: Findings): Promise<void> {
  const { table, pictures, hooks, counts, inTraining, inValidation, inHeldOut } = findings;
  findings.progress('comparing', 0, table.length);
  const examples = Array.from({ length: table.length }, (_, e) => e).filter((e) => !findings.copies.has(e));
  const { pairs, isWhole } = await findNearExamples(
    table,
    pictures,
    examples,
    async (e) => (await findings.recordOf(e)).messages,
    hooks.signal,
  );
  for (const { first, second } of pairs) {
    const [a, b] = [table.list(first), table.list(second)];
    if (a === b) {
      counts.near++;
      findings.tell(second, 'near_duplicate', `Almost the same example as line ${findings.lineOf(first)}.`);
    } else if (typeof findings.nameOf(a) === 'number' && typeof findings.nameOf(b) !== 'number') {
      if (findings.nameOf(b) === 'validation') counts.leakedExamples++;
      else counts.heldOutExamples++;
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
  for (const [others, which] of [
    [inValidation, 'leakedImages'],
    [inHeldOut, 'heldOutImages'],
  ] as const) {
    const wanted = [...others.keys()].filter((picture) => !inTraining.has(picture));
    for (const picture of (await findAlike(pictures, wanted, [...inTraining])).keys()) {
      counts[which]++;
      const example = others.get(picture) ?? 0;
      const position = table.pictures(example).indexOf(picture) + 1;
      findings.tell(example, 'leaked_image', `Image ${position} looks the same as one of the training data.`);
    }
  }
  findings.progress('comparing', table.length, table.length);
}
