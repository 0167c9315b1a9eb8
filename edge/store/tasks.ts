/** Tasks: shorter work for backends than jobs, leased in the same way. Truth is the row; wake-ups may be lost. */
import type { TaskSpec } from '../../shared/contract/backend.ts';
import type { JobError } from '../../shared/contract/jobs.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { newId } from '../../shared/wire/ids.ts';
import { nowMs } from '../clock.ts';
import { type JobAct, type JobState, type Outcome, TERMINAL, transition } from '../jobs/state.ts';
import { runEvent } from './evalEvents.ts';
import { nextSeq, page } from './sequence.ts';
import { insertDeliveries } from './webhooks.ts';

export type TaskStatus = 'queued' | 'running' | 'succeeded' | 'failed' | 'cancelled';

export const TASK_ENDED: ReadonlySet<TaskStatus> = new Set(['succeeded', 'failed', 'cancelled']);

export type TaskRow = {
  /** `dsval_…` of a validation, `cmp_…` of a comparison, `evalrun_…` of a run of an evaluation. */
  id: string;
  tenant: string;
  seq: number;
  kind: TaskSpec['kind'];
  subject: string | null;
  base_model: string;
  request: string;
  spec: string;
  input_digest: string | null;
  created_at: number;
  finished_at: number | null;
  status: TaskStatus;
  result_key: string | null;
  error: string | null;
  lease_token: number;
  lease_backend: string | null;
  lease_expires_at: number | null;
  fruitless_claims: number;
  not_before: number;
  revision: string;
  progress: string | null;
  /** Of the newest grant, Unix ms; 0 before the first. */
  claimed_at: number;
};

export type NewTask = {
  id: string;
  tenant: string;
  /** The job or schedule run that waits for it; null: nobody but who asked. */
  subject: string | null;
  spec: TaskSpec;
  /** What the client asked for, as the object shows it. */
  request: Record<string, unknown>;
  inputDigest?: string | null;
  /** Files that it reads, which are kept until it has ended. */
  fileIds: readonly string[];
  /** A task that has found the same already: this one begins as succeeded, with its result. */
  equal?: TaskRow | null;
};

/** @param guard SQL that is true only if the change was made which the task belongs to */
export function insertTask(db: D1Database, task: NewTask, guard = 'TRUE'): D1PreparedStatement[] {
  return [
    db
      .prepare(
        `INSERT INTO tasks (id, tenant, seq, kind, subject, base_model, request, spec, input_digest, created_at, status, result_key, finished_at, revision)
         SELECT ?, ?, ${nextSeq('tasks')}, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? WHERE ${guard}`,
      )
      .bind(
        task.id,
        task.tenant,
        task.spec.kind,
        task.subject,
        task.spec.baseModel,
        JSON.stringify(task.request),
        JSON.stringify(task.spec),
        task.inputDigest ?? null,
        nowMs(),
        task.equal == null ? 'queued' : 'succeeded',
        task.equal?.result_key ?? null,
        task.equal == null ? null : nowMs(),
        crypto.randomUUID(),
      ),
    holdFiles(db, task.id, task.fileIds, guard),
  ];
}

/** Keeps files from being deleted until the work has ended. */
export function holdFiles(
  db: D1Database,
  workId: string,
  fileIds: readonly string[],
  guard = 'TRUE',
): D1PreparedStatement {
  return db
    .prepare(`INSERT OR IGNORE INTO work_files (work_id, file_id) SELECT ?1, value FROM json_each(?2) WHERE ${guard}`)
    .bind(workId, JSON.stringify(fileIds));
}

/** Whoever's it is: for backends and the sweeper only. */
export function findTask(db: D1Database, id: string): Promise<TaskRow | null> {
  return db.prepare('SELECT * FROM tasks WHERE id = ?').bind(id).first<TaskRow>();
}

export function getTask(db: D1Database, tenant: string, kind: TaskRow['kind'], id: string): Promise<TaskRow | null> {
  return db
    .prepare('SELECT * FROM tasks WHERE id = ? AND tenant = ? AND kind = ?')
    .bind(id, tenant, kind)
    .first<TaskRow>();
}

