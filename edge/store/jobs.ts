import type { DataSpec } from '../../shared/contract/backend.ts';
import type { FineTuningJob, Hyperparameters, JobError, JobStatus } from '../../shared/contract/jobs.ts';
import type { TrainStage } from '../../shared/contract/models.ts';
import type { MantisOptions, Stage, StageDraft } from '../../shared/contract/training.ts';
import type { WebhookEventType } from '../../shared/contract/webhooks.ts';
import { newId } from '../../shared/wire/ids.ts';
import { nowMs } from '../clock.ts';
import { type JobAct, type JobState, type Outcome, TERMINAL, transition } from '../jobs/state.ts';
import { type Actor, auditEntry } from './audit.ts';
import { insertEvent } from './events.ts';
import { nextSeq, page } from './sequence.ts';
import { insertDeliveries } from './webhooks.ts';

export type JobRow = {
  id: string;
  tenant: string;
  seq: number;
  created_at: number;
  finished_at: number | null;
  status: JobStatus;
  model: string;
  base_model: string;
  suffix: string | null;
  seed: number;
  hyperparameters: string;
  mantis: string;
  metadata: string | null;
  training_file: string;
  validation_file: string | null;
  training_examples: number;
  trained_tokens: number | null;
  fine_tuned_model: string | null;
  result_files: string;
  error: string | null;
  lease_token: number;
  lease_backend: string | null;
  lease_expires_at: number | null;
  fruitless_claims: number;
  not_before: number;
  revision: string;
  training: string;
  validation: string | null;
  stages: string;
  left_out: string;
  examples: string;
  validation_task: string | null;
  validated: number;
  schedule_id: string | null;
  estimated_finish: number | null;
  /** `HeldOutData`; null where nothing is held out. */
  held_out: string | null;
};

/** What a job's checkpoints are asked, and what the gate of its schedule will ask, as it was when the job was made. */
export type HeldOutData = { evaluation: DataSpec | null; gate: { file: string; data: DataSpec } | null };

/** Options of a stored job: `stage` is what the job makes, by its last stage. */
export type StoredMantisOptions = MantisOptions & { stage: TrainStage };

export type NewJob = Pick<
  JobRow,
  | 'id'
  | 'tenant'
  | 'created_at'
  | 'model'
  | 'base_model'
  | 'suffix'
  | 'seed'
  | 'metadata'
  | 'training_file'
  | 'validation_file'
  | 'schedule_id'
> & {
  hyperparameters: Hyperparameters;
  mantis: StoredMantisOptions;
  training: DataSpec[];
  validation: DataSpec | null;
  held_out?: HeldOutData | null;
  stages: StageDraft[];
  validation_task: string;
  revision: string;
};

/** A new job, whose data a task validates. @param guard SQL: the row is written only where it is true */
export function insertJob(db: D1Database, job: NewJob, guard = 'TRUE'): D1PreparedStatement {
  return db
    .prepare(
      `INSERT INTO jobs (id, tenant, seq, created_at, status, model, base_model, suffix, seed, hyperparameters, mantis, metadata, training_file,
         validation_file, training_examples, training, validation, held_out, stages, validation_task, schedule_id, revision)
       SELECT ?, ?, ${nextSeq('jobs')}, ?, 'validating_files', ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ? WHERE ${guard}`,
    )
    .bind(
      job.id,
      job.tenant,
      job.created_at,
      job.model,
      job.base_model,
      job.suffix,
      job.seed,
      JSON.stringify(job.hyperparameters),
      JSON.stringify(job.mantis),
      job.metadata,
      job.training_file,
      job.validation_file,
      JSON.stringify(job.training),
      job.validation === null ? null : JSON.stringify(job.validation),
      job.held_out == null ? null : JSON.stringify(job.held_out),
      JSON.stringify(job.stages),
      job.validation_task,
      job.schedule_id,
      job.revision,
    );
}

export function getJob(db: D1Database, tenant: string, id: string): Promise<JobRow | null> {
  return db.prepare('SELECT * FROM jobs WHERE id = ? AND tenant = ?').bind(id, tenant).first<JobRow>();
}

/** Whoever's it is: for backends and the scheduler only. */
export function findJob(db: D1Database, id: string): Promise<JobRow | null> {
  return db.prepare('SELECT * FROM jobs WHERE id = ?').bind(id).first<JobRow>();
}

export async function listJobs(db: D1Database, tenant: string, query: { limit: number; after: string | null }) {
  const { results } = await db
    .prepare(
      `SELECT * FROM jobs WHERE tenant = ?3 AND (?1 IS NULL OR seq < (SELECT seq FROM jobs WHERE id = ?1 AND tenant = ?3))
       ORDER BY seq DESC LIMIT ?2`,
    )
    .bind(query.after, query.limit + 1, tenant)
    .all<JobRow>();
  return page(results, query.limit, showJob);
}

