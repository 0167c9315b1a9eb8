/** From what is due to those who send it. */
import type { Env } from '../env.ts';
import { webhookSender } from '../env.ts';
import { dueEndpoints } from '../store/webhookDeliveries.ts';
import { Lane, type LaneContext } from './lane.ts';

/** Wakes the sender of every endpoint that something is due for. */
export async function wakeSenders(env: Env, nowMs: number): Promise<void> {
  const ids = await dueEndpoints(env.DB, nowMs);
  await Promise.all(ids.map((id) => webhookSender(env, id).wake(id)));
}

/**
 * The same in this process, without Durable Objects: runs every endpoint's lane until nothing is due.
 * @returns when something will be due next, Unix ms, or null
 */
export async function deliverDue(context: LaneContext): Promise<number | null> {
  const ids = await dueEndpoints(context.db, context.nowMs());
  const next = await Promise.all(ids.map((id) => new Lane(context, id).run()));
  return next.reduce((least, at) => (least === null || (at !== null && at < least) ? at : least), null);
}