/**
 * Evaluations take turns: first of the tenants with the fewest running, then of the one that was served longest ago, then the run that was. Everything else goes
 * by age. Running ones are few and found by their status (`+` keeps SQLite to that index): a tenant's ended runs are many.
 */
const TURN = `CASE kind WHEN 'evaluate' THEN (SELECT COUNT(*) FROM tasks AS other
    WHERE other.status = 'running' AND +other.tenant = tasks.tenant AND +other.kind = 'evaluate') ELSE 0 END,
  CASE kind WHEN 'evaluate' THEN (SELECT COALESCE(MAX(other.claimed_at), 0) FROM tasks AS other
    WHERE other.tenant = tasks.tenant AND other.kind = 'evaluate') ELSE 0 END,
  CASE kind WHEN 'evaluate' THEN claimed_at ELSE 0 END, seq`;

/** Tasks that a backend with these base models could take, in the order in which they should be. */
export async function queuedTasks(
  db: D1Database,
  baseModels: readonly string[],
  atMs: number,
  limit: number,
  kinds: readonly TaskRow['kind'][] | null = null,
): Promise<TaskRow[]> {
  const { results } = await db
    .prepare(
      `SELECT * FROM tasks WHERE status = 'queued' AND not_before <= ?2 AND base_model IN (SELECT value FROM json_each(?1))
         AND (?4 IS NULL OR kind IN (SELECT value FROM json_each(?4))) ORDER BY ${TURN} LIMIT ?3`,
    )
    .bind(JSON.stringify(baseModels), atMs, limit, kinds === null ? null : JSON.stringify(kinds))
    .all<TaskRow>();
  return results;
}

export async function expiredTasks(db: D1Database, atMs: number): Promise<TaskRow[]> {
  const { results } = await db
    .prepare(`SELECT * FROM tasks WHERE status = 'running' AND lease_expires_at <= ? ORDER BY seq LIMIT 100`)
    .bind(atMs)
    .all<TaskRow>();
  return results;
}

/** Tasks of a kind, newest first. */
export async function listTasks<Item extends { id: string }>(
  db: D1Database,
  tenant: string,
  kind: TaskRow['kind'],
  query: { limit: number; after: string | null },
  show: (row: TaskRow) => Item,
) {
  const { results } = await db
    .prepare(
      `SELECT * FROM tasks WHERE tenant = ?3 AND kind = ?4
         AND (?1 IS NULL OR seq < (SELECT seq FROM tasks WHERE id = ?1 AND tenant = ?3)) ORDER BY seq DESC LIMIT ?2`,
    )
    .bind(query.after, query.limit + 1, tenant, kind)
    .all<TaskRow>();
  return page(results, query.limit, show);
}

/** SQL that is true while a tenant has fewer than so many unfinished tasks of a kind that nobody but a client waits for. */
export function hasRoomFor(tenant: string, kind: TaskRow['kind'], most: number): string {
  return `(SELECT COUNT(*) FROM tasks WHERE tenant = '${tenant.replaceAll("'", "''")}' AND kind = '${kind}' AND subject IS NULL AND finished_at IS NULL) < ${most}`;
}

/** A finished task, newest first, whose inputs were equal; null where there is none that was made after `sinceMs`. */
export function equalTask(
  db: D1Database,
  tenant: string,
  inputDigest: string,
  sinceMs: number,
): Promise<TaskRow | null> {
  return db
    .prepare(
      `SELECT * FROM tasks WHERE input_digest = ? AND tenant = ? AND created_at >= ? AND status = 'succeeded' ORDER BY seq DESC LIMIT 1`,
    )
    .bind(inputDigest, tenant, sinceMs)
    .first<TaskRow>();
}

/** Writes down how far a task is, for whoever holds its lease. Changes nothing that decides, so that it takes no part in compare and swap. */
export async function noteProgress(db: D1Database, id: string, token: number, progress: unknown): Promise<boolean> {
  const { meta } = await db
    .prepare(`UPDATE tasks SET progress = ? WHERE id = ? AND lease_token = ? AND status = 'running'`)
    .bind(JSON.stringify(progress), id, token)
    .run();
  return meta.changes > 0;
}

export type AppliedTask = { outcome: Outcome; task: TaskRow | null; row: TaskRow };

const MAX_ROUNDS = 8;

