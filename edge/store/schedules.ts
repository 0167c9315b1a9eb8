import { LIMITS } from '../../shared/contract/limits.ts';
import type { Schedule } from '../../shared/contract/schedules.ts';
import { newId } from '../../shared/wire/ids.ts';
import { nextSlots, type Timing } from '../schedules/cron.ts';
import type { Plan } from '../schedules/plan.ts';
import { type Actor, auditEntry } from './audit.ts';
import { insertPlannedRun } from './scheduleRuns.ts';
import { nextSeq, page } from './sequence.ts';

export type ScheduleRow = {
  id: string;
  seq: number;
  tenant: string;
  name: string;
  status: Schedule['status'] | 'deleted';
  created_at: number;
  updated_at: number;
  cron: string | null;
  time_zone: string;
  at: number | null;
  job: string;
  condition: string | null;
  overlap: Schedule['overlap'];
  misfire: Schedule['misfire'];
  keep_models: number | null;
  alias: string | null;
  starts_from: Schedule['starts_from'];
  gate: string | null;
  metadata: string | null;
  decided_until: number;
  next_at: number | null;
  trained_digest: string | null;
  trained_examples: number | null;
  trained_at: number | null;
  retention_due: number;
  revision: string;
};

/** What a client decides. JSON where the row has JSON. */
export type ScheduleContent = Pick<
  ScheduleRow,
  | 'name'
  | 'cron'
  | 'time_zone'
  | 'at'
  | 'job'
  | 'condition'
  | 'overlap'
  | 'misfire'
  | 'keep_models'
  | 'alias'
  | 'starts_from'
  | 'gate'
  | 'metadata'
>;

export function timingOf(row: Pick<ScheduleRow, 'cron' | 'time_zone' | 'at'>): Timing {
  return row.cron !== null ? { cron: row.cron, timeZone: row.time_zone } : { atMs: row.at ?? 0 };
}

/** @returns null where the tenant has as many as it may */
export async function insertSchedule(
  db: D1Database,
  actor: Actor,
  content: ScheduleContent,
  when: { nowMs: number; nextAtMs: number | null; id?: string },
): Promise<ScheduleRow | null> {
  const id = when.id ?? newId('sched_');
  const [made] = await db.batch<ScheduleRow>([
    db
      .prepare(
        `INSERT INTO schedules (id, seq, tenant, name, status, created_at, updated_at, cron, time_zone, at, job, condition, overlap, misfire, keep_models,
           alias, starts_from, gate, metadata, decided_until, next_at, revision)
         SELECT ?1, ${nextSeq('schedules')}, ?2, ?3, 'active', ?4, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?4, ?17, ?18
         WHERE (SELECT COUNT(*) FROM schedules WHERE tenant = ?2 AND status != 'deleted') < ?19 RETURNING *`,
      )
      .bind(
        id,
        actor.tenant,
        content.name,
        when.nowMs,
        content.cron,
        content.time_zone,
        content.at,
        content.job,
        content.condition,
        content.overlap,
        content.misfire,
        content.keep_models,
        content.alias,
        content.starts_from,
        content.gate,
        content.metadata,
        when.nextAtMs,
        crypto.randomUUID(),
        LIMITS.schedules.maxPerTenant,
      ),
    auditEntry(
      db,
      actor,
      { action: 'schedule.created', object: id, data: { name: content.name, cron: content.cron, at: content.at } },
      `EXISTS (SELECT 1 FROM schedules WHERE id = '${id}')`,
    ),
  ]);
  return made?.results[0] ?? null;
}

/**
 * Writes a change if the row is still the one that was read. `timing`: slots count anew, from `nowMs` on.
 * @returns null where it is not: read again
 */
