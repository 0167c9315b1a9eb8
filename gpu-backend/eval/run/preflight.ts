import { applyVariant, Strangers, type VariantsAsked, variantsFor } from '../controls.ts';
import type { EvalModel, EvalRecords, EvalTask } from '../task.ts';

/** A wish that the records, the task or the model cannot do; found before the first question. */
export class NotAskable extends Error {
  override readonly name = 'NotAskable';
  constructor(
    message: string,
    readonly wish: 'rotate' | 'shuffled' | 'answerBy',
  ) {
    super(message);
  }
}

export interface Askable {
  /** Questions, controls included. */
  readonly total: number;
  /** Whose pictures are shown in place of whose, where `shuffled` is asked. */
  readonly strangers: Strangers | null;
}

/**
 * Goes through the first `count` records without asking any: how many questions they make, and whether each of them can be asked in every way that is wanted.
 * @throws NotAskable; what reading a record throws
 */
export async function requireAskable(
  task: EvalTask,
  records: Pick<EvalRecords, 'get'>,
  asked: VariantsAsked,
  count: number,
): Promise<Askable> {
  const strangers = asked.controls.includes('shuffled') ? await Strangers.read(records, count) : null;
  // One question a record, and nothing that could be refused: no need to look at each.
  if (asked.controls.length === 0 && !asked.rotate && (asked.orders === 'protocol' || asked.orders === 1))
    if (task.imageOrders === undefined) return { total: count, strangers };
  let total = 0;
  for (let index = 0; index < count; index++) {
    const record = await records.get(index);
    const variants = variantsFor(record, asked, task);
    total += variants.length;
    const rotated = variants.find(({ optionRotation }) => optionRotation !== undefined);
    if (rotated !== undefined) await refused('rotate', () => applyVariant(task, record, rotated));
    if (variants.some(({ control }) => control === 'shuffled'))
      await refused('shuffled', () => strangers?.indexFor(index));
  }
  return { total, strangers };
}

/** @throws NotAskable where a run would call written answers compared ones */
export function requireAnswerable(
  task: Pick<EvalTask, 'name' | 'protocol'>,
  model: Pick<EvalModel, 'name' | 'comparesChoices'>,
): void {
  if (task.protocol.answerBy !== 'likelihood' || model.comparesChoices) return;
  throw new NotAskable(
    `task ${task.name} compares options by likelihood, which ${model.name} cannot: it only writes answers. Ask it by generation`,
    'answerBy',
  );
}

async function refused(wish: NotAskable['wish'], attempt: () => unknown): Promise<void> {
  try {
    await attempt();
  } catch (error) {
    throw new NotAskable(error instanceof Error ? error.message : String(error), wish);
  }
}
