import { LIMITS } from '../../shared/contract/limits.ts';
import { egressOf, fetchTarget } from '../egress/fetch.ts';
import { checkTarget } from '../egress/target.ts';
import type { Env } from '../env.ts';
import { flush } from '../metrics/collector.ts';
import { metrics } from '../metrics/metrics.ts';
import { claimDeliveries, type DueDelivery, disableEndpoint, recordAttempt } from '../store/webhooks.ts';
import { type AttemptResult, afterAttempt } from './retry.ts';
import { webhookHeaders } from './sign.ts';

/** Deliveries in flight at once: the platform waits for the headers of six connections a request. */
const BATCH = 6;
/** A sender that has not written its result by then is dead. */
const CLAIM_MS = 3 * LIMITS.webhooks.timeoutMs;

/** Sends what is due, batch after batch. @returns how many attempts were made. */
export async function deliverDue(env: Env, nowMs: () => number): Promise<number> {
  let made = 0;
  for (;;) {
    const due = await claimDeliveries(env.DB, nowMs(), CLAIM_MS, BATCH);
    if (due.length === 0) {
      // No request of a client runs here that would tell them.
      if (made > 0) await flush(env);
      return made;
    }
    made += due.length;
    await Promise.all(due.map((delivery) => attempt(env, delivery, nowMs)));
  }
}

async function attempt(env: Env, delivery: DueDelivery, nowMs: () => number): Promise<void> {
  const { status, retryAfterS, error } = await send(env, delivery, nowMs());
  const decision = afterAttempt({ status, retryAfterS }, delivery.attempts, Math.random());
  const at = nowMs();
  const result = {
    deliveredAtMs: decision.kind === 'delivered' ? at : null,
    nextAtMs: decision.kind === 'retry' ? at + decision.afterMs : null,
    status,
    error,
  };
  const statements = [recordAttempt(env.DB, delivery, result)];
  if (decision.kind === 'disable') statements.push(...disableEndpoint(env.DB, delivery.endpoint_id, at));
  await env.DB.batch(statements);
  metrics.webhookDeliveries.inc(1, decision.kind);
  console.log(
    JSON.stringify({
      level: decision.kind === 'delivered' ? 'info' : 'warn',
      event: 'webhook_attempt',
      webhook_id: delivery.event_id,
      endpoint: delivery.endpoint_id,
      attempt: delivery.attempts,
      status,
      error,
      outcome: decision.kind,
    }),
  );
}

async function send(env: Env, delivery: DueDelivery, nowMs: number): Promise<AttemptResult & { error: string | null }> {
  // The allow-list may have shrunk since the endpoint was made.
  const egress = egressOf(env);
  const target = checkTarget(delivery.url, egress.allowed);
  if ('problem' in target) return { status: null, retryAfterS: null, error: target.problem };
  const signed = await webhookHeaders(delivery.event_id, Math.floor(nowMs / 1000), delivery.body, delivery.secret);
  const init = {
    method: 'POST',
    body: delivery.body,
    headers: { ...signed, 'content-type': 'application/json', 'user-agent': 'mantis-edge-webhooks/1' },
    signal: AbortSignal.timeout(LIMITS.webhooks.timeoutMs),
  };
  try {
    const response = await fetchTarget(egress, target, init);
    await response.body?.cancel();
    const retryAfter = Number(response.headers.get('retry-after') ?? Number.NaN);
    const retryAfterS = Number.isFinite(retryAfter) ? Math.min(Math.max(retryAfter, 0), 86_400) : null;
    return { status: response.status, retryAfterS, error: response.ok ? null : `status ${response.status}` };
  } catch (error) {
    return { status: null, retryAfterS: null, error: String(error).slice(0, 300) };
  }
}