/**
 * Applies an act to a task: reads, decides, writes if the row is still the one read, else begins again.
 * @param options.resultKey object that holds the result of a success
 * @param options.along what else is written in the same transaction; `guard` is true only if the change happened
 * @returns null where there is no such task. `task` is the row after a change.
 */
export async function applyToTask(
  db: D1Database,
  id: string,
  act: JobAct,
  atMs: number,
  options: { resultKey?: string; along?: (next: TaskStatus, guard: string) => D1PreparedStatement[] } = {},
): Promise<AppliedTask | null> {
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const row = await findTask(db, id);
    if (row === null) return null;
    const outcome = transition(stateOf(row), act, atMs);
    if (outcome.kind !== 'change') return { outcome, task: null, row };
    const { next } = outcome;
    const status = next.status as TaskStatus;
    const revision = crypto.randomUUID();
    const update = db
      .prepare(
        `UPDATE tasks SET status = ?, lease_token = ?, lease_backend = ?, lease_expires_at = ?, fruitless_claims = ?, not_before = ?, error = ?,
           finished_at = ?, result_key = COALESCE(?, result_key), claimed_at = COALESCE(?, claimed_at), revision = ? WHERE id = ? AND revision = ? RETURNING *`,
      )
      .bind(
        status,
        next.leaseToken,
        next.leaseBackend,
        next.leaseExpiresAtMs,
        next.fruitlessClaims,
        next.notBeforeMs,
        next.error === null ? null : JSON.stringify(next.error),
        TERMINAL.has(status) ? atMs : null,
        options.resultKey ?? null,
        act.type === 'claim' ? atMs : null,
        revision,
        id,
        row.revision,
      );
    const guard = `EXISTS (SELECT 1 FROM tasks WHERE id = '${id.replaceAll("'", "''")}' AND revision = '${revision}')`;
    const [updated] = await db.batch<TaskRow>([
      update,
      ...(TERMINAL.has(status) && row.kind === 'validate' ? validatedEvent(db, row, guard, atMs) : []),
      ...(TERMINAL.has(status) && row.kind === 'evaluate' ? runEvent(db, row, status, guard, atMs) : []),
      ...(options.along?.(status, guard) ?? []),
    ]);
    const task = updated?.results[0];
    if (task !== undefined) return { outcome, task, row };
  }
  throw new Error(`task ${id}: ${MAX_ROUNDS} others wrote first`);
}

/** Whatever the verdict, and also where there is none: who waits for it must hear of it. */
function validatedEvent(db: D1Database, row: TaskRow, guard: string, atMs: number): D1PreparedStatement[] {
  const event = {
    id: newId('evt_'),
    tenant: row.tenant,
    type: 'dataset.validated' as const,
    objectId: row.id,
    createdAtMs: atMs,
    data: row.subject === null ? {} : { fine_tuning_job: row.subject },
  };
  return insertDeliveries(db, event, guard, atMs);
}

function stateOf(row: TaskRow): JobState {
  return {
    status: row.status,
    isValidated: true,
    leaseToken: row.lease_token,
    leaseBackend: row.lease_backend,
    leaseExpiresAtMs: row.lease_expires_at,
    fruitlessClaims: row.fruitless_claims,
    notBeforeMs: row.not_before,
    error: row.error === null ? null : (JSON.parse(row.error) as JobError),
  };
}

/** Notes a result that is about to be stored as loose, unless it is the task's already: one that comes a second time must not be deleted for it. */
export function noteResult(db: D1Database, id: string, key: string): D1PreparedStatement {
  return db
    .prepare(
      `INSERT INTO loose_objects (key, due_at) SELECT ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE id = ?1 AND result_key = ?2)
       ON CONFLICT (key) DO UPDATE SET due_at = excluded.due_at`,
    )
    .bind(id, key, nowMs() + LIMITS.files.looseMs);
}

/** The result is the task's. @param guard SQL that is true only if the task says so in the same transaction */
export function keepResult(db: D1Database, key: string, guard: string): D1PreparedStatement {
  return db.prepare(`DELETE FROM loose_objects WHERE key = ? AND ${guard}`).bind(key);
}

/** Where a task's result lies. The token keeps a late worker from writing over its successor's. */
export function taskResultKey(id: string, token: number): string {
  return `tasks/${id}/${token}/result.json`;
}
