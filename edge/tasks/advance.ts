/** Everything that waits for something else to have ended, or for its time. Called after ends, and by the sweeper for those whose call was lost. */
import { nowMs } from '../clock.ts';
import type { Env } from '../env.ts';
import { advanceJobs } from '../jobs/advance.ts';
import { prepareJob } from '../jobs/create.ts';
import { wakeBackends } from '../jobs/sweep.ts';
import { type Ticked, tickSchedules } from '../schedules/tick.ts';

/** @returns when schedules want to be looked at again */
export async function advanceAll(env: Env): Promise<Pick<Ticked, 'nextAtMs' | 'isBusy'>> {
  const queued = await advanceJobs(env);
  const ticked = await tickSchedules(env, prepareJob, nowMs());
  if (queued + ticked.jobsMade > 0) await wakeBackends(env);
  return ticked;
}
