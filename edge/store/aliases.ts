/**
 * Names for models. The list of changes is the truth that two writers meet at: a change carries the next version, which is unique, so the second of two
 * fails as a whole and reads again.
 */
import type { Alias, AliasChange, Comparison } from '../../shared/contract/aliases.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { newId } from '../../shared/wire/ids.ts';
import { type Actor, auditEntry } from './audit.ts';
import { nextSeq, page } from './sequence.ts';
import { insertDeliveries } from './webhooks.ts';

export type AliasRow = {
  tenant: string;
  name: string;
  seq: number;
  model: string;
  version: number;
  description: string | null;
  created_at: number;
  updated_at: number;
};

export type AliasChangeRow = {
  id: string;
  seq: number;
  tenant: string;
  name: string;
  version: number;
  kind: AliasChange['kind'];
  model: string;
  was: string | null;
  back: number | null;
  at: number;
  actor: string;
  reason: string | null;
  run_id: string | null;
  comparison: string | null;
};

export type AliasMove = {
  name: string;
  kind: AliasChange['kind'];
  model: string;
  /** The row that was read; null: there is none yet. */
  was: AliasRow | null;
  /** Version that a rollback from here returns to. */
  back: number | null;
  reason: string | null;
  description?: string | null;
  runId?: string;
  comparison?: Comparison;
};

/**
 * Statements that give an alias another model: change, row, audit entry and event together. They fail as a whole (`isConflict`) where another change
 * has taken the version, and do nothing where `guard` is false, where the alias is no longer what was read, or where the tuned model is gone.
 * @param guard SQL that is true only if what this belongs to happened in the same transaction
 */
export function moveAlias(
  db: D1Database,
  actor: Actor,
  move: AliasMove,
  nowMs: number,
  guard = 'TRUE',
): { statements: D1PreparedStatement[]; changeId: string } {
  const changeId = newId('alch_');
  const version = (move.was?.version ?? 0) + 1;
  const { tenant } = actor;
  const isMade = `EXISTS (SELECT 1 FROM alias_changes WHERE id = '${changeId}')`;
  const fits =
    move.was === null
      ? `(SELECT COUNT(*) FROM aliases WHERE tenant = ?3) < ${LIMITS.aliases.maxPerTenant} AND NOT EXISTS (SELECT 1 FROM aliases WHERE tenant = ?3 AND name = ?4)`
      : 'EXISTS (SELECT 1 FROM aliases WHERE tenant = ?3 AND name = ?4 AND version = ?5 - 1)';
  const change = db
    .prepare(
      `INSERT INTO alias_changes (id, seq, tenant, name, version, kind, model, was, back, at, actor, reason, run_id, comparison)
       SELECT ?1, ${nextSeq('alias_changes')}, ?3, ?4, ?5, ?6, ?2, ?7, ?8, ?9, ?10, ?11, ?12, ?13
       WHERE ${fits} AND (?2 NOT LIKE 'ft:%' OR EXISTS (SELECT 1 FROM models WHERE id = ?2 AND tenant = ?3)) AND (${guard})`,
    )
    .bind(
      changeId,
      move.model,
      tenant,
      move.name,
      version,
      move.kind,
      move.was?.model ?? null,
      move.back,
      nowMs,
      actor.keyId,
      move.reason,
      move.runId ?? null,
      move.comparison === undefined ? null : JSON.stringify(move.comparison),
    );
  const row = db
    .prepare(
      `INSERT INTO aliases (tenant, name, seq, model, version, description, created_at, updated_at)
       SELECT ?1, ?2, ${nextSeq('aliases')}, ?3, ?4, ?5, ?6, ?6 WHERE ${isMade}
       ON CONFLICT (tenant, name) DO UPDATE SET model = excluded.model, version = excluded.version, updated_at = excluded.updated_at`,
    )
    .bind(tenant, move.name, move.model, version, move.description ?? null, nowMs);
  const data = {
    model: move.model,
    was: move.was?.model ?? null,
    version,
    ...(move.runId === undefined ? {} : { run: move.runId }),
  };
  const isRollback = move.kind === 'rolled_back';
  return {
    changeId,
    statements: [
      change,
      row,
      auditEntry(db, actor, { action: `alias.${move.kind}`, object: move.name, data }, isMade),
      ...insertDeliveries(
        db,
        {
          id: newId('evt_'),
          tenant,
          type: isRollback ? 'alias.rolled_back' : 'alias.promoted',
          objectId: move.name,
          createdAtMs: nowMs,
          data: { model: move.model, ...(move.runId === undefined ? {} : { schedule_run: move.runId }) },
        },
        isMade,
        nowMs,
      ),
    ],
  };
}

/** Whether a batch failed because another one wrote first. */
export function isConflict(error: unknown): boolean {
  return error instanceof Error && /UNIQUE constraint failed/.test(error.message);
}

