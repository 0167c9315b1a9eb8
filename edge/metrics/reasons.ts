/** What is wrong with an installation, in words. Pure: what the parts said comes in. */
import type { FleetView } from './fleet.ts';

/** How long a delivery may have been due before its backlog is worth a word: the sender looks every few seconds. */
const OVERDUE_MS = 60_000;

/** What each part said; an error is why it could not be asked. */
export type Said = {
  database: true | Error;
  scheduler: true | Error;
  fleet: FleetView | Error;
  webhooks: { waiting: number; overdueMs: number } | Error;
};

export type Verdict = {
  /** `unavailable`: no request can be answered now. */
  status: 'ok' | 'degraded' | 'unavailable';
  reasons: string[];
  parts: Record<'database' | 'scheduler' | 'backends' | 'webhooks', string>;
};

/** @param noneReadySinceMs Unix ms since when no backend has been ready, as far as this isolate has seen; null: one is, or was never looked for */
export function judge(said: Said, noneReadySinceMs: number | null): Verdict {
  const broken: string[] = [];
  const worse: string[] = [];
  const { database, scheduler, fleet, webhooks } = said;
  if (database instanceof Error) broken.push('the database does not answer: keys, files and jobs cannot be read');
  if (scheduler instanceof Error) broken.push('the scheduler does not answer: jobs and webhooks are not looked after');
  if (fleet instanceof Error) broken.push('the fleet does not answer: no request can be sent to a backend');
  else {
    const { backends, queue, isAsleep } = fleet;
    const ready = backends.filter(({ state, models }) => state === 'ready' && models > 0);
    if (ready.length === 0) {
      const since = noneReadySinceMs === null ? '' : ` since ${new Date(noneReadySinceMs).toISOString()}`;
      // At rest is no fault: the first request starts a backend and waits for it.
      if (!isAsleep) broken.push(`no backend is ready${since}`);
    }
    const draining = backends.filter(({ state }) => state === 'draining').length;
    if (ready.length === 0 && draining > 0 && !isAsleep)
      worse.push(`${counted(draining, 'backend is', 'backends are')} draining`);
    const avoided = backends.filter(({ state, breaker }) => state === 'ready' && breaker !== 'closed').length;
    if (avoided > 0) worse.push(`${counted(avoided, 'backend is', 'backends are')} avoided after failures`);
    if (queue.limit > 0 && queue.length >= queue.limit)
      worse.push(`the queue is full: ${queue.length} of ${queue.limit} requests wait; further ones are refused`);
    if (fleet.scalerProblem !== null) worse.push(`the scaler cannot start or stop backends: ${fleet.scalerProblem}`);
  }
  if (webhooks instanceof Error) worse.push('the webhook backlog cannot be read');
  else if (webhooks.overdueMs > OVERDUE_MS)
    worse.push(
      `${counted(webhooks.waiting, 'webhook delivery waits', 'webhook deliveries wait')}, the oldest has been due for ${Math.round(webhooks.overdueMs / 1000)} s`,
    );
  const word = (part: unknown): string => (part instanceof Error ? 'failed' : 'ok');
  return {
    status: broken.length > 0 ? 'unavailable' : worse.length > 0 ? 'degraded' : 'ok',
    reasons: [...broken, ...worse],
    parts: {
      database: word(database),
      scheduler: word(scheduler),
      backends:
        fleet instanceof Error ? 'failed' : hasReady(fleet) ? 'ok' : fleet.isAsleep ? 'asleep' : 'none is ready',
      webhooks: word(webhooks),
    },
  };
}

export function hasReady({ backends }: FleetView): boolean {
  return backends.some(({ state, models }) => state === 'ready' && models > 0);
}

function counted(n: number, one: string, many: string): string {
  return `${n} ${n === 1 ? one : many}`;
}