/** Jobs a backend with these base models could take, oldest first. */
export async function queuedJobs(
  db: D1Database,
  baseModels: readonly string[],
  nowMs: number,
  limit: number,
): Promise<JobRow[]> {
  const { results } = await db
    .prepare(
      `SELECT * FROM jobs WHERE status = 'queued' AND not_before <= ?2 AND base_model IN (SELECT value FROM json_each(?1)) ORDER BY seq LIMIT ?3`,
    )
    .bind(JSON.stringify(baseModels), nowMs, limit)
    .all<JobRow>();
  return results;
}

export async function expiredJobs(db: D1Database, nowMs: number): Promise<JobRow[]> {
  const { results } = await db
    .prepare(
      `SELECT * FROM jobs WHERE status IN ('running', 'pausing') AND lease_expires_at <= ? ORDER BY seq LIMIT 100`,
    )
    .bind(nowMs)
    .all<JobRow>();
  return results;
}

/** Whether anything waits for a sweep. */
export async function countRunning(db: D1Database): Promise<number> {
  const row = await db
    .prepare(
      `SELECT (SELECT COUNT(*) FROM jobs WHERE status IN ('validating_files', 'running', 'pausing'))
         + (SELECT COUNT(*) FROM tasks WHERE status = 'running') AS n`,
    )
    .first<{ n: number }>();
  return row?.n ?? 0;
}

/** What else is written in the same transaction, if the change happens. `guard` is true only then. */
export type Along = (guard: { sql: string; revision: string }) => D1PreparedStatement[];

export function setEstimatedFinish(db: D1Database, id: string, atMs: number, revision: string): D1PreparedStatement {
  return db.prepare('UPDATE jobs SET estimated_finish = ? WHERE id = ? AND revision = ?').bind(atMs, id, revision);
}

/** Jobs whose validation has ended and that have not heard of it. */
export async function jobsToAdvance(db: D1Database, limit: number): Promise<JobRow[]> {
  const { results } = await db
    .prepare(
      `SELECT jobs.* FROM jobs JOIN tasks ON tasks.id = jobs.validation_task
       WHERE jobs.status IN ('validating_files', 'paused') AND jobs.validated = 0 AND tasks.status IN ('succeeded', 'failed', 'cancelled')
       ORDER BY jobs.seq LIMIT ?`,
    )
    .bind(limit)
    .all<JobRow>();
  return results;
}

/** Columns that the end of validation sets. */
export type ValidatedColumns = {
  leftOut: string;
  examples: readonly number[];
  stages: readonly Stage[];
  hyperparameters: Hyperparameters;
};

/** Columns that only the end of a job sets. */
export type EndColumns = { trainedTokens: number | null; fineTunedModel: string | null; resultFiles: string[] };

/** Who acts, for the audit log; without one it is the system: a backend or the sweeper. */
export type JobActor = Pick<Actor, 'keyId' | 'requestId'>;

export type Applied = { outcome: Outcome; job: JobRow | null; row: JobRow };

const MAX_ROUNDS = 8;

/**
 * Applies an act to a job: reads, decides, writes if the row is still the one read, else begins again. The state, its event, the webhook outbox rows and
 * whatever comes `along` are one transaction.
 * @returns null where there is no such job. `job` is the row after a change.
 */
