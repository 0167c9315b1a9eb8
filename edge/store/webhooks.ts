import type { WebhookEndpoint, WebhookEvent, WebhookEventType } from '../../shared/contract/webhooks.ts';
import { type Actor, auditEntry, IF_CHANGED } from './audit.ts';
import { nextSeq, page } from './sequence.ts';

export type EndpointRow = {
  id: string;
  tenant: string;
  url: string;
  events: string;
  secret: string;
  created_at: number;
  disabled_at: number | null;
  seq: number;
};

/** A delivery that has been claimed, with what is needed to send it. */
export type DueDelivery = {
  event_id: string;
  endpoint_id: string;
  body: string;
  attempts: number;
  url: string;
  secret: string;
};

export function insertEndpoint(
  db: D1Database,
  row: Pick<EndpointRow, 'id' | 'tenant' | 'url' | 'events' | 'secret' | 'created_at'>,
) {
  return db
    .prepare(
      `INSERT INTO webhook_endpoints (id, tenant, url, events, secret, created_at, seq) VALUES (?, ?, ?, ?, ?, ?, ${nextSeq('webhook_endpoints')})`,
    )
    .bind(row.id, row.tenant, row.url, row.events, row.secret, row.created_at);
}

export function getEndpoint(db: D1Database, tenant: string, id: string): Promise<EndpointRow | null> {
  return db
    .prepare('SELECT * FROM webhook_endpoints WHERE id = ? AND tenant = ?')
    .bind(id, tenant)
    .first<EndpointRow>();
}

export async function countEndpoints(db: D1Database, tenant: string): Promise<number> {
  const count = db.prepare('SELECT COUNT(*) AS n FROM webhook_endpoints WHERE tenant = ?').bind(tenant);
  return (await count.first<{ n: number }>())?.n ?? 0;
}

export async function listEndpoints(db: D1Database, tenant: string, query: { limit: number; after: string | null }) {
  const { results } = await db
    .prepare(
      `SELECT * FROM webhook_endpoints
       WHERE tenant = ?3 AND (?1 IS NULL OR seq < (SELECT seq FROM webhook_endpoints WHERE id = ?1 AND tenant = ?3))
       ORDER BY seq DESC LIMIT ?2`,
    )
    .bind(query.after, query.limit + 1, tenant)
    .all<EndpointRow>();
  return page(results, query.limit, showEndpoint);
}

/** Removes an endpoint and what was still to be delivered to it. */
export async function deleteEndpoint(db: D1Database, actor: Actor, id: string): Promise<boolean> {
  const [gone] = await db.batch([
    db.prepare('DELETE FROM webhook_endpoints WHERE id = ? AND tenant = ?').bind(id, actor.tenant),
    auditEntry(db, actor, { action: 'webhook_endpoint.deleted', object: id }, IF_CHANGED),
    db
      .prepare(
        `UPDATE webhook_deliveries SET next_at = NULL
         WHERE endpoint_id = ?1 AND NOT EXISTS (SELECT 1 FROM webhook_endpoints WHERE id = ?1)`,
      )
      .bind(id),
  ]);
  return (gone?.meta.changes ?? 0) > 0;
}

/**
 * Outbox rows for every live endpoint of the tenant that wants the event.
 * @param guard SQL that is true only if the change which the event tells of was made in the same transaction.
 */
export function insertDeliveries(
  db: D1Database,
  event: { id: string; tenant: string; type: WebhookEventType; objectId: string; createdAtMs: number },
  guard: string,
  nowMs: number,
): D1PreparedStatement {
  const body: WebhookEvent = {
    id: event.id,
    object: 'event',
    type: event.type,
    created_at: Math.floor(event.createdAtMs / 1000),
    data: { id: event.objectId },
  };
  return db
    .prepare(
      `INSERT INTO webhook_deliveries (event_id, endpoint_id, type, body, created_at, next_at)
       SELECT ?1, e.id, ?2, ?3, ?4, ?5 FROM webhook_endpoints e
       WHERE e.tenant = ?6 AND e.disabled_at IS NULL AND EXISTS (SELECT 1 FROM json_each(e.events) WHERE value = ?2)
         AND ${guard}`,
    )
    .bind(event.id, event.type, JSON.stringify(body), event.createdAtMs, nowMs, event.tenant);
}

/**
 * Takes up to `limit` due deliveries for this sender. A claim runs out after `claimMs`, so that a sender that dies does not keep them; until then nobody
 * else sends them.
 */
export async function claimDeliveries(
  db: D1Database,
  nowMs: number,
  claimMs: number,
  limit: number,
): Promise<DueDelivery[]> {
  const { results } = await db
    .prepare(
      `UPDATE webhook_deliveries SET claimed_until = ?2, attempts = attempts + 1
       WHERE rowid IN (
         SELECT rowid FROM webhook_deliveries
         WHERE next_at IS NOT NULL AND next_at <= ?1 AND (claimed_until IS NULL OR claimed_until <= ?1) ORDER BY next_at LIMIT ?3)
       RETURNING event_id, endpoint_id, body, attempts,
         (SELECT url FROM webhook_endpoints WHERE id = endpoint_id) AS url,
         (SELECT secret FROM webhook_endpoints WHERE id = endpoint_id) AS secret`,
    )
    .bind(nowMs, nowMs + claimMs, limit)
    .all<DueDelivery>();
  return results;
}

/** Writes down how an attempt ended. `nextAtMs` null ends the delivery, delivered or not. */
export function recordAttempt(
  db: D1Database,
  delivery: { event_id: string; endpoint_id: string },
  result: { deliveredAtMs: number | null; nextAtMs: number | null; status: number | null; error: string | null },
): D1PreparedStatement {
  return db
    .prepare(
      `UPDATE webhook_deliveries SET delivered_at = ?, next_at = ?, claimed_until = NULL, last_status = ?, last_error = ?
       WHERE event_id = ? AND endpoint_id = ?`,
    )
    .bind(result.deliveredAtMs, result.nextAtMs, result.status, result.error, delivery.event_id, delivery.endpoint_id);
}

/** 410 Gone: the endpoint wants no more. */
export function disableEndpoint(db: D1Database, id: string, nowMs: number): D1PreparedStatement[] {
  return [
    db.prepare('UPDATE webhook_endpoints SET disabled_at = ? WHERE id = ?').bind(nowMs, id),
    db.prepare('UPDATE webhook_deliveries SET next_at = NULL WHERE endpoint_id = ?').bind(id),
  ];
}

/** When the next delivery is due, Unix ms, or null. */
export async function nextDeliveryAt(db: D1Database): Promise<number | null> {
  const row = await db
    .prepare(
      'SELECT MIN(MAX(next_at, COALESCE(claimed_until, 0))) AS at FROM webhook_deliveries WHERE next_at IS NOT NULL',
    )
    .first<{ at: number | null }>();
  return row?.at ?? null;
}

export function showEndpoint(row: EndpointRow): WebhookEndpoint {
  return {
    id: row.id,
    object: 'webhook_endpoint',
    url: row.url,
    events: JSON.parse(row.events) as WebhookEventType[],
    created_at: Math.floor(row.created_at / 1000),
    status: row.disabled_at === null ? 'enabled' : 'disabled',
  };
}
