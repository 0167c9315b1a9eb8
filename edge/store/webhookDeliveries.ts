/** Events on their way to endpoints: what is due, what became of it, and beginning anew. */
import { LIMITS } from '../../shared/contract/limits.ts';
import type { WebhookAttempt, WebhookDelivery, WebhookDeliveryStatus } from '../../shared/contract/webhooks.ts';
import { type Actor, auditEntry, IF_CHANGED } from './audit.ts';
import { page } from './sequence.ts';
import type { EndpointRow } from './webhookEndpoints.ts';
import { inFilters } from './webhooks.ts';

export type DeliveryRow = {
  seq: number;
  event_id: string;
  endpoint_id: string;
  tenant: string;
  type: string;
  status: WebhookDeliveryStatus;
  attempts: number;
  next_at: number | null;
  claimed_until: number | null;
  created_at: number;
  ended_at: number | null;
  last_status: number | null;
  last_error: string | null;
};

/** A delivery that this sender has claimed. */
export type DueDelivery = { event_id: string; attempts: number; claimed_until: number; body: string };

/** Endpoints that something is due for and that are not called as often at once as they may be: those see for themselves what comes next. */
export async function dueEndpoints(db: D1Database, nowMs: number): Promise<string[]> {
  const { callsAtOnce, claimMs } = LIMITS.webhooks;
  const { results } = await db
    .prepare(
      `SELECT e.id FROM webhook_endpoints e WHERE e.disabled_at IS NULL
         AND EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.endpoint_id = e.id AND d.next_at <= ?1)
         AND (SELECT COUNT(*) FROM (SELECT 1 FROM webhook_deliveries c
           WHERE c.endpoint_id = e.id AND c.next_at > ?1 AND c.next_at <= ?2 AND c.claimed_until > ?1 LIMIT ?3)) < ?3`,
    )
    .bind(nowMs, nowMs + claimMs, callsAtOnce)
    .all<{ id: string }>();
  return results.map(({ id }) => id);
}

/**
 * Statements that take up to `limit` deliveries of an endpoint that are due, oldest first; `claimOf` reads their results. A claim runs out after
 * `LIMITS.webhooks.claimMs`, so that a sender that dies does not keep them; until then nobody else sends them.
 */
export function claimDeliveries(
  db: D1Database,
  endpointId: string,
  nowMs: number,
  limit: number,
): D1PreparedStatement[] {
  return [
    db.prepare('SELECT * FROM webhook_endpoints WHERE id = ? AND disabled_at IS NULL').bind(endpointId),
    db
      .prepare(
        `UPDATE webhook_deliveries SET next_at = ?2, claimed_until = ?2
         WHERE seq IN (SELECT seq FROM webhook_deliveries WHERE endpoint_id = ?3 AND next_at <= ?1 ORDER BY next_at, seq LIMIT ?4)
           AND EXISTS (SELECT 1 FROM webhook_endpoints WHERE id = ?3 AND disabled_at IS NULL)
         RETURNING event_id, attempts, claimed_until, (SELECT body FROM webhook_events WHERE id = event_id) AS body`,
      )
      .bind(nowMs, nowMs + LIMITS.webhooks.claimMs, endpointId, limit),
  ];
}

/** What was claimed, and the endpoint as it is now; null where it is gone or disabled. */
export function claimOf(results: readonly D1Result[]): { endpoint: EndpointRow; due: DueDelivery[] } | null {
  const endpoint = results[0]?.results[0] as EndpointRow | undefined;
  return endpoint === undefined ? null : { endpoint, due: (results[1]?.results ?? []) as DueDelivery[] };
}

/** Gives back what a sender of the endpoint had claimed that is known to be gone. */
export async function freeClaims(db: D1Database, endpointId: string, nowMs: number): Promise<void> {
  await db
    .prepare(
      `UPDATE webhook_deliveries SET next_at = ?1, claimed_until = NULL
       WHERE endpoint_id = ?2 AND next_at > ?1 AND claimed_until > ?1`,
    )
    .bind(nowMs, endpointId)
    .run();
}

/** How an attempt ended. `nextAtMs` null ends the delivery. */
export type AttemptRecord = {
  atMs: number;
  durationMs: number;
  status: number | null;
  error: string | null;
  response: string | null;
  outcome: 'delivered' | 'retry' | 'failed' | 'cancelled';
  nextAtMs: number | null;
  endedAtMs: number;
};

/**
 * Statements that write down how an attempt ended. A success always counts; a failure only while the claim is the sender's own, since somebody else may
 * be sending by now.
 */
