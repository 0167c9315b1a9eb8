/** What came of each line of a run: written once, with the run's sums, in one transaction. */

import type { EvalItemStatus, EvalOutputItem } from '../../shared/contract/evals.ts';
import type { EvalItemReport, EvalItemsPage } from '../../shared/contract/evalTask.ts';
import { newId } from '../../shared/wire/ids.ts';
import { type EvalSums, findRun, type WholeRun } from './evalRuns.ts';
import { page } from './sequence.ts';

export type EvalItemRow = {
  run_id: string;
  line: number;
  id: string;
  status: EvalItemStatus;
  created_at: number;
  body: string;
};

type Body = Pick<EvalOutputItem, 'datasource_item' | 'results' | 'sample'>;

const MAX_ROUNDS = 8;

/**
 * Writes results for whoever holds the lease. Lines that are there already stay as they are and count once, so that a batch may be sent again.
 * @param total lines of the data, where they have been counted
 * @returns the run and which of the reports were new; null where the lease is not the newest one, or the run is gone
 */
export async function addItems(
  db: D1Database,
  runId: string,
  token: number,
  reports: readonly EvalItemReport[],
  total: number | null,
  nowMs: number,
): Promise<{ run: WholeRun; added: EvalItemReport[] } | null> {
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const run = await findRun(db, runId);
    if (run === null) return null;
    const { results } = await db
      .prepare('SELECT line FROM eval_items WHERE run_id = ? AND line IN (SELECT value FROM json_each(?))')
      .bind(runId, JSON.stringify(reports.map(({ line }) => line)))
      .all<{ line: number }>();
    const there = new Set(results.map(({ line }) => line));
    const added = reports.filter(({ line }) => !there.has(line) && there.add(line));
    const revision = crypto.randomUUID();
    const guard = `EXISTS (SELECT 1 FROM eval_runs WHERE id = '${runId.replaceAll("'", "''")}' AND revision = '${revision}')`;
    const rows = added.map(({ line, status, datasourceItem, results: verdicts, sample }) => {
      const body: Body = { datasource_item: datasourceItem, results: verdicts, sample };
      return { line, id: newId('outputitem_'), status, body: JSON.stringify(body) };
    });
    const [updated] = await db.batch([
      db
        .prepare(
          `UPDATE eval_runs SET sums = ?1, total = COALESCE(?2, total), revision = ?3 WHERE id = ?4 AND revision = ?5
             AND EXISTS (SELECT 1 FROM tasks WHERE id = ?4 AND status = 'running' AND lease_token = ?6)`,
        )
        .bind(JSON.stringify(addSums(run, added)), total, revision, runId, run.revision, token),
      // Who gets on is no worker that stops without getting anywhere, however often the run changes hands.
      ...(added.length === 0
        ? []
        : [db.prepare(`UPDATE tasks SET fruitless_claims = 0 WHERE id = ? AND ${guard}`).bind(runId)]),
      ...rows.map((row) =>
        db
          .prepare(
            `INSERT INTO eval_items (run_id, line, id, status, created_at, body) SELECT ?, ?, ?, ?, ?, ? WHERE ${guard}`,
          )
          .bind(runId, row.line, row.id, row.status, nowMs, row.body),
      ),
    ]);
    if ((updated?.meta.changes ?? 0) > 0) return { run, added };
    const now = await findRun(db, runId);
    // Not somebody else's write: the lease is gone.
    if (now === null || now.revision === run.revision) return null;
  }
  throw new Error(`run ${runId}: ${MAX_ROUNDS} others wrote first`);
}

function addSums(run: WholeRun, added: readonly EvalItemReport[]): EvalSums {
  const sums = JSON.parse(run.sums) as EvalSums;
  for (const { status, results, usage, isCounted = true } of added) {
    if (isCounted) sums[status === 'pass' ? 'passed' : status === 'fail' ? 'failed' : 'errored']++;
    for (const [i, { name, passed, error }] of results.entries())
      if (error === undefined) criterionOf(sums, i, name)[passed ? 'passed' : 'failed']++;
    for (const { model, promptTokens, completionTokens, cachedTokens } of usage) {
      const of = Object.hasOwn(sums.models, model)
        ? (sums.models[model] as EvalSums['models'][string])
        : { calls: 0, prompt: 0, completion: 0, cached: 0 };
      sums.models[model] = {
        calls: of.calls + 1,
        prompt: of.prompt + promptTokens,
        completion: of.completion + completionTokens,
        cached: of.cached + cachedTokens,
      };
    }
  }
  return sums;
}

/** That of its place where it has the name; what a benchmark asks beside its questions has one from the first answer on, behind the benchmark's own, by name. */
function criterionOf(sums: EvalSums, place: number, name: string): EvalSums['criteria'][number] {
  const own = sums.criteria[place];
  if (own?.name === name) return own;
  const found = sums.criteria.find((criterion) => criterion.name === name);
  if (found !== undefined) return found;
  const added = { name, passed: 0, failed: 0 };
  const next = sums.criteria.findIndex((criterion, i) => i > 0 && criterion.name > name);
  sums.criteria.splice(next < 0 ? sums.criteria.length : next, 0, added);
  return added;
}

