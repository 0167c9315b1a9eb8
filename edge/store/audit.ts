import type { AuditEntry } from '../../shared/contract/audit.ts';
import { newId } from '../../shared/wire/ids.ts';
import { nowMs } from '../clock.ts';
import { page } from './sequence.ts';

/** Who makes a change. */
export type Actor = { tenant: string; keyId: string; requestId: string | null };

export type AuditRow = {
  seq: number;
  id: string;
  at: number;
  tenant: string;
  actor: string;
  action: string;
  object: string;
  data: string;
  request_id: string | null;
  previous: string | null;
  hash: string | null;
};

/** Guard of an entry that stands in a batch right behind the statement which it tells of: only if that changed a row. */
export const IF_CHANGED = 'changes() > 0';

/**
 * The entry of one change, to be put into the same `db.batch` as the change: both happen or neither does.
 * @param entry.object id of the thing; `data` must hold no secret
 * @param entry.tenant whose thing it is, where that is not the actor's own
 * @param guard SQL without parameters: the entry is written only where it is true
 */
export function auditEntry(
  db: D1Database,
  actor: Actor,
  entry: { action: string; object: string; data?: Record<string, unknown>; tenant?: string },
  guard = 'TRUE',
): D1PreparedStatement {
  return db
    .prepare(
      `INSERT INTO audit_log (id, at, tenant, actor, action, object, data, request_id) SELECT ?, ?, ?, ?, ?, ?, ?, ? WHERE ${guard}`,
    )
    .bind(
      newId('audit_'),
      nowMs(),
      entry.tenant ?? actor.tenant,
      actor.keyId,
      entry.action,
      entry.object,
      JSON.stringify(entry.data ?? {}),
      actor.requestId,
    );
}

/** Newest first, of one tenant or (null) of all. */
export async function listAudit(
  db: D1Database,
  query: { limit: number; after: string | null; tenant: string | null; object: string | null; action: string | null },
) {
  const { results } = await db
    .prepare(
      `SELECT * FROM audit_log WHERE (?1 IS NULL OR seq < (SELECT seq FROM audit_log WHERE id = ?1))
         AND (?2 IS NULL OR tenant = ?2) AND (?3 IS NULL OR object = ?3) AND (?4 IS NULL OR action = ?4)
       ORDER BY seq DESC LIMIT ?5`,
    )
    .bind(query.after, query.tenant, query.object, query.action, query.limit + 1)
    .all<AuditRow>();
  return page(results, query.limit, showEntry);
}

/** Rows after `seq`, in order: for the chain. */
export async function auditRowsAfter(db: D1Database, seq: number, limit: number): Promise<AuditRow[]> {
  const { results } = await db
    .prepare('SELECT * FROM audit_log WHERE seq > ? ORDER BY seq LIMIT ?')
    .bind(seq, limit)
    .all<AuditRow>();
  return results;
}

/** Puts a row into the chain; a row that already has its place is left alone. */
export function sealRow(db: D1Database, seq: number, previous: string, hash: string): D1PreparedStatement {
  return db
    .prepare('UPDATE audit_log SET previous = ?, hash = ? WHERE seq = ? AND hash IS NULL')
    .bind(previous, hash, seq);
}

function showEntry(row: AuditRow): AuditEntry {
  return {
    id: row.id,
    object: 'audit_entry',
    seq: row.seq,
    created_at: Math.floor(row.at / 1000),
    tenant: row.tenant,
    actor: row.actor,
    action: row.action,
    target: row.object,
    data: JSON.parse(row.data) as Record<string, unknown>,
    request_id: row.request_id,
    hash: row.hash,
    previous: row.previous,
  };
}