export function recordAttempt(
  db: D1Database,
  endpoint: Pick<EndpointRow, 'id' | 'tenant'>,
  { event_id, claimed_until }: Pick<DueDelivery, 'event_id' | 'claimed_until'>,
  record: AttemptRecord,
): D1PreparedStatement[] {
  const { outcome, endedAtMs } = record;
  const status = outcome === 'retry' ? 'pending' : outcome;
  const statements = [
    db
      .prepare(
        `UPDATE webhook_deliveries SET status = ?1, attempts = attempts + 1, next_at = ?2, claimed_until = NULL, ended_at = ?3,
           last_status = ?4, last_error = ?5
         WHERE event_id = ?6 AND endpoint_id = ?7 AND ${outcome === 'delivered' ? `status <> 'delivered' AND ?8 = ?8` : 'claimed_until = ?8'}`,
      )
      .bind(
        status,
        record.nextAtMs,
        outcome === 'retry' ? null : endedAtMs,
        record.status,
        record.error,
        event_id,
        endpoint.id,
        claimed_until,
      ),
  ];
  if (outcome === 'failed') {
    const actor = { tenant: endpoint.tenant, keyId: 'system', requestId: null };
    const entry = {
      action: 'webhook_delivery.failed',
      object: deliveryId(event_id, endpoint.id),
      data: { endpoint_id: endpoint.id, status: record.status },
    };
    statements.push(auditEntry(db, actor, entry, IF_CHANGED));
  }
  statements.push(
    db
      .prepare(
        'INSERT INTO webhook_attempts (event_id, endpoint_id, at, duration_ms, status, error, response) VALUES (?, ?, ?, ?, ?, ?, ?)',
      )
      .bind(event_id, endpoint.id, record.atMs, record.durationMs, record.status, record.error, record.response),
    outcome === 'delivered'
      ? db
          .prepare('UPDATE webhook_endpoints SET failing_since = NULL WHERE id = ? AND failing_since IS NOT NULL')
          .bind(endpoint.id)
      : db
          .prepare('UPDATE webhook_endpoints SET failing_since = ? WHERE id = ? AND failing_since IS NULL')
          .bind(endedAtMs, endpoint.id),
  );
  return statements;
}

/** When the next delivery of an endpoint is due (or the claim of one runs out), Unix ms, or null. */
export async function nextDeliveryAt(db: D1Database, endpointId: string): Promise<number | null> {
  const row = await db
    .prepare('SELECT MIN(next_at) AS at FROM webhook_deliveries WHERE endpoint_id = ? AND next_at IS NOT NULL')
    .bind(endpointId)
    .first<{ at: number | null }>();
  return row?.at ?? null;
}

export type DeliveryQuery = {
  limit: number;
  after: string | null;
  endpointId: string | null;
  eventId: string | null;
  status: string | null;
  type: string | null;
};

/** Newest first. */
export async function listDeliveries(db: D1Database, tenant: string, query: DeliveryQuery) {
  const after = query.after === null ? null : parseDeliveryId(query.after);
  const { results } = await db
    .prepare(
      `SELECT * FROM webhook_deliveries WHERE tenant = ?1
         AND (?2 IS NULL OR seq < (SELECT seq FROM webhook_deliveries WHERE event_id = ?2 AND endpoint_id = ?3 AND tenant = ?1))
         AND (?4 IS NULL OR endpoint_id = ?4) AND (?5 IS NULL OR event_id = ?5)
         AND (?6 IS NULL OR status = ?6) AND (?7 IS NULL OR type = ?7)
       ORDER BY seq DESC LIMIT ?8`,
    )
    .bind(
      tenant,
      query.after === null ? null : (after?.eventId ?? ''),
      after?.endpointId ?? '',
      query.endpointId,
      query.eventId,
      query.status,
      query.type,
      query.limit + 1,
    )
    .all<DeliveryRow>();
  return page(results, query.limit, showDelivery);
}

export async function getDelivery(db: D1Database, tenant: string, id: string): Promise<DeliveryRow | null> {
  const parsed = parseDeliveryId(id);
  if (parsed === null) return null;
  return db
    .prepare('SELECT * FROM webhook_deliveries WHERE event_id = ? AND endpoint_id = ? AND tenant = ?')
    .bind(parsed.eventId, parsed.endpointId, tenant)
    .first<DeliveryRow>();
}

/** The latest attempts, oldest first. */
export async function listAttempts(db: D1Database, row: DeliveryRow): Promise<WebhookAttempt[]> {
  const { results } = await db
    .prepare('SELECT * FROM webhook_attempts WHERE event_id = ? AND endpoint_id = ? ORDER BY seq DESC LIMIT ?')
    .bind(row.event_id, row.endpoint_id, LIMITS.webhooks.shownAttempts)
    .all<WebhookAttempt & { at: number }>();
  return results.reverse().map(({ at, duration_ms, status, error, response }) => ({
    at: Math.floor(at / 1000),
    duration_ms,
    status,
    error,
    response,
  }));
}

