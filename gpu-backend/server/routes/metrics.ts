import { getConnInfo } from '@hono/node-server/conninfo';
import type { MiddlewareHandler } from 'hono';
import type { Metrics } from '../metrics.ts';
import type { SignedEnv } from '../require-signature.ts';

const LOOPBACK = new Set(['127.0.0.1', '::1', '::ffff:127.0.0.1']);

/** Prometheus text; open to a scraper on this machine, signed from anywhere else. */
export function metricsRoute(metrics: Metrics, signed: MiddlewareHandler<SignedEnv>): MiddlewareHandler<SignedEnv> {
  return async function metricsRoute(c, next) {
    if (!LOOPBACK.has(getConnInfo(c).remote.address ?? '')) await signed(c, async () => {});
    void next;
    return c.text(await metrics.registry.metrics(), 200, { 'content-type': metrics.registry.contentType });
  };
}
