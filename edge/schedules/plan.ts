/**
 * What is to be done about a schedule now, as a pure function. The shell writes the answer and the new `decidedUntilMs` in one transaction, only where
 * the row is still the one that was read: so each slot has exactly one effect, whatever wakes the scheduler, how often, and how its clock jumps.
 */
import { LIMITS } from '../../shared/contract/limits.ts';
import type { MisfirePolicy, OverlapPolicy, SkipReason } from '../../shared/contract/schedules.ts';
import { lastSlots, nextSlot, type Timing } from './cron.ts';

const S = LIMITS.schedules;

export type PlannedSchedule = {
  timing: Timing;
  overlap: OverlapPolicy;
  misfire: MisfirePolicy;
  /** Slots up to here have had their effect. */
  decidedUntilMs: number;
};

export type PlannedRun = {
  slotMs: number;
  /** Null: it is to start. */
  skip: SkipReason | null;
  /** Earlier slots that this record stands for too, and the first of them. */
  missed: number;
  missedFromMs: number | null;
};

export type Plan = {
  /** In order of their slots. */
  runs: PlannedRun[];
  decidedUntilMs: number;
  /** The first slot after that; null: none will come. */
  nextAtMs: number | null;
};

/**
 * @param openRuns runs of it that have not ended, waiting ones included
 * @param nowMs a clock that may have been put back: nothing is then due, and nothing undone
 */
export function planSlots(schedule: PlannedSchedule, openRuns: number, nowMs: number): Plan {
  const { timing, decidedUntilMs } = schedule;
  const due = dueSlots(timing, decidedUntilMs, nowMs);
  const newest = due.newest.at(-1);
  if (newest === undefined) return { runs: [], decidedUntilMs, nextAtMs: nextSlot(timing, decidedUntilMs) };
  const runs = withOverlap(withMisfires(due, schedule.misfire, nowMs), schedule.overlap, openRuns);
  return { runs, decidedUntilMs: newest, nextAtMs: nextSlot(timing, newest) };
}

/** The newest slots that are due, as many as a plan can have use for, and how many came before them. */
type Due = { newest: number[]; older: number; olderFromMs: number | null; olderUntilMs: number | null };

function dueSlots(timing: Timing, afterMs: number, untilMs: number): Due {
  const newest: number[] = [];
  let older = 0;
  let olderFromMs: number | null = null;
  let olderUntilMs: number | null = null;
  let at = nextSlot(timing, afterMs);
  for (let counted = 0; at !== null && at <= untilMs; counted++) {
    if (counted === S.maxCountedMisses) {
      // Who was away for so long need not hear of every minute: the count is a lower bound.
      const last = lastSlots(timing, untilMs, KEPT + 1);
      return { newest: last.slice(1), older, olderFromMs, olderUntilMs: last[0] ?? olderUntilMs };
    }
    newest.push(at);
    if (newest.length > KEPT) {
      olderUntilMs = newest.shift() as number;
      olderFromMs ??= olderUntilMs;
      older++;
    }
    at = nextSlot(timing, at);
  }
  return { newest, older, olderFromMs, olderUntilMs };
}

/** Slots that may each have a run: what `run_all` makes up for. Slots that are in time are fewer: one a minute. */
const KEPT: number = S.maxCatchUp;

type Wanted = PlannedRun & { isCatchUp: boolean };

function withMisfires(due: Due, policy: MisfirePolicy, nowMs: number): Wanted[] {
  const { newest, older } = due;
  const isLate = (slotMs: number) => nowMs - slotMs > S.lateMs;
  const late = newest.filter(isLate);
  const inTime = newest.filter((slotMs) => !isLate(slotMs));
  const alone = (slotMs: number, isCatchUp: boolean): Wanted => ({
    slotMs,
    skip: null,
    missed: 0,
    missedFromMs: null,
    isCatchUp,
  });
  if (late.length + older === 0) return inTime.map((slotMs) => alone(slotMs, false));
  switch (policy) {
    case 'run_once': {
      const slotMs = newest.at(-1) as number;
      const missed = older + newest.length - 1;
      const missedFromMs = missed === 0 ? null : (due.olderFromMs ?? newest[0] ?? null);
      return [{ slotMs, skip: null, missed, missedFromMs, isCatchUp: false }];
    }
    case 'skip': {
      const slotMs = late.at(-1) ?? (due.olderUntilMs as number);
      const missed = older + late.length - 1;
      const missedFromMs = missed === 0 ? null : (due.olderFromMs ?? late[0] ?? null);
      const record: Wanted = { slotMs, skip: 'misfire', missed, missedFromMs, isCatchUp: false };
      return [record, ...inTime.map((at) => alone(at, false))];
    }
    case 'run_all': {
      const runs = newest.map((slotMs) => alone(slotMs, isLate(slotMs)));
      if (older === 0) return runs;
      const slotMs = due.olderUntilMs as number;
      const missedFromMs = older === 1 ? null : due.olderFromMs;
      return [{ slotMs, skip: 'misfire', missed: older - 1, missedFromMs, isCatchUp: false }, ...runs];
    }
  }
}

/** Runs that `run_all` makes up for wait for each other, unless overlapping is allowed; everything else goes by the policy. */
function withOverlap(wanted: readonly Wanted[], policy: OverlapPolicy, openRuns: number): PlannedRun[] {
  let open = openRuns;
  return wanted.map(({ isCatchUp, ...run }) => {
    if (run.skip !== null || policy === 'allow') return run;
    const mayWait = isCatchUp || (policy === 'queue' && open === 1);
    if (open > 0 && !mayWait) return { ...run, skip: 'overlap' };
    open++;
    return run;
  });
}
