import type { Env } from '../env.ts';
import { callBackend } from '../fleet/call.ts';
import { liveBackends } from '../fleet/registry.ts';
import { applyToJob, expiredJobs } from '../store/jobs.ts';
import { applyToTask, expiredTasks } from '../store/tasks.ts';

/** Takes jobs back from workers that have gone silent, and tells the living that there is work. */
export async function sweepLeases(env: Env, nowMs: number): Promise<void> {
  let freed = 0;
  for (const { id } of await expiredJobs(env.DB, nowMs)) {
    const applied = await applyToJob(env.DB, id, { type: 'sweep' }, nowMs);
    if (applied?.job?.status === 'queued') freed++;
  }
  for (const { id } of await expiredTasks(env.DB, nowMs)) {
    const applied = await applyToTask(env.DB, id, { type: 'sweep' }, nowMs);
    if (applied?.task?.status === 'queued') freed++;
  }
  if (freed > 0) await wakeBackends(env);
}

/** "Look for jobs now", to everybody; only latency depends on it. */
export async function wakeBackends(env: Env): Promise<void> {
  const backends = await liveBackends(env);
  await Promise.allSettled(
    backends.map(async ({ report }) => {
      const response = await callBackend(env, report, {
        method: 'POST',
        path: '/v1/wake',
        body: '',
        signal: AbortSignal.timeout(2_000),
      });
      await response.body?.cancel();
    }),
  );
}