export async function changeSchedule(
  db: D1Database,
  actor: Actor,
  was: ScheduleRow,
  change: {
    action: 'updated' | 'paused' | 'resumed' | 'deleted';
    content?: ScheduleContent;
    status: ScheduleRow['status'];
    timing?: { nextAtMs: number | null };
  },
  nowMs: number,
): Promise<ScheduleRow | null> {
  const content = change.content ?? was;
  const revision = crypto.randomUUID();
  const decidedUntil = change.timing === undefined ? was.decided_until : Math.max(was.decided_until, nowMs);
  const nextAt = change.timing === undefined ? was.next_at : change.timing.nextAtMs;
  const guard = `EXISTS (SELECT 1 FROM schedules WHERE id = '${was.id}' AND revision = '${revision}')`;
  const [written] = await db.batch<ScheduleRow>([
    db
      .prepare(
        `UPDATE schedules SET name = ?, status = ?, updated_at = ?, cron = ?, time_zone = ?, at = ?, job = ?, condition = ?, overlap = ?, misfire = ?,
           keep_models = ?, alias = ?, starts_from = ?, gate = ?, metadata = ?, decided_until = ?, next_at = ?, revision = ?
         WHERE id = ? AND revision = ? RETURNING *`,
      )
      .bind(
        content.name,
        change.status,
        nowMs,
        content.cron,
        content.time_zone,
        content.at,
        content.job,
        content.condition,
        content.overlap,
        content.misfire,
        content.keep_models,
        content.alias,
        content.starts_from,
        content.gate,
        content.metadata,
        decidedUntil,
        nextAt,
        revision,
        was.id,
        was.revision,
      ),
    auditEntry(db, actor, { action: `schedule.${change.action}`, object: was.id, data: { name: content.name } }, guard),
    ...(change.action === 'deleted'
      ? [
          db
            .prepare(
              `UPDATE schedule_runs SET status = 'skipped', skip_reason = 'deleted', finished_at = ?1, revision = ?2
               WHERE schedule_id = ?3 AND status = 'pending' AND ${guard}`,
            )
            .bind(nowMs, revision, was.id),
          db.prepare(`UPDATE schedules SET retention_due = 1 WHERE id = ? AND ${guard}`).bind(was.id),
        ]
      : []),
  ]);
  return written?.results[0] ?? null;
}

/**
 * Writes a plan: the runs and how far slots are decided, together, if the row is still the one that was planned for.
 * @returns whether it was
 */
export async function writePlan(db: D1Database, row: ScheduleRow, plan: Plan, nowMs: number): Promise<boolean> {
  const revision = crypto.randomUUID();
  const guard = `EXISTS (SELECT 1 FROM schedules WHERE id = '${row.id}' AND revision = '${revision}')`;
  const [written] = await db.batch([
    db
      .prepare(
        `UPDATE schedules SET decided_until = ?1, next_at = ?2, status = CASE WHEN ?2 IS NULL THEN 'ended' ELSE status END,
           retention_due = 1, revision = ?3
         WHERE id = ?4 AND revision = ?5`,
      )
      .bind(plan.decidedUntilMs, plan.nextAtMs, revision, row.id, row.revision),
    ...plan.runs.flatMap((run) => insertPlannedRun(db, row, run, guard, nowMs)),
  ]);
  return (written?.meta.changes ?? 0) > 0;
}

export function getSchedule(db: D1Database, tenant: string, id: string): Promise<ScheduleRow | null> {
  return db
    .prepare(`SELECT * FROM schedules WHERE id = ? AND tenant = ? AND status != 'deleted'`)
    .bind(id, tenant)
    .first<ScheduleRow>();
}

/** A schedule that promotes to an alias, or null. */
export function scheduleOfAlias(db: D1Database, tenant: string, alias: string): Promise<{ id: string } | null> {
  return db
    .prepare(`SELECT id FROM schedules WHERE tenant = ? AND alias = ? AND status IN ('active', 'paused') LIMIT 1`)
    .bind(tenant, alias)
    .first<{ id: string }>();
}

/** Whoever's it is, deleted ones too: for the scheduler only. */
export function findSchedule(db: D1Database, id: string): Promise<ScheduleRow | null> {
  return db.prepare('SELECT * FROM schedules WHERE id = ?').bind(id).first<ScheduleRow>();
}

