import type { Context, MiddlewareHandler } from 'hono';
import { equalText } from '../../shared/wire/signature.ts';
import type { AppEnv } from '../env.ts';
import { collector, flush } from '../metrics/collector.ts';
import { readGauges } from '../metrics/gauges.ts';
import { DEFINITIONS, PREFIX } from '../metrics/metrics.ts';
import { renderPrometheus } from '../metrics/recorder.ts';

/**
 * `GET /metrics` is for whoever runs the installation: a scraper that sends the metrics token as its bearer token, or an API key that `otherwise` lets
 * pass. Without a token set there is only the second way.
 */
export function metricsAccess(otherwise: MiddlewareHandler<AppEnv>): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const token = c.env.METRICS_TOKEN ?? '';
    const given = c.req.header('authorization') ?? '';
    if (token !== '' && equalText(given, `Bearer ${token}`)) return await next();
    return await otherwise(c, next);
  };
}

/** `GET /metrics`: the counts of all isolates, and what the fleet and the database say right now. */
export async function showMetrics(c: Context<AppEnv>): Promise<Response> {
  await flush(c.env);
  const [totals, gauges] = await Promise.all([collector(c.env).totals(), readGauges(c.env)]);
  return c.text(renderPrometheus(PREFIX, DEFINITIONS, totals, gauges), 200, {
    'content-type': 'text/plain; version=0.0.4; charset=utf-8',
    'cache-control': 'no-store',
  });
}