/** How many items have errors, and what their criteria said before one of them had no verdict. */
export async function errorSums(db: D1Database, runId: string) {
  const [items, verdicts] = await db.batch<{ items: number; name: string; passed: number; failed: number }>([
    db.prepare("SELECT COUNT(*) AS items FROM eval_items WHERE run_id = ? AND status = 'error'").bind(runId),
    db
      .prepare(
        `SELECT result.value ->> '$.name' AS name, SUM(result.value ->> '$.passed') AS passed, SUM(1 - (result.value ->> '$.passed')) AS failed
         FROM eval_items, json_each(body, '$.results') AS result
         WHERE run_id = ? AND status = 'error' AND result.value ->> '$.error' IS NULL GROUP BY name`,
      )
      .bind(runId),
  ]);
  const criteria = new Map((verdicts?.results ?? []).map(({ name, passed, failed }) => [name, { passed, failed }]));
  return { items: items?.results[0]?.items ?? 0, criteria };
}

/** Gives a run the items of another one that have no error. @param guard SQL that is true only if the run was made in the same transaction */
export function takeOver(db: D1Database, runId: string, fromId: string, guard: string): D1PreparedStatement {
  return db
    .prepare(
      `INSERT INTO eval_items (run_id, line, id, status, created_at, body)
       SELECT ?1, line, 'outputitem_' || lower(hex(randomblob(12))), status, created_at, body
       FROM eval_items WHERE run_id = ?2 AND status <> 'error' AND ${guard}`,
    )
    .bind(runId, fromId);
}

/** Lines that are written, as ranges [first, last], both included. */
export async function doneLines(db: D1Database, runId: string): Promise<[number, number][]> {
  const { results } = await db
    .prepare(
      `SELECT MIN(line) AS first, MAX(line) AS last
       FROM (SELECT line, line - ROW_NUMBER() OVER (ORDER BY line) AS island FROM eval_items WHERE run_id = ?) GROUP BY island ORDER BY first`,
    )
    .bind(runId)
    .all<{ first: number; last: number }>();
  return results.map(({ first, last }) => [first, last]);
}

export function getItem(db: D1Database, runId: string, id: string): Promise<EvalItemRow | null> {
  return db.prepare('SELECT * FROM eval_items WHERE run_id = ? AND id = ?').bind(runId, id).first<EvalItemRow>();
}

/** Of items together in one answer: they may be a megabyte each, and mostly are a thousandth of it. */
const MAX_PAGE_BYTES = 8 * 1024 * 1024;

type Range = { limit: number; order: 'asc' | 'desc'; status: EvalItemStatus | null };

/** Items behind one, in the order of lines; fewer than asked for where more would be too much for one answer. @param where SQL over `?3` */
async function itemsBehind(
  db: D1Database,
  runId: string,
  { limit, order, status }: Range,
  where: string,
  after: string | number | null,
): Promise<{ rows: EvalItemRow[]; hasMore: boolean }> {
  const { results } = await db
    .prepare(
      `SELECT line, length(body) AS chars FROM eval_items WHERE run_id = ?1 AND (?2 IS NULL OR status = ?2) AND ${where}
       ORDER BY line ${order} LIMIT ?4`,
    )
    .bind(runId, status, after, limit + 1)
    .all<{ line: number; chars: number }>();
  const lines: number[] = [];
  let chars = 0;
  for (const one of results.slice(0, limit)) {
    chars += one.chars;
    if (lines.length > 0 && chars > MAX_PAGE_BYTES) break;
    lines.push(one.line);
  }
  const found = await db
    .prepare(
      `SELECT * FROM eval_items WHERE run_id = ? AND line IN (SELECT value FROM json_each(?)) ORDER BY line ${order}`,
    )
    .bind(runId, JSON.stringify(lines))
    .all<EvalItemRow>();
  return { rows: found.results, hasMore: results.length > lines.length };
}

/** In the order of the lines. @param query.status null: all of them */
export async function listItems(
  db: D1Database,
  run: Pick<WholeRun, 'id' | 'eval_id'>,
  query: Range & { after: string | null },
) {
  const past = query.order === 'desc' ? '<' : '>';
  const where = `(?3 IS NULL OR line ${past} (SELECT line FROM eval_items WHERE id = ?3 AND run_id = ?1))`;
  const { rows, hasMore } = await itemsBehind(db, run.id, query, where, query.after);
  return { ...page(rows, rows.length, (row) => showItem(row, run.eval_id)), has_more: hasMore };
}

export function showItem(row: EvalItemRow, evalId: string): EvalOutputItem {
  const body = JSON.parse(row.body) as Body;
  return {
    id: row.id,
    object: 'eval.run.output_item',
    created_at: Math.floor(row.created_at / 1000),
    run_id: row.run_id,
    eval_id: evalId,
    status: row.status,
    datasource_item_id: row.line,
    ...body,
  };
}

const PAGE_ITEMS = 256;

/** Items behind a line, in order, as they were reported. */
export async function pageOfItems(db: D1Database, runId: string, after: number): Promise<EvalItemsPage['items']> {
  const range = { limit: PAGE_ITEMS, order: 'asc', status: null } as const;
  const { rows } = await itemsBehind(db, runId, range, 'line > ?3', after);
  return rows.map(({ line, status, body }) => {
    const { datasource_item, results: verdicts, sample } = JSON.parse(body) as Body;
    return { line, status, datasourceItem: datasource_item, results: verdicts, sample };
  });
}