export async function listSchedules(
  db: D1Database,
  tenant: string,
  query: { limit: number; after: string | null },
  nowMs: number,
) {
  const { results } = await db
    .prepare(
      `SELECT * FROM schedules WHERE tenant = ?3 AND status != 'deleted'
         AND (?1 IS NULL OR seq < (SELECT seq FROM schedules WHERE id = ?1 AND tenant = ?3))
       ORDER BY seq DESC LIMIT ?2`,
    )
    .bind(query.after, query.limit + 1, tenant)
    .all<ScheduleRow>();
  return page(results, query.limit, (row) => showSchedule(row, nowMs));
}

/** Schedules with a slot that has come, of tenants that may act. */
export async function dueSchedules(db: D1Database, nowMs: number, limit: number): Promise<ScheduleRow[]> {
  const { results } = await db
    .prepare(
      `SELECT * FROM schedules WHERE next_at IS NOT NULL AND next_at <= ? AND status = 'active'
         AND tenant IN (SELECT id FROM tenants WHERE disabled_at IS NULL)
       ORDER BY next_at LIMIT ?`,
    )
    .bind(nowMs, limit)
    .all<ScheduleRow>();
  return results;
}

/** How much there is to do, by kind; `open`: runs that have not ended. `nextAtMs`: when the next slot comes. */
export type OpenWork = {
  due: number;
  waiting: number;
  trained: number;
  compared: number;
  retention: number;
  open: number;
  nextAtMs: number | null;
};

/** One question where mostly nothing is to be done. */
export async function openWork(db: D1Database, nowMs: number): Promise<OpenWork> {
  const row = await db
    .prepare(
      `SELECT
         (SELECT COUNT(*) FROM schedules WHERE next_at IS NOT NULL AND next_at <= ?1 AND status = 'active') AS due,
         (SELECT MIN(next_at) FROM schedules WHERE next_at IS NOT NULL AND status = 'active') AS nextAtMs,
         (SELECT COUNT(*) FROM schedules WHERE retention_due = 1) AS retention,
         (SELECT COUNT(*) FROM schedule_runs WHERE status = 'pending' AND not_before <= ?1) AS waiting,
         (SELECT COUNT(*) FROM schedule_runs r LEFT JOIN jobs j ON j.id = r.job_id
            WHERE r.status = 'running' AND (j.id IS NULL OR j.status IN ('succeeded', 'failed', 'cancelled'))) AS trained,
         (SELECT COUNT(*) FROM schedule_runs r LEFT JOIN tasks t ON t.id = r.task_id
            WHERE r.status = 'gating' AND (t.id IS NULL OR t.status IN ('succeeded', 'failed', 'cancelled'))) AS compared,
         (SELECT COUNT(*) FROM schedule_runs WHERE status IN ('pending', 'running', 'gating')) AS open`,
    )
    .bind(nowMs)
    .first<OpenWork>();
  if (row === null) throw new Error('a SELECT without FROM gave no row');
  return row;
}

const seconds = (ms: number | null) => (ms === null ? null : Math.floor(ms / 1000));
const parsed = <T>(json: string | null): T | null => (json === null ? null : (JSON.parse(json) as T));

const SHOWN_NEXT = 5;

/** @param nowMs slots before it are over */
export function showSchedule(row: ScheduleRow, nowMs: number): Schedule {
  const after = Math.max(row.decided_until, nowMs);
  return {
    id: row.id,
    object: 'schedule',
    name: row.name,
    status: row.status === 'deleted' ? 'ended' : row.status,
    created_at: Math.floor(row.created_at / 1000),
    updated_at: Math.floor(row.updated_at / 1000),
    cron: row.cron,
    time_zone: row.time_zone,
    at: seconds(row.at),
    job: JSON.parse(row.job) as Schedule['job'],
    condition: parsed(row.condition),
    overlap: row.overlap,
    misfire: row.misfire,
    keep_models: row.keep_models,
    alias: row.alias,
    starts_from: row.starts_from,
    gate: parsed(row.gate),
    next_runs:
      row.status === 'active' ? nextSlots(timingOf(row), after, SHOWN_NEXT).map((at) => Math.floor(at / 1000)) : [],
    last_trained:
      row.trained_at === null
        ? null
        : {
            digest: row.trained_digest,
            examples: row.trained_examples,
            at: Math.floor(row.trained_at / 1000),
          },
    metadata: parsed(row.metadata),
  };
}