/** Begun anew: all attempts are there again. One that is under way at this moment is left to its sender. */
const ANEW = `status = 'pending', attempts = 0, next_at = ?1, claimed_until = NULL, ended_at = NULL`;
const AT_REST = `(claimed_until IS NULL OR claimed_until <= ?1)`;

/** Begins one delivery anew, however it ended; one that waits for its next attempt is made now. @returns whether that was possible */
export async function redeliver(db: D1Database, actor: Actor, row: DeliveryRow, nowMs: number): Promise<boolean> {
  const [changed] = await db.batch([
    db
      .prepare(
        `UPDATE webhook_deliveries SET ${ANEW} WHERE event_id = ?2 AND endpoint_id = ?3 AND ${AT_REST}
           AND EXISTS (SELECT 1 FROM webhook_endpoints WHERE id = ?3 AND tenant = ?4 AND disabled_at IS NULL)`,
      )
      .bind(nowMs, row.event_id, row.endpoint_id, actor.tenant),
    auditEntry(
      db,
      actor,
      { action: 'webhook_delivery.redelivered', object: deliveryId(row.event_id, row.endpoint_id) },
      IF_CHANGED,
    ),
  ]);
  return (changed?.meta.changes ?? 0) > 0;
}

export type RedeliverRange = {
  sinceMs: number;
  /** Not included. */
  untilMs: number;
  /** `failed`, `cancelled`, `delivered`; and `missing`: events without a delivery. */
  statuses: readonly string[];
  /** JSON list; null: what the endpoint wants. */
  filters: string | null;
};

/** Begins the deliveries of a range of events anew, in one transaction. @returns how many */
export async function redeliverRange(
  db: D1Database,
  actor: Actor,
  endpointId: string,
  range: RedeliverRange,
  nowMs: number,
): Promise<number> {
  const filters = '(SELECT COALESCE(?6, e.events) FROM webhook_endpoints e WHERE e.id = ?2)';
  const within = `v.tenant = ?3 AND v.created_at >= ?4 AND v.created_at < ?5 AND ${inFilters('v.type', filters)}
    AND EXISTS (SELECT 1 FROM webhook_endpoints WHERE id = ?2 AND tenant = ?3 AND disabled_at IS NULL)`;
  const values = [nowMs, endpointId, actor.tenant, range.sinceMs, range.untilMs, range.filters];
  const results = await db.batch([
    db
      .prepare(
        `UPDATE webhook_deliveries SET ${ANEW} WHERE endpoint_id = ?2 AND ${AT_REST}
           AND status IN (SELECT value FROM json_each(?7)) AND event_id IN (SELECT v.id FROM webhook_events v WHERE ${within})`,
      )
      .bind(...values, JSON.stringify(range.statuses)),
    ...(range.statuses.includes('missing')
      ? [
          db
            .prepare(
              `INSERT INTO webhook_deliveries (event_id, endpoint_id, tenant, type, created_at, next_at)
               SELECT v.id, ?2, v.tenant, v.type, v.created_at, ?1 FROM webhook_events v WHERE ${within}
                 AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.event_id = v.id AND d.endpoint_id = ?2) ORDER BY v.seq`,
            )
            .bind(...values),
        ]
      : []),
    auditEntry(db, actor, {
      action: 'webhook_endpoint.redelivered',
      object: endpointId,
      data: { since: range.sinceMs, until: range.untilMs, status: range.statuses },
    }),
  ]);
  return results.slice(0, -1).reduce((sum, { meta }) => sum + meta.changes, 0);
}

/** Of what an event is to an endpoint there is one delivery, so its id is made of theirs. */
export function deliveryId(eventId: string, endpointId: string): string {
  return `whd_${eventId.replace(/^evt_/, '')}_${endpointId.replace(/^whe_/, '')}`;
}

function parseDeliveryId(id: string): { eventId: string; endpointId: string } | null {
  const [, event, endpoint] = /^whd_([0-9A-Za-z]+)_([0-9A-Za-z]+)$/.exec(id) ?? [];
  return event === undefined || endpoint === undefined
    ? null
    : { eventId: `evt_${event}`, endpointId: `whe_${endpoint}` };
}

const seconds = (ms: number | null) => (ms === null ? null : Math.floor(ms / 1000));

export function showDelivery(row: DeliveryRow): WebhookDelivery {
  return {
    id: deliveryId(row.event_id, row.endpoint_id),
    object: 'webhook_delivery',
    event_id: row.event_id,
    endpoint_id: row.endpoint_id,
    type: row.type,
    status: row.status,
    attempts: row.attempts,
    created_at: Math.floor(row.created_at / 1000),
    next_attempt_at: seconds(row.next_at),
    ended_at: seconds(row.ended_at),
    last_status: row.last_status,
    last_error: row.last_error,
  };
}
