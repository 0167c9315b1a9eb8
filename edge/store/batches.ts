import type { Batch, BatchEndpoint, BatchError, BatchStatus } from '../../shared/contract/batches.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { WebhookEventType } from '../../shared/contract/webhooks.ts';
import { newId } from '../../shared/wire/ids.ts';
import { type Actor, auditEntry, IF_CHANGED } from './audit.ts';
import { nextSeq, page } from './sequence.ts';
import { insertDeliveries } from './webhooks.ts';

export type BatchRow = {
  id: string;
  seq: number;
  tenant: string;
  key_id: string;
  status: BatchStatus;
  endpoint: BatchEndpoint;
  input_file_id: string;
  model: string | null;
  metadata: string | null;
  expires_after_s: number | null;
  errors: string | null;
  output_file_id: string | null;
  error_file_id: string | null;
  total: number;
  completed: number;
  failed: number;
  created_at: number;
  in_progress_at: number | null;
  expires_at: number;
  finalizing_at: number | null;
  completed_at: number | null;
  failed_at: number | null;
  expired_at: number | null;
  cancelling_at: number | null;
  cancelled_at: number | null;
  revision: string;
};

/** States in which something is still to be done. */
const RUNNING = `('validating', 'in_progress', 'finalizing', 'cancelling')`;

/** Status → the event that tells of it. */
const EVENTS: Partial<Record<BatchStatus, WebhookEventType>> = {
  completed: 'batch.completed',
  failed: 'batch.failed',
  expired: 'batch.expired',
  cancelled: 'batch.cancelled',
};

/** @returns false where the tenant has too many batches that have not ended. */
export async function insertBatch(
  db: D1Database,
  actor: Actor,
  batch: Pick<
    BatchRow,
    'id' | 'endpoint' | 'input_file_id' | 'metadata' | 'expires_after_s' | 'created_at' | 'expires_at'
  >,
): Promise<boolean> {
  const [made] = await db.batch([
    db
      .prepare(
        `INSERT INTO batches (id, seq, tenant, key_id, status, endpoint, input_file_id, metadata, expires_after_s, created_at, expires_at, revision)
         SELECT ?1, ${nextSeq('batches')}, ?2, ?3, 'validating', ?4, ?5, ?6, ?7, ?8, ?9, ?10
         WHERE (SELECT COUNT(*) FROM batches WHERE tenant = ?2 AND status IN ${RUNNING}) < ?11`,
      )
      .bind(
        batch.id,
        actor.tenant,
        actor.keyId,
        batch.endpoint,
        batch.input_file_id,
        batch.metadata,
        batch.expires_after_s,
        batch.created_at,
        batch.expires_at,
        crypto.randomUUID(),
        LIMITS.batches.maxPending,
      ),
    auditEntry(
      db,
      actor,
      { action: 'batch.created', object: batch.id, data: { input_file_id: batch.input_file_id } },
      IF_CHANGED,
    ),
  ]);
  return (made?.meta.changes ?? 0) > 0;
}

export function getBatch(db: D1Database, tenant: string, id: string): Promise<BatchRow | null> {
  return db.prepare('SELECT * FROM batches WHERE id = ? AND tenant = ?').bind(id, tenant).first<BatchRow>();
}

/** Whoever's it is: for the runner only. */
export function findBatch(db: D1Database, id: string): Promise<BatchRow | null> {
  return db.prepare('SELECT * FROM batches WHERE id = ?').bind(id).first<BatchRow>();
}

export async function listBatches(db: D1Database, tenant: string, query: { limit: number; after: string | null }) {
  const { results } = await db
    .prepare(
      `SELECT * FROM batches
       WHERE tenant = ?3 AND (?1 IS NULL OR seq < (SELECT seq FROM batches WHERE id = ?1 AND tenant = ?3))
       ORDER BY seq DESC LIMIT ?2`,
    )
    .bind(query.after, query.limit + 1, tenant)
    .all<BatchRow>();
  return page(results, query.limit, showBatch);
}

