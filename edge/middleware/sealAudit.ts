import type { MiddlewareHandler } from 'hono';
import { accessOf } from '../../shared/contract/keys.ts';
import { type AppEnv, auditChain } from '../env.ts';

/** Chains the audit entries of a change behind its answer. What backends change is chained by the scheduler, a second or so later. */
export function sealAudit(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    await next();
    const access = accessOf(c.req.path);
    const isChange = c.req.method !== 'GET' && c.req.method !== 'HEAD' && c.res.status < 400;
    if (!isChange || access === null || access === 'inference' || access === 'signature') return;
    const sealing = auditChain(c.env).seal();
    c.executionCtx.waitUntil(
      Promise.resolve(sealing).catch((error: unknown) =>
        console.error(JSON.stringify({ level: 'error', event: 'audit_chain', error: String(error) })),
      ),
    );
  };
}
