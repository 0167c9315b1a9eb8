/** The audit log, for the installation's operator: keys with the scope `admin`. */
import type { Context } from 'hono';
import { type AppEnv, auditChain } from '../env.ts';
import { listAudit } from '../store/audit.ts';
import { listQuery } from './query.ts';

/** `GET /v1/admin/audit`, newest first; `tenant`, `target` and `action` narrow it. */
export async function listAuditRoute(c: Context<AppEnv>): Promise<Response> {
  await auditChain(c.env).seal();
  const query = (name: string) => c.req.query(name) ?? null;
  return c.json(
    await listAudit(c.env.DB, {
      ...listQuery(c),
      tenant: query('tenant'),
      object: query('target'),
      action: query('action'),
    }),
  );
}

/** `POST /v1/admin/audit/verify`: computes the chain anew. */
export async function verifyAudit(c: Context<AppEnv>): Promise<Response> {
  return c.json(await auditChain(c.env).verify());
}
