/**
 * How long a run is, in optimizer steps. A run that must end at a given time does not know this when it starts: it
 * estimates, and every new estimate becomes an entry. The entries are kept with the run, so that it can be repeated exactly
 * by steps.
 */
export interface PlanEntry {
  /** First step the entry holds for. */
  readonly fromStep: number;
  readonly totalSteps: number;
}

export class StepPlan {
  private readonly list: PlanEntry[];

  constructor(entries: readonly PlanEntry[]) {
    if (entries[0]?.fromStep !== 1) throw new Error('a step plan begins with an entry from step 1');
    this.list = [...entries];
  }

  get entries(): readonly PlanEntry[] {
    return this.list;
  }

  /** Length of the run as it was planned when `step` was made. */
  totalAt(step: number): number {
    return this.list.findLast((entry) => entry.fromStep <= step)?.totalSteps ?? 1;
  }

  /** Plans another length from a step that has not begun. */
  revise(fromStep: number, totalSteps: number): void {
    const last = this.list.at(-1);
    if (last === undefined || fromStep <= last.fromStep || totalSteps === last.totalSteps) return;
    this.list.push({ fromStep, totalSteps: Math.max(totalSteps, fromStep) });
  }
}