export function getAlias(db: D1Database, tenant: string, name: string): Promise<AliasRow | null> {
  return db.prepare('SELECT * FROM aliases WHERE tenant = ? AND name = ?').bind(tenant, name).first<AliasRow>();
}

export function findChange(db: D1Database, id: string): Promise<AliasChangeRow | null> {
  return db.prepare('SELECT * FROM alias_changes WHERE id = ?').bind(id).first<AliasChangeRow>();
}

export async function listAliases(db: D1Database, tenant: string, query: { limit: number; after: string | null }) {
  const { results } = await db
    .prepare(
      `SELECT * FROM aliases WHERE tenant = ?3 AND (?1 IS NULL OR seq < (SELECT seq FROM aliases WHERE name = ?1 AND tenant = ?3))
       ORDER BY seq DESC LIMIT ?2`,
    )
    .bind(query.after, query.limit + 1, tenant)
    .all<AliasRow>();
  const previous = await Promise.all(results.map((row) => changeToReturnTo(db, row)));
  const shown = results.map((row, at) => showAlias(row, previous[at]?.model ?? null));
  return page(shown, query.limit, (alias) => alias);
}

/** Newest first. */
export async function listChanges(
  db: D1Database,
  tenant: string,
  name: string,
  query: { limit: number; after: string | null },
) {
  const { results } = await db
    .prepare(
      `SELECT * FROM alias_changes WHERE tenant = ?3 AND name = ?4
         AND (?1 IS NULL OR version < (SELECT version FROM alias_changes WHERE id = ?1 AND tenant = ?3))
       ORDER BY version DESC LIMIT ?2`,
    )
    .bind(query.after, query.limit + 1, tenant, name)
    .all<AliasChangeRow>();
  return page(results, query.limit, showChange);
}

/**
 * The change whose model a rollback brings back: what was there before the current model came, models that are gone left out. After a rollback it is
 * what was before that, so two rollbacks go back two steps.
 */
export async function changeToReturnTo(
  db: D1Database,
  alias: Pick<AliasRow, 'tenant' | 'name' | 'version' | 'model'>,
): Promise<AliasChangeRow | null> {
  const { results } = await db
    .prepare(
      `WITH RECURSIVE chain (version) AS (
         SELECT back FROM alias_changes WHERE tenant = ?1 AND name = ?2 AND version = ?3
         UNION SELECT c.back FROM alias_changes c JOIN chain ON c.tenant = ?1 AND c.name = ?2 AND c.version = chain.version)
       SELECT c.* FROM alias_changes c JOIN chain ON c.tenant = ?1 AND c.name = ?2 AND c.version = chain.version
       WHERE c.model != ?4 AND (c.model NOT LIKE 'ft:%' OR EXISTS (SELECT 1 FROM models m WHERE m.id = c.model AND m.tenant = ?1))
       ORDER BY c.version DESC LIMIT 1`,
    )
    .bind(alias.tenant, alias.name, alias.version, alias.model)
    .all<AliasChangeRow>();
  return results[0] ?? null;
}

/** @returns whether there was one */
export async function deleteAlias(db: D1Database, actor: Actor, name: string): Promise<boolean> {
  const [gone] = await db.batch([
    db.prepare('DELETE FROM aliases WHERE tenant = ? AND name = ?').bind(actor.tenant, name),
    auditEntry(db, actor, { action: 'alias.deleted', object: name }, 'changes() > 0'),
    db.prepare('DELETE FROM alias_changes WHERE tenant = ? AND name = ?').bind(actor.tenant, name),
  ]);
  return (gone?.meta.changes ?? 0) > 0;
}

export async function describeAlias(
  db: D1Database,
  actor: Actor,
  name: string,
  description: string | null,
  nowMs: number,
): Promise<void> {
  await db.batch([
    db
      .prepare('UPDATE aliases SET description = ?, updated_at = ? WHERE tenant = ? AND name = ?')
      .bind(description, nowMs, actor.tenant, name),
    auditEntry(db, actor, { action: 'alias.updated', object: name }, 'changes() > 0'),
  ]);
}

export function showAlias(row: AliasRow, previousModel: string | null): Alias {
  return {
    id: row.name,
    object: 'alias',
    model: row.model,
    version: row.version,
    previous_model: previousModel,
    description: row.description,
    created_at: Math.floor(row.created_at / 1000),
    updated_at: Math.floor(row.updated_at / 1000),
  };
}

function showChange(row: AliasChangeRow): AliasChange {
  return {
    id: row.id,
    object: 'alias.change',
    alias: row.name,
    version: row.version,
    kind: row.kind,
    model: row.model,
    was: row.was,
    created_at: Math.floor(row.at / 1000),
    by: row.actor,
    reason: row.reason,
    schedule_run: row.run_id,
    comparison: row.comparison === null ? null : (JSON.parse(row.comparison) as Comparison),
  };
}
