/** The outbox: events, written in the transaction of the change that they tell of, and whom they are to be sent to. */
import { LIMITS } from '../../shared/contract/limits.ts';
import type { WebhookEvent, WebhookEventType } from '../../shared/contract/webhooks.ts';
import { page } from './sequence.ts';

export type WebhookEventRow = {
  seq: number;
  id: string;
  tenant: string;
  type: string;
  object_id: string;
  sequence: number;
  body: string;
  created_at: number;
};

/** Something happened to a thing of a tenant. */
export type NewWebhookEvent = {
  id: string;
  tenant: string;
  type: WebhookEventType;
  /** The thing that it happened to: `data.id`, what `data.sequence` counts by. */
  objectId: string;
  createdAtMs: number;
  /** Further ids that a receiver needs to act, such as a run's schedule. */
  data?: Readonly<Record<string, string | null>>;
};

/** Whether a filter (a row `value`) lets a type (the parameter) pass; the same rule as `matchesFilter` of the contract. */
const MATCHES = (type: string) =>
  `(value = ${type} OR (value LIKE '%*' AND substr(${type}, 1, length(value) - 1) = substr(value, 1, length(value) - 1)))`;

/** SQL that is true where an endpoint `e` wants events of this type. */
export const wants = (type: string): string => `EXISTS (SELECT 1 FROM json_each(e.events) WHERE ${MATCHES(type)})`;

/** SQL that is true where a type stands in a JSON list of filters (a parameter). */
export const inFilters = (type: string, filters: string): string =>
  `EXISTS (SELECT 1 FROM json_each(${filters}) WHERE ${MATCHES(type)})`;

/**
 * Statements that write an event and its outbox rows for every live endpoint of the tenant that wants it. They belong together, in this order, into the
 * `db.batch` of the change: all of it happens or nothing does. The event's sequence is counted in there too, so that it has neither gaps nor doubles.
 * Of a job's checkpoints not every one makes an event; see `LIMITS.webhooks.checkpointEveryMs`.
 * @param guard SQL that is true only if the change which the event tells of was made in the same transaction; it is looked at twice, so not `changes()`.
 * @throws where the body would be larger than what is promised
 */
export function insertDeliveries(
  db: D1Database,
  event: NewWebhookEvent,
  guard: string,
  nowMs: number,
): D1PreparedStatement[] {
  const { id, tenant, type, objectId, createdAtMs } = event;
  const body: WebhookEvent = {
    id,
    object: 'event',
    type,
    created_at: Math.floor(createdAtMs / 1000),
    data: { id: objectId, sequence: 0, ...event.data },
  };
  const text = JSON.stringify(body);
  // Characters, and some room for those of several bytes and for the sequence.
  if (text.length > LIMITS.webhooks.maxEventBytes / 4)
    throw new Error(`event ${type} of ${objectId}: expected ids only, received ${text.length} characters`);
  const happened = type === 'fine_tuning.job.checkpoint' ? `(${guard}) AND ${NOT_LATELY}` : `(${guard})`;
  const sinceMs = createdAtMs - LIMITS.webhooks.checkpointEveryMs;
  return [
    db
      .prepare(
        `INSERT INTO webhook_sequences (tenant, object_id, last) SELECT ?1, ?2, 1
         WHERE ?3 = ?3 AND ?4 = ?4 AND ${happened} ON CONFLICT (tenant, object_id) DO UPDATE SET last = last + 1`,
      )
      .bind(tenant, objectId, type, sinceMs),
    db
      .prepare(
        `INSERT INTO webhook_events (tenant, object_id, type, id, created_at, sequence, body)
         SELECT ?1, ?2, ?3, ?5, ?6, s.last, json_set(?7, '$.data.sequence', s.last)
         FROM webhook_sequences s WHERE s.tenant = ?1 AND s.object_id = ?2 AND ?4 = ?4 AND ${happened}`,
      )
      .bind(tenant, objectId, type, sinceMs, id, createdAtMs, text),
    db
      .prepare(
        `INSERT INTO webhook_deliveries (event_id, endpoint_id, tenant, type, created_at, next_at)
         SELECT ?1, e.id, ?2, ?3, ?4, ?5 FROM webhook_endpoints e
         WHERE e.tenant = ?2 AND e.disabled_at IS NULL AND ${wants('?3')}
           AND EXISTS (SELECT 1 FROM webhook_events WHERE id = ?1)`,
      )
      .bind(id, tenant, type, createdAtMs, nowMs),
  ];
}

