/** Evaluations: what is asked and how it is judged. */
import type { CreateEvalRequest, Eval, Grader } from '../../shared/contract/evals.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type Actor, auditEntry, IF_CHANGED } from './audit.ts';
import { nextSeq, page } from './sequence.ts';

export type EvalRow = {
  id: string;
  tenant: string;
  seq: number;
  name: string;
  metadata: string | null;
  source: string;
  criteria: string;
  created_at: number;
  updated_at: number;
};

export type EvalSource = CreateEvalRequest['data_source_config'];

/** @returns null where the tenant has as many as it may */
export async function insertEval(
  db: D1Database,
  actor: Actor,
  row: Omit<EvalRow, 'seq' | 'tenant' | 'updated_at'>,
): Promise<EvalRow | null> {
  const [made] = await db.batch<EvalRow>([
    db
      .prepare(
        `INSERT INTO evals (id, tenant, seq, name, metadata, source, criteria, created_at, updated_at)
         SELECT ?1, ?2, ${nextSeq('evals')}, ?3, ?4, ?5, ?6, ?7, ?7 WHERE (SELECT COUNT(*) FROM evals WHERE tenant = ?2) < ?8 RETURNING *`,
      )
      .bind(
        row.id,
        actor.tenant,
        row.name,
        row.metadata,
        row.source,
        row.criteria,
        row.created_at,
        LIMITS.evals.maxPerTenant,
      ),
    auditEntry(
      db,
      actor,
      { action: 'eval.created', object: row.id, data: { name: row.name } },
      `EXISTS (SELECT 1 FROM evals WHERE id = '${row.id}')`,
    ),
  ]);
  return made?.results[0] ?? null;
}

export function getEval(db: D1Database, tenant: string, id: string): Promise<EvalRow | null> {
  return db.prepare('SELECT * FROM evals WHERE id = ? AND tenant = ?').bind(id, tenant).first<EvalRow>();
}

export type EvalQuery = {
  limit: number;
  after: string | null;
  order: 'asc' | 'desc';
  orderBy: 'created_at' | 'updated_at';
};

export async function listEvals(db: D1Database, tenant: string, query: EvalQuery) {
  const past = query.order === 'desc' ? '<' : '>';
  const column = query.orderBy === 'updated_at' ? 'updated_at' : 'created_at';
  const { results } = await db
    .prepare(
      `SELECT * FROM evals WHERE tenant = ?3
         AND (?1 IS NULL OR (${column}, seq) ${past} (SELECT ${column}, seq FROM evals WHERE id = ?1 AND tenant = ?3))
       ORDER BY ${column} ${query.order}, seq ${query.order} LIMIT ?2`,
    )
    .bind(query.after, query.limit + 1, tenant)
    .all<EvalRow>();
  return page(results, query.limit, showEval);
}

/** @returns the row as it is now, or null where it is gone */
export async function updateEval(
  db: D1Database,
  actor: Actor,
  id: string,
  change: Pick<EvalRow, 'name' | 'metadata'>,
  nowMs: number,
): Promise<EvalRow | null> {
  const [updated] = await db.batch<EvalRow>([
    db
      .prepare('UPDATE evals SET name = ?, metadata = ?, updated_at = ? WHERE id = ? AND tenant = ? RETURNING *')
      .bind(change.name, change.metadata, nowMs, id, actor.tenant),
    auditEntry(db, actor, { action: 'eval.updated', object: id, data: { name: change.name } }, IF_CHANGED),
  ]);
  return updated?.results[0] ?? null;
}

/** The row alone, in one transaction with what goes with it: runs must be gone before or go along. */
export function deleteEval(db: D1Database, actor: Actor, id: string): D1PreparedStatement[] {
  return [
    db.prepare('DELETE FROM evals WHERE id = ? AND tenant = ?').bind(id, actor.tenant),
    auditEntry(db, actor, { action: 'eval.deleted', object: id }, IF_CHANGED),
  ];
}

export function showEval(row: EvalRow): Eval {
  return {
    id: row.id,
    object: 'eval',
    name: row.name,
    created_at: Math.floor(row.created_at / 1000),
    metadata: row.metadata === null ? null : (JSON.parse(row.metadata) as Record<string, string>),
    data_source_config: showSource(JSON.parse(row.source) as EvalSource),
    testing_criteria: JSON.parse(row.criteria) as Grader[],
  };
}

/** The schema of a whole line, as OpenAI shows it. */
function showSource(source: EvalSource): Eval['data_source_config'] {
  if (source.type !== 'custom') return source;
  const sample = {
    type: 'object',
    properties: { output_text: { type: 'string' } },
    required: ['output_text'],
  };
  const hasSample = source.include_sample_schema === true;
  return {
    type: 'custom',
    schema: {
      type: 'object',
      properties: { item: source.item_schema, ...(hasSample ? { sample } : {}) },
      required: ['item', ...(hasSample ? ['sample'] : [])],
    },
  };
}
