/**
 * One look at all schedules. Whoever calls it (the scheduler's alarm, the platform's cron, somebody's request), however often, late or doubled: what is
 * due is found in the rows, and each row changes once.
 */
import type { Env } from '../env.ts';
import { comparedRuns, countOpenRuns, startableRuns, trainedRuns } from '../store/scheduleRuns.ts';
import { changeSchedule, dueSchedules, openWork, type ScheduleRow, timingOf, writePlan } from '../store/schedules.ts';
import { endGate, endTraining } from './finish.ts';
import { type Plan, planSlots } from './plan.ts';
import { sweepRetention } from './retention.ts';
import { type PrepareJob, startRun, systemOf } from './start.ts';

/** Rows of one kind that are looked at in one go; the rest is there the next time. */
const AT_ONCE = 50;

/** `jobsMade`: backends should hear of it. `nextAtMs`: when a slot comes; null: none is known. `isBusy`: runs go on that are to be looked after. */
export type Ticked = { jobsMade: number; nextAtMs: number | null; isBusy: boolean };

export async function tickSchedules(env: Env, prepare: PrepareJob, nowMs: number): Promise<Ticked> {
  const db = env.DB;
  const work = await openWork(db, nowMs);
  let jobsMade = 0;
  if (work.trained > 0)
    for (const run of await trainedRuns(db, AT_ONCE)) await guarded(run.id, () => endTraining(env, run, nowMs));
  if (work.compared > 0)
    for (const run of await comparedRuns(db, AT_ONCE)) await guarded(run.id, () => endGate(env, run, nowMs));
  if (work.due > 0)
    for (const schedule of await dueSchedules(db, nowMs, AT_ONCE))
      await guarded(schedule.id, () => decideSlots(db, schedule, nowMs));
  if (work.due + work.waiting + work.trained + work.compared > 0)
    for (const run of await startableRuns(db, nowMs, AT_ONCE))
      await guarded(run.id, async () => {
        if (await startRun(env, prepare, run, nowMs)) jobsMade++;
      });
  if (work.trained + work.compared + work.retention > 0) await guarded('retention', () => sweepRetention(env));
  const left = work.due + work.waiting + work.trained + work.compared === 0 ? work : await openWork(db, nowMs);
  return { jobsMade, nextAtMs: left.nextAtMs, isBusy: left.open > 0 };
}

async function decideSlots(db: D1Database, schedule: ScheduleRow, nowMs: number): Promise<void> {
  const planned = {
    timing: timingOf(schedule),
    overlap: schedule.overlap,
    misfire: schedule.misfire,
    decidedUntilMs: schedule.decided_until,
  };
  const openRuns = await countOpenRuns(db, schedule.id);
  let plan: Plan;
  try {
    plan = planSlots(planned, openRuns, nowMs);
  } catch (error) {
    // Such as a time zone that is no more. Its owner must see it, and it must not be looked at for ever.
    console.error(
      JSON.stringify({ level: 'error', event: 'schedule_unreadable', id: schedule.id, error: String(error) }),
    );
    const change = { action: 'paused' as const, status: 'paused' as const, timing: { nextAtMs: null } };
    await changeSchedule(db, systemOf(schedule.tenant), schedule, change, nowMs);
    return;
  }
  // Where somebody else wrote first, the rows say so the next time.
  if (plan.runs.length > 0 || plan.nextAtMs !== schedule.next_at) await writePlan(db, schedule, plan, nowMs);
}

/** One that fails holds up no other. */
async function guarded(what: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    console.error(JSON.stringify({ level: 'error', event: 'schedules', what, error: String(error) }));
  }
}
