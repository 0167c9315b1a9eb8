/**
 * The process that trains: one job, or several small ones over the same base, which then share its weights and take turns. It is told everything over IPC
 * and tells how each job ended; killed, it tells nothing, which the parent treats as a death. It never outlives its parent, and never tries to save a lease
 * that is gone.
 */
import { setPriority } from 'node:os';
import { LIMITS } from '../../shared/contract/limits.ts';
import { Turns } from '../train/turns.ts';
import type { FromChild, ToChild } from './job-protocol.ts';
import { JobWork } from './job-work.ts';

const ALIVE_EVERY_MS = 1_000;
/** Lowest of all: answers come before training where both want the processor. */
const PRIORITY = 19;

const running = new Map<string, JobWork>();
let isBusy = false;
const turns = new Turns({ isBusy: () => isBusy, yieldMs: LIMITS.jobs.yieldMs });

function tell(message: FromChild): Promise<void> {
  return new Promise((resolve) => {
    if (process.send === undefined || !process.connected) resolve();
    else process.send(message, () => resolve());
  });
}

setPriority(PRIORITY);
process.on('disconnect', () => process.exit(1));
// Ctrl-C in a terminal reaches the whole group; the parent decides what it means for the jobs.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {});
process.on('message', (message: ToChild) => {
  switch (message.type) {
    case 'start': {
      const turn = turns.join();
      const work = new JobWork(message, { tell, pace: () => turn.take() });
      running.set(message.job.id, work);
      void work.run().finally(() => {
        turn.end();
        running.delete(message.job.id);
      });
      return;
    }
    case 'stop':
      running.get(message.jobId)?.stop(message.reason);
      return;
    case 'evaluated':
      running.get(message.jobId)?.evaluated(message.step, message.result);
      return;
    case 'busy':
      isBusy = message.isBusy;
  }
});
// From this thread, so that it stops when this thread is stuck.
setInterval(() => void tell({ type: 'alive' }), ALIVE_EVERY_MS);