/** Batches with something left to do, oldest first: whoever lost their alarm is woken by it. */
export async function runningBatches(db: D1Database): Promise<string[]> {
  const { results } = await db
    .prepare(`SELECT id FROM batches WHERE status IN ${RUNNING} ORDER BY seq LIMIT 1000`)
    .all<{ id: string }>();
  return results.map(({ id }) => id);
}

/** Columns that a change of status may set along with it. */
export type BatchChange = Partial<
  Pick<BatchRow, 'model' | 'errors' | 'output_file_id' | 'error_file_id' | 'total' | 'completed' | 'failed'>
>;

/**
 * Moves a batch on if it is in one of the states `from`, and writes the time of the change, the outbox rows of an end, and whatever comes `along` in the
 * same transaction.
 * @param along gets SQL that is true only where the change was made
 * @returns the row as it is now, or null where the batch was in another state
 */
export async function moveBatch(
  db: D1Database,
  id: string,
  from: readonly BatchStatus[],
  to: BatchStatus,
  nowMs: number,
  options: { change?: BatchChange; along?: (guard: string) => D1PreparedStatement[]; tenant: string },
): Promise<BatchRow | null> {
  const revision = crypto.randomUUID();
  const change = Object.entries(options.change ?? {});
  const columns = change.map(([name]) => `, ${name} = ?`).join('');
  const time = to === 'validating' ? '' : `, ${to}_at = ?`;
  const update = db
    .prepare(
      `UPDATE batches SET status = ?, revision = ?${time}${columns}
       WHERE id = ? AND status IN (SELECT value FROM json_each(?)) RETURNING *`,
    )
    .bind(to, revision, ...(time === '' ? [] : [nowMs]), ...change.map(([, value]) => value), id, JSON.stringify(from));
  const guard = `EXISTS (SELECT 1 FROM batches WHERE revision = '${revision}')`;
  const type = EVENTS[to];
  const event = { id: newId('evt_'), tenant: options.tenant, objectId: id, createdAtMs: nowMs };
  const results = await db.batch<BatchRow>([
    update,
    ...(type === undefined ? [] : insertDeliveries(db, { ...event, type }, guard, nowMs)),
    ...(options.along?.(guard) ?? []),
  ]);
  return results[0]?.results[0] ?? null;
}

/** Progress for people to look at; the ledger of the runner is what counts. */
export async function countBatch(
  db: D1Database,
  id: string,
  counts: { completed: number; failed: number },
): Promise<void> {
  await db
    .prepare(`UPDATE batches SET completed = ?, failed = ? WHERE id = ? AND status IN ${RUNNING}`)
    .bind(counts.completed, counts.failed, id)
    .run();
}

const seconds = (ms: number | null) => (ms === null ? null : Math.floor(ms / 1000));

export function showBatch(row: BatchRow): Batch {
  return {
    id: row.id,
    object: 'batch',
    endpoint: row.endpoint,
    model: row.model,
    errors: row.errors === null ? null : { object: 'list', data: JSON.parse(row.errors) as BatchError[] },
    input_file_id: row.input_file_id,
    completion_window: '24h',
    status: row.status,
    output_file_id: row.output_file_id,
    error_file_id: row.error_file_id,
    created_at: Math.floor(row.created_at / 1000),
    in_progress_at: seconds(row.in_progress_at),
    expires_at: seconds(row.expires_at),
    finalizing_at: seconds(row.finalizing_at),
    completed_at: seconds(row.completed_at),
    failed_at: seconds(row.failed_at),
    expired_at: seconds(row.expired_at),
    cancelling_at: seconds(row.cancelling_at),
    cancelled_at: seconds(row.cancelled_at),
    request_counts: { total: row.total, completed: row.completed, failed: row.failed },
    metadata: row.metadata === null ? null : (JSON.parse(row.metadata) as Record<string, string>),
  };
}