/** Parameters 1 to 4 are tenant, object, type and the time since when there must be none. */
const NOT_LATELY = `NOT EXISTS (SELECT 1 FROM webhook_events
  WHERE tenant = ?1 AND object_id = ?2 AND type = ?3 AND created_at > ?4)`;

export function getWebhookEvent(db: D1Database, tenant: string, id: string): Promise<WebhookEventRow | null> {
  return db
    .prepare('SELECT * FROM webhook_events WHERE id = ? AND tenant = ?')
    .bind(id, tenant)
    .first<WebhookEventRow>();
}

/** Newest first. @param query.filters JSON list of types and patterns, null: all */
export async function listWebhookEvents(
  db: D1Database,
  tenant: string,
  query: { limit: number; after: string | null; filters: string | null; objectId: string | null },
) {
  const { results } = await db
    .prepare(
      `SELECT * FROM webhook_events
       WHERE tenant = ?3 AND (?1 IS NULL OR seq < (SELECT seq FROM webhook_events WHERE id = ?1 AND tenant = ?3))
         AND (?4 IS NULL OR ${inFilters('webhook_events.type', '?4')}) AND (?5 IS NULL OR object_id = ?5)
       ORDER BY seq DESC LIMIT ?2`,
    )
    .bind(query.after, query.limit + 1, tenant, query.filters, query.objectId)
    .all<WebhookEventRow>();
  return page(results, query.limit, showWebhookEvent);
}

/** Where a stream begins: behind the event that was seen last, or (null, or one that is not there any more) at the newest one. */
export async function webhookEventPosition(db: D1Database, tenant: string, lastId: string | null): Promise<number> {
  const row = await db
    .prepare(
      `SELECT COALESCE((SELECT seq FROM webhook_events WHERE id = ?2 AND tenant = ?1),
         (SELECT MAX(seq) FROM webhook_events WHERE tenant = ?1), 0) AS seq`,
    )
    .bind(tenant, lastId)
    .first<{ seq: number }>();
  return row?.seq ?? 0;
}

/** Oldest first, from after `seq`: for streams. */
export async function webhookEventsSince(
  db: D1Database,
  tenant: string,
  seq: number,
  filters: string | null,
  limit: number,
): Promise<WebhookEventRow[]> {
  const { results } = await db
    .prepare(
      `SELECT * FROM webhook_events
       WHERE tenant = ?1 AND seq > ?2 AND (?3 IS NULL OR ${inFilters('webhook_events.type', '?3')}) ORDER BY seq LIMIT ?4`,
    )
    .bind(tenant, seq, filters, limit)
    .all<WebhookEventRow>();
  return results;
}

export function showWebhookEvent(row: WebhookEventRow): WebhookEvent {
  return JSON.parse(row.body) as WebhookEvent;
}

/**
 * Deletes what is older than it is kept, a page at a time. Deliveries go with their events; one that is still to be made keeps its event.
 * @returns whether there is more
 */
export async function sweepWebhooks(db: D1Database, nowMs: number, limit: number): Promise<boolean> {
  const beforeMs = nowMs - LIMITS.webhooks.keepMs;
  const results = await db.batch([
    db
      .prepare(
        'DELETE FROM webhook_attempts WHERE seq IN (SELECT seq FROM webhook_attempts WHERE at < ? ORDER BY at LIMIT ?)',
      )
      .bind(beforeMs, limit),
    db
      .prepare(
        `DELETE FROM webhook_deliveries WHERE status <> 'pending' AND event_id IN (
           SELECT id FROM webhook_events WHERE created_at < ? ORDER BY created_at LIMIT ?)`,
      )
      .bind(beforeMs, limit),
    db
      .prepare(
        `DELETE FROM webhook_events WHERE seq IN (
           SELECT v.seq FROM webhook_events v WHERE v.created_at < ?
             AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.event_id = v.id) ORDER BY v.created_at LIMIT ?)`,
      )
      .bind(beforeMs, limit),
    db
      .prepare(
        `UPDATE webhook_endpoints SET old_secrets = (
           SELECT json_group_array(json(value)) FROM json_each(old_secrets) WHERE value ->> '$.until' > ?1)
         WHERE old_secrets <> '[]' AND EXISTS (SELECT 1 FROM json_each(old_secrets) WHERE value ->> '$.until' <= ?1)`,
      )
      .bind(nowMs),
  ]);
  return results.slice(0, 3).some(({ meta }) => meta.changes >= limit);
}
