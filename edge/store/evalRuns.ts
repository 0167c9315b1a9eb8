/** Runs of evaluations. How far one is, is the state of its task, which has the same id. */
import type { EvalDataSource, EvalRun, EvalRunStatus } from '../../shared/contract/evals.ts';
import type { JobError } from '../../shared/contract/jobs.ts';
import { type Actor, auditEntry, IF_CHANGED } from './audit.ts';
import { nextSeq, page } from './sequence.ts';
import type { TaskStatus } from './tasks.ts';

/** Sums over the items that are written. `criteria` in the order of the evaluation's. */
export type EvalSums = {
  passed: number;
  failed: number;
  errored: number;
  criteria: { name: string; passed: number; failed: number }[];
  models: Record<string, { calls: number; prompt: number; completion: number; cached: number }>;
};

export type EvalRunRow = {
  id: string;
  tenant: string;
  seq: number;
  eval_id: string;
  key_id: string;
  name: string;
  metadata: string | null;
  model: string;
  data_source: string;
  content_key: string | null;
  created_at: number;
  total: number;
  sums: string;
  report_json_key: string | null;
  report_html_key: string | null;
  /** Backends that were asked for a report that is owed (owedReports.ts). */
  report_tries: number;
  revision: string;
};

/** With what the task says. */
export type WholeRun = EvalRunRow & {
  status: TaskStatus;
  error: string | null;
  finished_at: number | null;
};

const WHOLE = `SELECT r.*, t.status AS status, t.error AS error, t.finished_at AS finished_at FROM eval_runs r JOIN tasks t ON t.id = r.id`;

const SHOWN: Readonly<Record<TaskStatus, EvalRunStatus>> = {
  queued: 'queued',
  running: 'in_progress',
  succeeded: 'completed',
  failed: 'failed',
  cancelled: 'canceled',
};

/** @param guard SQL that is true only if the run's task was made in the same transaction */
export function insertRun(
  db: D1Database,
  actor: Actor,
  run: Omit<
    EvalRunRow,
    'seq' | 'tenant' | 'key_id' | 'revision' | 'report_json_key' | 'report_html_key' | 'report_tries'
  >,
  guard: string,
): D1PreparedStatement[] {
  const isMade = `EXISTS (SELECT 1 FROM eval_runs WHERE id = '${run.id}')`;
  const data = { eval: run.eval_id, model: run.model };
  return [
    db
      .prepare(
        `INSERT INTO eval_runs (id, tenant, seq, eval_id, key_id, name, metadata, model, data_source, content_key, created_at, total, sums, revision)
         SELECT ?1, ?2, ${nextSeq('eval_runs')}, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13
         WHERE ${guard} AND EXISTS (SELECT 1 FROM evals WHERE id = ?3 AND tenant = ?2)`,
      )
      .bind(
        run.id,
        actor.tenant,
        run.eval_id,
        actor.keyId,
        run.name,
        run.metadata,
        run.model,
        run.data_source,
        run.content_key,
        run.created_at,
        run.total,
        run.sums,
        crypto.randomUUID(),
      ),
    auditEntry(db, actor, { action: 'eval_run.created', object: run.id, data }, isMade),
    db.prepare(`DELETE FROM loose_objects WHERE key = ? AND ${isMade}`).bind(run.content_key ?? ''),
  ];
}

export function getRun(db: D1Database, tenant: string, evalId: string, id: string): Promise<WholeRun | null> {
  return db
    .prepare(`${WHOLE} WHERE r.id = ? AND r.tenant = ? AND r.eval_id = ?`)
    .bind(id, tenant, evalId)
    .first<WholeRun>();
}

/** Whoever's it is: for backends and the sweeper. */
export function findRun(db: D1Database, id: string): Promise<WholeRun | null> {
  return db.prepare(`${WHOLE} WHERE r.id = ?`).bind(id).first<WholeRun>();
}

export async function listRuns<Shown extends { id: string }>(
  db: D1Database,
  tenant: string,
  evalId: string,
  query: { limit: number; after: string | null; order: 'asc' | 'desc'; status: EvalRunStatus | null },
  show: (row: WholeRun) => Shown,
) {
  const past = query.order === 'desc' ? '<' : '>';
  const wanted = (Object.keys(SHOWN) as TaskStatus[]).filter(
    (status) => query.status === null || SHOWN[status] === query.status,
  );
  const { results } = await db
    .prepare(
      `${WHOLE} WHERE r.tenant = ?3 AND r.eval_id = ?4 AND t.status IN (SELECT value FROM json_each(?5))
         AND (?1 IS NULL OR r.seq ${past} (SELECT seq FROM eval_runs WHERE id = ?1 AND tenant = ?3)) ORDER BY r.seq ${query.order} LIMIT ?2`,
    )
    .bind(query.after, query.limit + 1, tenant, evalId, JSON.stringify(wanted))
    .all<WholeRun>();
  return page(results, query.limit, show);
}

