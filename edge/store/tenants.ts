import { type KeyLimitsInput, mergeLimits, type Tenant, type UpdateTenantRequest } from '../../shared/contract/keys.ts';
import { type Actor, auditEntry, IF_CHANGED } from './audit.ts';
import { nextSeq, page } from './sequence.ts';

export type TenantRow = {
  /** 32 hexadecimal digits: what backends keep caches apart by. */
  id: string;
  name: string;
  limits: string;
  created_at: number;
  disabled_at: number | null;
  seq: number;
};

/** Stores a new tenant. */
export async function createTenant(
  db: D1Database,
  actor: Actor,
  tenant: { id: string; name: string; limits: KeyLimitsInput; createdAtMs: number },
): Promise<void> {
  await db.batch([
    db
      .prepare(`INSERT INTO tenants (id, name, limits, created_at, seq) VALUES (?, ?, ?, ?, ${nextSeq('tenants')})`)
      .bind(tenant.id, tenant.name, JSON.stringify(tenant.limits), tenant.createdAtMs),
    auditEntry(db, actor, {
      action: 'tenant.created',
      object: tenant.id,
      tenant: tenant.id,
      data: { name: tenant.name },
    }),
  ]);
}

export function getTenant(db: D1Database, id: string): Promise<TenantRow | null> {
  return db.prepare('SELECT * FROM tenants WHERE id = ?').bind(id).first<TenantRow>();
}

export async function countTenants(db: D1Database): Promise<number> {
  return (await db.prepare('SELECT COUNT(*) AS n FROM tenants').first<{ n: number }>())?.n ?? 0;
}

/** Newest first. */
export async function listTenants(db: D1Database, query: { limit: number; after: string | null }) {
  const { results } = await db
    .prepare(
      `SELECT * FROM tenants WHERE ?1 IS NULL OR seq < (SELECT seq FROM tenants WHERE id = ?1) ORDER BY seq DESC LIMIT ?2`,
    )
    .bind(query.after, query.limit + 1)
    .all<TenantRow>();
  return page(results, query.limit, showTenant);
}

/** Changes what is given. */
export async function updateTenant(
  db: D1Database,
  actor: Actor,
  tenant: TenantRow,
  change: UpdateTenantRequest,
  nowMs: number,
): Promise<void> {
  const disabledAtMs =
    change.disabled === undefined ? tenant.disabled_at : change.disabled ? (tenant.disabled_at ?? nowMs) : null;
  await db.batch([
    db
      .prepare('UPDATE tenants SET name = ?, limits = ?, disabled_at = ? WHERE id = ?')
      .bind(
        change.name ?? tenant.name,
        change.limits === undefined ? tenant.limits : JSON.stringify(change.limits),
        disabledAtMs,
        tenant.id,
      ),
    auditEntry(
      db,
      actor,
      { action: 'tenant.updated', object: tenant.id, tenant: tenant.id, data: { ...change } },
      IF_CHANGED,
    ),
  ]);
}

export function showTenant(row: TenantRow): Tenant {
  return {
    id: row.id,
    object: 'tenant',
    name: row.name,
    limits: mergeLimits(JSON.parse(row.limits) as KeyLimitsInput),
    status: row.disabled_at === null ? 'active' : 'disabled',
    created_at: Math.floor(row.created_at / 1000),
  };
}
