/** Runs of schedules. Each change is written only where the row is still the one that was read, with its event in the same transaction. */

import type { JobError, JobStatus } from '../../shared/contract/jobs.ts';
import type { GateDecision, RunStatus, ScheduleRun, SkipReason } from '../../shared/contract/schedules.ts';
import type { WebhookEventType } from '../../shared/contract/webhooks.ts';
import { newId } from '../../shared/wire/ids.ts';
import type { PlannedRun } from '../schedules/plan.ts';
import { type Actor, auditEntry } from './audit.ts';
import type { ScheduleRow } from './schedules.ts';
import { nextSeq, page } from './sequence.ts';
import { insertDeliveries } from './webhooks.ts';

export type RunRow = {
  id: string;
  seq: number;
  schedule_id: string;
  tenant: string;
  cause: ScheduleRun['trigger'];
  slot_at: number;
  status: RunStatus;
  created_at: number;
  started_at: number | null;
  finished_at: number | null;
  exclusive: number;
  not_before: number;
  tries: number;
  skip_reason: SkipReason | null;
  note: string | null;
  missed: number;
  missed_from: number | null;
  data_digest: string | null;
  examples: number | null;
  new_examples: number | null;
  job_id: string | null;
  model: string | null;
  compared_with: string | null;
  alias_version: number | null;
  task_id: string | null;
  decision: string | null;
  error: string | null;
  /** Ids of files, a JSON list. */
  result_files: string;
  revision: string;
};

type Owner = Pick<ScheduleRow, 'id' | 'tenant' | 'overlap'>;

/** A slot's row, and what receivers hear of it where it is skipped. @param guard SQL that is true only if the plan was written */
export function insertPlannedRun(
  db: D1Database,
  schedule: Owner,
  run: PlannedRun,
  guard: string,
  nowMs: number,
): D1PreparedStatement[] {
  const id = newId('schedrun_');
  const isSkipped = run.skip !== null;
  return [
    insertRun(db, schedule, { ...run, id, cause: 'slot' }, guard, nowMs),
    ...(isSkipped
      ? runEvent(db, { id, tenant: schedule.tenant, schedule_id: schedule.id }, 'schedule.run.skipped', guard, nowMs)
      : []),
  ];
}

/** A run that somebody asked for. @returns null where others of its schedule have not ended and it may not wait */
export async function insertManualRun(
  db: D1Database,
  actor: Actor,
  schedule: Owner,
  nowMs: number,
): Promise<RunRow | null> {
  const id = newId('schedrun_');
  const most = schedule.overlap === 'allow' ? null : schedule.overlap === 'queue' ? 2 : 1;
  const fits =
    most === null
      ? 'TRUE'
      : `(SELECT COUNT(*) FROM schedule_runs WHERE ${OPEN} AND schedule_id = '${schedule.id}') < ${most}`;
  const exists = `EXISTS (SELECT 1 FROM schedule_runs WHERE id = '${id}')`;
  await db.batch([
    insertRun(
      db,
      schedule,
      { id, cause: 'manual', slotMs: nowMs, skip: null, missed: 0, missedFromMs: null },
      fits,
      nowMs,
    ),
    auditEntry(db, actor, { action: 'schedule.run_requested', object: schedule.id, data: { run: id } }, exists),
  ]);
  return findRun(db, id);
}

const OPEN = `status IN ('pending', 'running', 'gating')`;

function insertRun(
  db: D1Database,
  schedule: Owner,
  run: PlannedRun & { id: string; cause: RunRow['cause'] },
  guard: string,
  nowMs: number,
): D1PreparedStatement {
  const isSkipped = run.skip !== null;
  return db
    .prepare(
      `INSERT INTO schedule_runs (id, seq, schedule_id, tenant, cause, slot_at, status, created_at, finished_at, exclusive, not_before, skip_reason, missed,
         missed_from, revision)
       SELECT ?, ${nextSeq('schedule_runs')}, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ? WHERE ${guard}`,
    )
    .bind(
      run.id,
      schedule.id,
      schedule.tenant,
      run.cause,
      run.slotMs,
      isSkipped ? 'skipped' : 'pending',
      nowMs,
      isSkipped ? nowMs : null,
      schedule.overlap === 'allow' ? 0 : 1,
      run.skip,
      run.missed,
      run.missedFromMs,
      crypto.randomUUID(),
    );
}

/** Tells the tenant's receivers of a run. */
export function runEvent(
  db: D1Database,
  run: Pick<RunRow, 'id' | 'tenant' | 'schedule_id'> & { job_id?: string | null },
  type: Extract<WebhookEventType, `schedule.${string}`>,
  guard: string,
  nowMs: number,
): D1PreparedStatement[] {
  const data = { schedule: run.schedule_id, ...(run.job_id == null ? {} : { fine_tuning_job: run.job_id }) };
  const event = { id: newId('evt_'), tenant: run.tenant, type, objectId: run.id, createdAtMs: nowMs, data };
  return insertDeliveries(db, event, guard, nowMs);
}

export function findRun(db: D1Database, id: string): Promise<RunRow | null> {
  return db.prepare('SELECT * FROM schedule_runs WHERE id = ?').bind(id).first<RunRow>();
}

export function findScheduleRun(db: D1Database, scheduleId: string, id: string): Promise<RunRow | null> {
  return db
    .prepare('SELECT * FROM schedule_runs WHERE id = ? AND schedule_id = ?')
    .bind(id, scheduleId)
    .first<RunRow>();
}

