/** Everything that waits for something else to have ended. Called after ends, and by the sweeper for those whose call was lost. */
import type { Env } from '../env.ts';
import { advanceJobs } from '../jobs/advance.ts';
import { wakeBackends } from '../jobs/sweep.ts';

export async function advanceAll(env: Env): Promise<void> {
  if ((await advanceJobs(env)) > 0) await wakeBackends(env);
}