/** Ids of all runs of an evaluation. */
export async function runIds(db: D1Database, tenant: string, evalId: string): Promise<string[]> {
  const { results } = await db
    .prepare('SELECT id FROM eval_runs WHERE eval_id = ? AND tenant = ?')
    .bind(evalId, tenant)
    .all<{ id: string }>();
  return results.map(({ id }) => id);
}

/** Runs that ended before, whoever's they are. */
export async function endedRuns(db: D1Database, beforeMs: number, limit: number): Promise<WholeRun[]> {
  const { results } = await db
    .prepare(`${WHOLE} WHERE t.finished_at <= ? ORDER BY t.finished_at LIMIT ?`)
    .bind(beforeMs, limit)
    .all<WholeRun>();
  return results;
}

/**
 * The run with its items, its task and its objects, which become loose. Whatever the task was doing: a lease on it is worth nothing from then on.
 * @param nowMs the objects may be deleted from then on
 */
export function deleteRun(
  db: D1Database,
  actor: Actor,
  run: Pick<EvalRunRow, 'id'>,
  nowMs: number,
): D1PreparedStatement[] {
  const isTheirs = 'EXISTS (SELECT 1 FROM eval_runs WHERE id = ?1 AND tenant = ?2)';
  return [
    db
      .prepare(
        `INSERT INTO loose_objects (key, due_at)
         SELECT key, ?3 FROM (
           SELECT content_key AS key FROM eval_runs WHERE id = ?1 AND tenant = ?2
           UNION SELECT report_json_key FROM eval_runs WHERE id = ?1 AND tenant = ?2
           UNION SELECT report_html_key FROM eval_runs WHERE id = ?1 AND tenant = ?2
           UNION SELECT result_key FROM tasks WHERE id = ?1 AND tenant = ?2
         ) WHERE key IS NOT NULL ON CONFLICT (key) DO UPDATE SET due_at = excluded.due_at`,
      )
      .bind(run.id, actor.tenant, nowMs),
    db.prepare(`DELETE FROM eval_items WHERE run_id = ?1 AND ${isTheirs}`).bind(run.id, actor.tenant),
    db.prepare(`DELETE FROM work_files WHERE work_id = ?1 AND ${isTheirs}`).bind(run.id, actor.tenant),
    db.prepare(`DELETE FROM tasks WHERE id = ? AND tenant = ? AND kind = 'evaluate'`).bind(run.id, actor.tenant),
    db.prepare('DELETE FROM eval_runs WHERE id = ? AND tenant = ?').bind(run.id, actor.tenant),
    auditEntry(db, actor, { action: 'eval_run.deleted', object: run.id }, IF_CHANGED),
  ];
}

/** @param reportUrl where the report is; @param content lines of `file_content`, where they are to be shown */
export function showRun(row: WholeRun, reportUrl: string, content: unknown[] | null): EvalRun {
  const sums = JSON.parse(row.sums) as EvalSums;
  const done = sums.passed + sums.failed + sums.errored;
  const error = row.error === null ? null : (JSON.parse(row.error) as JobError);
  return {
    id: row.id,
    object: 'eval.run',
    eval_id: row.eval_id,
    name: row.name,
    created_at: Math.floor(row.created_at / 1000),
    finished_at: row.finished_at === null ? null : Math.floor(row.finished_at / 1000),
    status: SHOWN[row.status],
    model: row.model,
    metadata: row.metadata === null ? null : (JSON.parse(row.metadata) as Record<string, string>),
    data_source: showDataSource(JSON.parse(row.data_source) as EvalDataSource, content),
    // A task that is given back keeps the reason; the run has no error before it has failed.
    error: error === null || row.status !== 'failed' ? null : error,
    result_counts: {
      total: Math.max(row.total, done),
      passed: sums.passed,
      failed: sums.failed,
      errored: sums.errored,
    },
    per_model_usage: Object.entries(sums.models).map(([model_name, { calls, prompt, completion, cached }]) => ({
      model_name,
      invocation_count: calls,
      prompt_tokens: prompt,
      completion_tokens: completion,
      cached_tokens: cached,
      total_tokens: prompt + completion,
    })),
    per_testing_criteria_results: sums.criteria.map(({ name, passed, failed }) => ({
      testing_criteria: name,
      passed,
      failed,
    })),
    report_url: reportUrl,
  };
}

function showDataSource(source: EvalDataSource, content: unknown[] | null): EvalRun['data_source'] {
  if (source.type === 'mantis.benchmark' || source.source.type !== 'file_content' || content === null) return source;
  return { ...source, source: { ...source.source, content } };
}