export async function listRuns(db: D1Database, scheduleId: string, query: { limit: number; after: string | null }) {
  const { results } = await db
    .prepare(
      `SELECT * FROM schedule_runs
       WHERE schedule_id = ?3 AND (?1 IS NULL OR seq < (SELECT seq FROM schedule_runs WHERE id = ?1 AND schedule_id = ?3))
       ORDER BY seq DESC LIMIT ?2`,
    )
    .bind(query.after, query.limit + 1, scheduleId)
    .all<RunRow>();
  return page(results, query.limit, showRun);
}

/** Runs of a schedule that have not ended, the waiting ones included. */
export async function countOpenRuns(db: D1Database, scheduleId: string): Promise<number> {
  const row = await db
    .prepare(`SELECT COUNT(*) AS n FROM schedule_runs WHERE ${OPEN} AND schedule_id = ?`)
    .bind(scheduleId)
    .first<{ n: number }>();
  return row?.n ?? 0;
}

/** Runs whose turn it is: the oldest waiting one of a schedule that has none under way, or all of one that may overlap. */
export async function startableRuns(db: D1Database, nowMs: number, limit: number): Promise<RunRow[]> {
  const { results } = await db
    .prepare(
      `SELECT * FROM schedule_runs r WHERE status = 'pending' AND not_before <= ?1
         AND tenant IN (SELECT id FROM tenants WHERE disabled_at IS NULL)
         AND (exclusive = 0 OR NOT EXISTS (
           SELECT 1 FROM schedule_runs o WHERE o.schedule_id = r.schedule_id AND o.id != r.id AND o.exclusive = 1
             AND (o.status IN ('running', 'gating') OR (o.status = 'pending' AND o.seq < r.seq))))
       ORDER BY seq LIMIT ?2`,
    )
    .bind(nowMs, limit)
    .all<RunRow>();
  return results;
}

/** Runs whose job has ended. */
export type TrainedRun = RunRow & {
  job_status: JobStatus | null;
  job_model: string | null;
  job_error: string | null;
};

export async function trainedRuns(db: D1Database, limit: number): Promise<TrainedRun[]> {
  const { results } = await db
    .prepare(
      `SELECT r.*, j.status AS job_status, j.fine_tuned_model AS job_model, j.error AS job_error
       FROM schedule_runs r LEFT JOIN jobs j ON j.id = r.job_id
       WHERE r.status = 'running' AND (j.id IS NULL OR j.status IN ('succeeded', 'failed', 'cancelled')) ORDER BY r.seq LIMIT ?`,
    )
    .bind(limit)
    .all<TrainedRun>();
  return results;
}

/** Runs whose comparison has ended. */
export type ComparedRun = RunRow & { task_status: string | null; result_key: string | null; task_error: string | null };

export async function comparedRuns(db: D1Database, limit: number): Promise<ComparedRun[]> {
  const { results } = await db
    .prepare(
      `SELECT r.*, t.status AS task_status, t.result_key, t.error AS task_error
       FROM schedule_runs r LEFT JOIN tasks t ON t.id = r.task_id
       WHERE r.status = 'gating' AND (t.id IS NULL OR t.status IN ('succeeded', 'failed', 'cancelled')) ORDER BY r.seq LIMIT ?`,
    )
    .bind(limit)
    .all<ComparedRun>();
  return results;
}

/** Columns that a change may set; what is left out stays. */
export type RunChange = Partial<
  Pick<
    RunRow,
    | 'status'
    | 'started_at'
    | 'finished_at'
    | 'not_before'
    | 'tries'
    | 'skip_reason'
    | 'note'
    | 'data_digest'
    | 'examples'
    | 'new_examples'
    | 'job_id'
    | 'model'
    | 'compared_with'
    | 'alias_version'
    | 'task_id'
    | 'decision'
    | 'error'
    | 'result_files'
  >
>;

/**
 * A change of a run as a statement, and the guard that is true only where it was made. What belongs to the change stands in the same batch with that
 * guard; begins the batch.
 * @param onlyIf SQL that must be true besides
 */
export function changeRun(
  db: D1Database,
  was: Pick<RunRow, 'id' | 'revision'>,
  change: RunChange,
  onlyIf = 'TRUE',
): { statement: D1PreparedStatement; guard: string } {
  const revision = crypto.randomUUID();
  const columns = Object.entries({ ...change, revision });
  const statement = db
    .prepare(
      `UPDATE schedule_runs SET ${columns.map(([name]) => `${name} = ?`).join(', ')} WHERE id = ? AND revision = ? AND (${onlyIf})`,
    )
    .bind(...columns.map(([, value]) => value ?? null), was.id, was.revision);
  return {
    statement,
    guard: `EXISTS (SELECT 1 FROM schedule_runs WHERE id = '${was.id}' AND revision = '${revision}')`,
  };
}

const seconds = (ms: number | null) => (ms === null ? null : Math.floor(ms / 1000));
const parsed = <T>(json: string | null): T | null => (json === null ? null : (JSON.parse(json) as T));

export function showRun(row: RunRow): ScheduleRun {
  return {
    id: row.id,
    object: 'schedule.run',
    schedule: row.schedule_id,
    trigger: row.cause,
    slot: Math.floor(row.slot_at / 1000),
    status: row.status,
    created_at: Math.floor(row.created_at / 1000),
    started_at: seconds(row.started_at),
    finished_at: seconds(row.finished_at),
    skip_reason: row.skip_reason,
    note: row.note,
    missed: row.missed,
    missed_from: seconds(row.missed_from),
    data_digest: row.data_digest,
    examples: row.examples,
    new_examples: row.new_examples,
    fine_tuning_job: row.job_id,
    fine_tuned_model: row.model,
    gate: parsed<GateDecision>(row.decision),
    result_files: JSON.parse(row.result_files) as string[],
    error: parsed<JobError>(row.error),
  };
}
