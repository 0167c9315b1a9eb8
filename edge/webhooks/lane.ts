/** The way to one endpoint: claims what is due for it, a few calls at once, and writes down how each ended. */
import { LIMITS } from '../../shared/contract/limits.ts';
import { metrics } from '../metrics/metrics.ts';
import {
  claimDeliveries,
  type DueDelivery,
  freeClaims,
  nextDeliveryAt,
  recordAttempt,
} from '../store/webhookDeliveries.ts';
import { disableEndpoint, type EndpointRow, liveSecrets } from '../store/webhookEndpoints.ts';
import { afterAttempt } from './retry.ts';
import { type SendContext, send } from './send.ts';

const W = LIMITS.webhooks;

export type LaneContext = SendContext & {
  db: D1Database;
  random?: () => number;
  /** There is no other sender of the endpoint: what is claimed at the start was claimed by one that has died, and is begun again at once. */
  takesOver?: boolean;
  /** Takes a line about each call; default: the log. */
  log?: (entry: Readonly<Record<string, unknown>>) => void;
};

const logLine = (entry: Readonly<Record<string, unknown>>): void => console.log(JSON.stringify(entry));

/**
 * Endpoints share nothing but the database: each has a lane, so that one whose receiver hangs holds up only what is for itself. A lane may be lost at any
 * point: what it had claimed is due again when the claim runs out.
 */
export class Lane {
  readonly #context: LaneContext;
  readonly #endpointId: string;
  readonly #underWay = new Set<Promise<void>>();
  #poke: () => void = () => {};
  #error: unknown = null;

  constructor(context: LaneContext, endpointId: string) {
    this.#context = context;
    this.#endpointId = endpointId;
  }

  /** Something has become due. */
  poke(): void {
    this.#poke();
  }

  /**
   * Sends until nothing is due any more.
   * @param untilMs begins no call after this time
   * @returns when something will be due next, Unix ms, or null
   * @throws what the database threw, once no call is under way any more
   */
  async run(untilMs = Number.POSITIVE_INFINITY): Promise<number | null> {
    const { db, nowMs, takesOver = false } = this.#context;
    if (takesOver) await freeClaims(db, this.#endpointId, nowMs());
    for (;;) {
      const free = W.callsAtOnce - this.#underWay.size;
      const poked = new Promise<void>((resolve) => {
        this.#poke = resolve;
      });
      if (free > 0 && this.#error === null && nowMs() < untilMs) {
        const claimed = await claimDeliveries(db, this.#endpointId, nowMs(), free).catch((error: unknown) => {
          this.#error = error;
          return null;
        });
        for (const delivery of claimed?.due ?? []) this.#begin(claimed?.endpoint as EndpointRow, delivery);
      }
      if (this.#underWay.size === 0) break;
      await Promise.race([...this.#underWay, poked]);
    }
    if (this.#error !== null) throw this.#error;
    return nextDeliveryAt(db, this.#endpointId);
  }

  #begin(endpoint: EndpointRow, delivery: DueDelivery): void {
    const call = this.#attempt(endpoint, delivery)
      .catch((error: unknown) => {
        this.#error = error;
      })
      .finally(() => this.#underWay.delete(call));
    this.#underWay.add(call);
  }

  async #attempt(endpoint: EndpointRow, delivery: DueDelivery): Promise<void> {
    const { db, nowMs, random = Math.random, log = logLine } = this.#context;
    const atMs = nowMs();
    const secrets = liveSecrets(endpoint, atMs);
    const call = { id: delivery.event_id, url: endpoint.url, body: delivery.body, secrets };
    const { status, retryAfterMs, error, response, durationMs } = await send(this.#context, call);
    const attempt = delivery.attempts + 1;
    const decision = afterAttempt({ status, retryAfterMs }, attempt, random());
    const endedAtMs = nowMs();
    const record = {
      ...{ atMs, durationMs, status, error, response, endedAtMs },
      outcome: OUTCOMES[decision.kind],
      nextAtMs: decision.kind === 'retry' ? endedAtMs + decision.afterMs : null,
    };
    const statements = recordAttempt(db, endpoint, delivery, record);
    const failingMs = endpoint.failing_since === null ? 0 : endedAtMs - endpoint.failing_since;
    if (decision.kind === 'disable') statements.push(...disableEndpoint(db, endpoint, 'gone', endedAtMs));
    else if (decision.kind !== 'delivered' && failingMs >= W.disableAfterMs)
      statements.push(...disableEndpoint(db, endpoint, 'failing', endedAtMs, endpoint.failing_since));
    await db.batch(statements);
    metrics.webhookDeliveries.inc(1, decision.kind);
    log({
      level: decision.kind === 'delivered' ? 'info' : 'warn',
      event: 'webhook_attempt',
      webhook_id: delivery.event_id,
      endpoint: endpoint.id,
      attempt,
      status,
      error,
      duration_ms: durationMs,
      outcome: decision.kind,
    });
  }
}

const OUTCOMES = { delivered: 'delivered', disable: 'cancelled', retry: 'retry', give_up: 'failed' } as const;
