/** Where webhooks go. */
import type { WebhookEndpoint, WebhookEventFilter } from '../../shared/contract/webhooks.ts';
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
  disabled_reason: 'requested' | 'gone' | 'failing' | null;
  failing_since: number | null;
  description: string | null;
  /** JSON of `OldSecret[]`, the latest first. */
  old_secrets: string;
  seq: number;
};

/** Signs beside the present secret until `until`, Unix ms. */
export type OldSecret = { secret: string; until: number };

export type NewEndpoint = Pick<
  EndpointRow,
  'id' | 'tenant' | 'url' | 'events' | 'secret' | 'created_at' | 'description'
>;

export function insertEndpoint(db: D1Database, row: NewEndpoint): D1PreparedStatement {
  return db
    .prepare(
      `INSERT INTO webhook_endpoints (id, tenant, url, events, secret, created_at, description, seq)
       VALUES (?, ?, ?, ?, ?, ?, ?, ${nextSeq('webhook_endpoints')})`,
    )
    .bind(row.id, row.tenant, row.url, row.events, row.secret, row.created_at, row.description);
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

export async function listEndpoints(
  db: D1Database,
  tenant: string,
  query: { limit: number; after: string | null },
  nowMs: number,
) {
  const { results } = await db
    .prepare(
      `SELECT * FROM webhook_endpoints
       WHERE tenant = ?3 AND (?1 IS NULL OR seq < (SELECT seq FROM webhook_endpoints WHERE id = ?1 AND tenant = ?3))
       ORDER BY seq DESC LIMIT ?2`,
    )
    .bind(query.after, query.limit + 1, tenant)
    .all<EndpointRow>();
  return page(results, query.limit, (row) => showEndpoint(row, nowMs));
}

/** Columns that a request changes; those left out stay. */
export type EndpointChange = {
  url?: string;
  events?: string;
  description?: string | null;
  status?: 'enabled' | 'disabled';
};

/** @returns the row as it is now, null where there is none */
export async function updateEndpoint(
  db: D1Database,
  actor: Actor,
  id: string,
  change: EndpointChange,
  nowMs: number,
): Promise<EndpointRow | null> {
  const { status, ...columns } = change;
  const entries = Object.entries(columns);
  // Enabled again it starts with a clean record; one that was disabled already keeps its reason.
  const set = [
    ...entries.map(([name]) => `${name} = ?`),
    ...(status === 'enabled' ? ['disabled_at = NULL', 'disabled_reason = NULL', 'failing_since = NULL'] : []),
    ...(status === 'disabled'
      ? [`disabled_reason = COALESCE(disabled_reason, 'requested')`, 'disabled_at = COALESCE(disabled_at, ?)']
      : []),
  ];
  if (set.length === 0) return getEndpoint(db, actor.tenant, id);
  const values = [...entries.map(([, value]) => value), ...(status === 'disabled' ? [nowMs] : [])];
  const [changed] = await db.batch<EndpointRow>([
    db
      .prepare(`UPDATE webhook_endpoints SET ${set.join(', ')} WHERE id = ? AND tenant = ? RETURNING *`)
      .bind(...values, id, actor.tenant),
    auditEntry(
      db,
      actor,
      {
        action: 'webhook_endpoint.updated',
        object: id,
        data: { changed: entries.map(([name]) => name), ...(status === undefined ? {} : { status }) },
      },
      IF_CHANGED,
    ),
    cancelOfDisabled(db, id, nowMs),
  ]);
  return changed?.results[0] ?? null;
}

/**
 * Puts a new secret in the place of the one that the caller has read.
 * @returns false where somebody else rotated it in between, or it is gone
 */
export async function rotateSecret(
  db: D1Database,
  actor: Actor,
  endpoint: EndpointRow,
  secret: string,
  oldSecrets: readonly OldSecret[],
): Promise<boolean> {
  const [changed] = await db.batch([
    db
      .prepare('UPDATE webhook_endpoints SET secret = ?, old_secrets = ? WHERE id = ? AND tenant = ? AND secret = ?')
      .bind(secret, JSON.stringify(oldSecrets), endpoint.id, actor.tenant, endpoint.secret),
    auditEntry(
      db,
      actor,
      {
        action: 'webhook_endpoint.secret_rotated',
        object: endpoint.id,
        data: { old_until: oldSecrets[0]?.until ?? null },
      },
      IF_CHANGED,
    ),
  ]);
  return (changed?.meta.changes ?? 0) > 0;
}

/** Removes an endpoint with what was sent to it and what was still to be. */
export async function deleteEndpoint(db: D1Database, actor: Actor, id: string): Promise<boolean> {
  const ofTheGone = `endpoint_id = ?1 AND NOT EXISTS (SELECT 1 FROM webhook_endpoints WHERE id = ?1)`;
  const [gone] = await db.batch([
    db.prepare('DELETE FROM webhook_endpoints WHERE id = ? AND tenant = ?').bind(id, actor.tenant),
    auditEntry(db, actor, { action: 'webhook_endpoint.deleted', object: id }, IF_CHANGED),
    db.prepare(`DELETE FROM webhook_deliveries WHERE ${ofTheGone}`).bind(id),
    db.prepare(`DELETE FROM webhook_attempts WHERE ${ofTheGone}`).bind(id),
  ]);
  return (gone?.meta.changes ?? 0) > 0;
}

/**
 * Statements by which the installation itself disables an endpoint; the entry in the audit log is the notice, and there is one.
 * @param failingSince only if it has been failing since then, with no success in between, Unix ms
 */
export function disableEndpoint(
  db: D1Database,
  endpoint: Pick<EndpointRow, 'id' | 'tenant'>,
  reason: 'gone' | 'failing',
  nowMs: number,
  failingSince: number | null = null,
): D1PreparedStatement[] {
  const actor = { tenant: endpoint.tenant, keyId: 'system', requestId: null };
  return [
    db
      .prepare(
        `UPDATE webhook_endpoints SET disabled_at = ?1, disabled_reason = ?2
         WHERE id = ?3 AND disabled_at IS NULL AND (?4 IS NULL OR failing_since = ?4)`,
      )
      .bind(nowMs, reason, endpoint.id, failingSince),
    auditEntry(db, actor, { action: 'webhook_endpoint.disabled', object: endpoint.id, data: { reason } }, IF_CHANGED),
    cancelOfDisabled(db, endpoint.id, nowMs),
  ];
}

function cancelOfDisabled(db: D1Database, id: string, nowMs: number): D1PreparedStatement {
  return db
    .prepare(
      `UPDATE webhook_deliveries SET status = 'cancelled', next_at = NULL, claimed_until = NULL, ended_at = ?2
       WHERE endpoint_id = ?1 AND next_at IS NOT NULL
         AND EXISTS (SELECT 1 FROM webhook_endpoints WHERE id = ?1 AND disabled_at IS NOT NULL)`,
    )
    .bind(id, nowMs);
}

/** Secrets that sign at this moment, the present one first. */
export function liveSecrets(row: Pick<EndpointRow, 'secret' | 'old_secrets'>, nowMs: number): string[] {
  return [row.secret, ...liveOld(row, nowMs).map(({ secret }) => secret)];
}

/** Old secrets that have not run out. */
export function liveOld({ old_secrets }: Pick<EndpointRow, 'old_secrets'>, nowMs: number): OldSecret[] {
  return (JSON.parse(old_secrets) as OldSecret[]).filter(({ until }) => until > nowMs);
}

const seconds = (ms: number | null) => (ms === null ? null : Math.floor(ms / 1000));

export function showEndpoint(row: EndpointRow, nowMs: number): WebhookEndpoint {
  const untils = liveOld(row, nowMs).map(({ until }) => until);
  return {
    id: row.id,
    object: 'webhook_endpoint',
    url: row.url,
    events: JSON.parse(row.events) as WebhookEventFilter[],
    description: row.description,
    created_at: Math.floor(row.created_at / 1000),
    status: row.disabled_at === null ? 'enabled' : 'disabled',
    disabled_reason: row.disabled_reason,
    disabled_at: seconds(row.disabled_at),
    failing_since: seconds(row.failing_since),
    old_secret_expires_at: untils.length === 0 ? null : Math.floor(Math.max(...untils) / 1000),
  };
}
