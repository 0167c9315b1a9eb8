/** The way to one endpoint: claims what is due for it, a few calls at once, and writes down how each ended. */
import { LIMITS } from '../../shared/contract/limits.ts';
import { metrics } from '../metrics/metrics.ts';
import {
  claimDeliveries,
  claimOf,
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

/** How a call ended, as statements and as a line of the log. */
type Ended = { statements: D1PreparedStatement[]; entry: { outcome: string } & Readonly<Record<string, unknown>> };

const logLine = (entry: Readonly<Record<string, unknown>>): void => console.log(JSON.stringify(entry));

/**
 * Endpoints share nothing but the database: each has a lane, so that one whose receiver hangs holds up only what is for itself. A lane may be lost at any
 * point: what it had claimed is due again when the claim runs out.
 */
export class Lane {
  readonly #context: LaneContext;
  readonly #endpointId: string;
  readonly #underWay = new Set<Promise<void>>();
  /** Calls that are over and not yet written down. */
  readonly #ended: Ended[] = [];
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
   * Sends until nothing is due any more. What has ended is written down in the same transaction that claims what comes next.
   * @param untilMs begins no call after this time
   * @returns when something will be due next, Unix ms, or null
   * @throws what the database threw, or what no call could be made of, once no call is under way any more; what was claimed then is nobody's
   */
  async run(untilMs = Number.POSITIVE_INFINITY): Promise<number | null> {
    const { db, nowMs, takesOver = false } = this.#context;
    if (takesOver) await freeClaims(db, this.#endpointId, nowMs());
    for (;;) {
      const free = this.#error === null && nowMs() < untilMs ? W.callsAtOnce - this.#underWay.size : 0;
      const poked = new Promise<void>((resolve) => {
        this.#poke = resolve;
      });
      const ended = this.#ended.splice(0);
      const claimed = await this.#turn(ended, free).catch((thrown: unknown) => {
        this.#error = thrown;
        return null;
      });
      for (const delivery of claimed?.due ?? []) this.#begin(claimed?.endpoint as EndpointRow, delivery);
      if (this.#ended.length > 0) continue;
      if (this.#underWay.size === 0) break;
      await Promise.race([...this.#underWay, poked]);
    }
    if (this.#error !== null) throw this.#error;
    return nextDeliveryAt(db, this.#endpointId);
  }

  async #turn(ended: readonly Ended[], free: number): Promise<ReturnType<typeof claimOf>> {
    const { db, nowMs, log = logLine } = this.#context;
    const claim = free > 0 ? claimDeliveries(db, this.#endpointId, nowMs(), free) : [];
    const statements = [...ended.flatMap((one) => one.statements), ...claim];
    if (statements.length === 0) return null;
    let results: D1Result[];
    try {
      results = await db.batch(statements);
    } catch (error) {
      if (ended.length === 0) throw error;
      // What has ended would be sent again: once more, without claiming. Should the first one have been written after all, nothing counts twice.
      results = await db.batch(ended.flatMap((one) => one.statements));
    }
    for (const { entry } of ended) {
      metrics.webhookDeliveries.inc(1, entry.outcome);
      log(entry);
    }
    return results.length === statements.length && claim.length > 0 ? claimOf(results.slice(-claim.length)) : null;
  }

  #begin(endpoint: EndpointRow, delivery: DueDelivery): void {
    const call = this.#attempt(endpoint, delivery)
      .then(
        (ended) => void this.#ended.push(ended),
        (thrown: unknown) => {
          this.#error = thrown;
        },
      )
      .finally(() => this.#underWay.delete(call));
    this.#underWay.add(call);
  }

  async #attempt(endpoint: EndpointRow, delivery: DueDelivery): Promise<Ended> {
    const { db, nowMs, random = Math.random } = this.#context;
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
    const disables =
      decision.kind === 'disable'
        ? 'gone'
        : decision.kind !== 'delivered' && failingMs >= W.disableAfterMs
          ? 'failing'
          : null;
    if (disables !== null)
      statements.push(
        ...disableEndpoint(db, endpoint, disables, endedAtMs, disables === 'failing' ? endpoint.failing_since : null),
      );
    const entry = {
      level: decision.kind === 'delivered' ? 'info' : 'warn',
      event: 'webhook_attempt',
      webhook_id: delivery.event_id,
      endpoint: endpoint.id,
      attempt,
      status,
      error,
      duration_ms: durationMs,
      outcome: decision.kind,
      ...(disables === null ? {} : { disables }),
    };
    return { statements, entry };
  }
}

const OUTCOMES = { delivered: 'delivered', disable: 'cancelled', retry: 'retry', give_up: 'failed' } as const;
