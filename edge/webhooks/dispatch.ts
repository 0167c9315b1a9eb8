import { type Env, webhookSender } from '../env.ts';
import { dueEndpoints } from '../store/webhookDeliveries.ts';

/** Wakes the sender of every endpoint that something is due for. */
export async function wakeSenders(env: Env, nowMs: number): Promise<void> {
  const ids = await dueEndpoints(env.DB, nowMs);
  await Promise.all(ids.map((id) => webhookSender(env, id).wake(id)));
}