export async function applyToJob(
  db: D1Database,
  id: string,
  act: JobAct,
  nowMs: number,
  options: { along?: Along; end?: EndColumns; validated?: ValidatedColumns; actor?: JobActor } = {},
): Promise<Applied | null> {
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const row = await findJob(db, id);
    if (row === null) return null;
    const outcome = transition(stateOf(row), act, nowMs);
    if (outcome.kind !== 'change') return { outcome, job: null, row };
    const { next, note } = outcome;
    const revision = crypto.randomUUID();
    const ended = TERMINAL.has(next.status);
    const update = db
      .prepare(
        `UPDATE jobs SET status = ?, lease_token = ?, lease_backend = ?, lease_expires_at = ?, fruitless_claims = ?, not_before = ?, error = ?, revision = ?,
           finished_at = ?, trained_tokens = COALESCE(?, trained_tokens), fine_tuned_model = COALESCE(?, fine_tuned_model),
           result_files = COALESCE(?, result_files), validated = ?, left_out = COALESCE(?, left_out), examples = COALESCE(?, examples),
           training_examples = COALESCE(?, training_examples), stages = COALESCE(?, stages), hyperparameters = COALESCE(?, hyperparameters)
         WHERE id = ? AND revision = ? RETURNING *`,
      )
      .bind(
        next.status,
        next.leaseToken,
        next.leaseBackend,
        next.leaseExpiresAtMs,
        next.fruitlessClaims,
        next.notBeforeMs,
        next.error === null ? null : JSON.stringify(next.error),
        revision,
        ended ? nowMs : null,
        options.end?.trainedTokens ?? null,
        options.end?.fineTunedModel ?? null,
        options.end === undefined ? null : JSON.stringify(options.end.resultFiles),
        next.isValidated ? 1 : 0,
        options.validated?.leftOut ?? null,
        options.validated === undefined ? null : JSON.stringify(options.validated.examples),
        options.validated?.examples[0] ?? null,
        options.validated === undefined ? null : JSON.stringify(options.validated.stages),
        options.validated === undefined ? null : JSON.stringify(options.validated.hyperparameters),
        id,
        row.revision,
      );
    const statements = [update];
    const guard = {
      sql: `EXISTS (SELECT 1 FROM jobs WHERE id = '${id.replaceAll("'", "''")}' AND revision = '${revision}')`,
      revision,
    };
    if (ended || next.status === 'paused')
      statements.push(...insertDeliveries(db, statusEvent(row, next.status, nowMs), guard.sql, nowMs));
    if (next.status !== row.status) {
      const { keyId, requestId } = options.actor ?? { keyId: 'system', requestId: null };
      statements.push(
        auditEntry(
          db,
          { tenant: row.tenant, keyId, requestId },
          { action: `fine_tuning.job.${next.status}`, object: id, data: { was: row.status, by: act.type } },
          guard.sql,
        ),
      );
    }
    statements.push(...(options.along?.(guard) ?? []));
    // Last: who reads up to the word of the end has read why.
    if (note !== '') {
      const level = next.status === 'failed' ? 'error' : act.type === 'sweep' ? 'warn' : 'info';
      statements.push(
        insertEvent(
          db,
          { jobId: id, key: `edge-${revision}`, createdAtMs: nowMs, level, message: note, type: 'message', data: null },
          revision,
        ),
      );
    }
    const [updated] = await db.batch<JobRow>(statements);
    const job = updated?.results[0];
    if (job !== undefined) return { outcome, job, row };
  }
  throw new Error(`job ${id}: ${MAX_ROUNDS} others wrote first`);
}

function statusEvent(job: JobRow, status: JobStatus, nowMs: number) {
  return {
    id: newId('evt_'),
    tenant: job.tenant,
    type: `fine_tuning.job.${status}` as WebhookEventType,
    objectId: job.id,
    createdAtMs: nowMs,
  };
}

function stateOf(row: JobRow): JobState {
  return {
    status: row.status,
    isValidated: row.validated === 1,
    leaseToken: row.lease_token,
    leaseBackend: row.lease_backend,
    leaseExpiresAtMs: row.lease_expires_at,
    fruitlessClaims: row.fruitless_claims,
    notBeforeMs: row.not_before,
    error: row.error === null ? null : (JSON.parse(row.error) as JobError),
  };
}

const seconds = (ms: number | null) => (ms === null ? null : Math.floor(ms / 1000));

/** What is shown can be sent again: beside stages or a preset, `stage` is what we know of the job and not what was asked. */
function showOptions({ mantis }: JobRow): MantisOptions {
  const { stage, ...asked } = JSON.parse(mantis) as StoredMantisOptions;
  return asked.stages === undefined && asked.preset === undefined ? { ...asked, stage } : asked;
}

export function showJob(row: JobRow): FineTuningJob {
  const hyperparameters = JSON.parse(row.hyperparameters) as Hyperparameters;
  return {
    id: row.id,
    object: 'fine_tuning.job',
    created_at: Math.floor(row.created_at / 1000),
    finished_at: seconds(row.finished_at),
    model: row.model,
    fine_tuned_model: row.fine_tuned_model,
    organization_id: 'org-local',
    status: row.status,
    hyperparameters,
    method: { type: 'supervised', supervised: { hyperparameters, mantis: showOptions(row) } },
    training_file: row.training_file,
    validation_file: row.validation_file,
    result_files: JSON.parse(row.result_files) as string[],
    trained_tokens: row.trained_tokens,
    seed: row.seed,
    error: row.error === null ? null : (JSON.parse(row.error) as JobError),
    estimated_finish:
      row.status === 'running' && row.estimated_finish !== null
        ? seconds(Math.max(row.estimated_finish, nowMs()))
        : null,
    integrations: [],
    metadata: row.metadata === null ? null : (JSON.parse(row.metadata) as Record<string, string>),
    user_provided_suffix: row.suffix,
    validation: row.validation_task,
    schedule: row.schedule_id,
  };
}
