import type { Context } from 'hono';
import { type BackendAck, BackendReport } from '../../shared/contract/backend.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type AppEnv, fleet, scheduler } from '../env.ts';
import { metrics } from '../metrics/metrics.ts';
import { readSignedJson } from '../middleware/signed.ts';

/** `POST /internal/backends/register` and `/heartbeat`. */
export async function reportBackend(c: Context<AppEnv>): Promise<Response> {
  const report = await readSignedJson(c, BackendReport);
  const isNew = await fleet(c.env).report(report);
  if (isNew) {
    if (report.coldStartMs !== undefined) metrics.coldStart.observe(report.coldStartMs / 1000);
    console.log(
      JSON.stringify({
        level: 'info',
        event: 'backend_joined',
        backend: report.id,
        url: report.url,
        models: report.models.map(({ id }) => id),
      }),
    );
    await scheduler(c.env).ensure();
  }
  const { heartbeatEveryMs, goneAfterMs } = LIMITS.backends;
  return c.json({ heartbeatEveryMs, goneAfterMs, nowMs: Date.now() } satisfies BackendAck);
}
