/** Whether a schedule's data have changed enough to train on. Pure. */
import type { ScheduleCondition } from '../../shared/contract/schedules.ts';

/** The training data now. `examples` is null where nobody needed to count them. */
export type DataState = { digest: string; examples: number | null };
/** The data of the last run that trained; null before there is one. */
export type TrainedState = { digest: string | null; examples: number | null } | null;

export type Verdict = { isMet: boolean; newExamples: number | null; note: string };

export function meetsCondition(condition: ScheduleCondition | null, data: DataState, trained: TrainedState): Verdict {
  const newExamples = data.examples === null ? null : Math.max(0, data.examples - (trained?.examples ?? 0));
  switch (condition?.type) {
    case undefined:
      return { isMet: true, newExamples, note: '' };
    case 'new_examples': {
      if (newExamples === null) throw new Error('a condition on new examples needs their number');
      const isMet = newExamples >= condition.at_least;
      return { isMet, newExamples, note: `${newExamples} new examples, at least ${condition.at_least} wanted` };
    }
    case 'dataset_changed': {
      const isMet = trained === null || trained.digest !== data.digest;
      return {
        isMet,
        newExamples,
        note: isMet ? 'the data have changed' : 'the data are those of the last run that trained',
      };
    }
  }
}
