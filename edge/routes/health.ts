import type { Context } from 'hono';
import { type AppEnv, scheduler } from '../env.ts';
import { servedModels } from '../fleet/pick.ts';
import { liveBackends } from '../fleet/registry.ts';

/** The process answers. */
export function live(c: Context<AppEnv>): Response {
  return c.json({ status: 'ok' });
}

/** Everything a request needs is there: the database answers, the scheduler's alarm is set, a backend serves a model. */
export async function ready(c: Context<AppEnv>): Promise<Response> {
  const parts = await checkParts(c);
  const ok = Object.values(parts).every((part) => part === 'ok');
  return c.json({ status: ok ? 'ok' : 'unavailable', parts }, ok ? 200 : 503);
}

/** For people: the same with the models, always 200 while the door itself works. */
export async function health(c: Context<AppEnv>): Promise<Response> {
  const parts = await checkParts(c);
  const backends = await liveBackends(c.env);
  return c.json({
    status: Object.values(parts).every((part) => part === 'ok') ? 'ok' : 'degraded',
    parts,
    backends: backends.map(({ report }) => ({
      id: report.id,
      state: report.state,
      in_flight: report.inFlight,
      capacity: report.capacity,
    })),
    models: [...servedModels(backends).keys()],
  });
}

async function checkParts(c: Context<AppEnv>): Promise<Record<'database' | 'scheduler' | 'backends', string>> {
  const verdict = async (check: Promise<string>) =>
    check.catch((error: unknown) => `failed: ${String(error).slice(0, 100)}`);
  const [database, alarm, backends] = await Promise.all([
    verdict(
      c.env.DB.prepare('SELECT 1 FROM jobs LIMIT 1')
        .run()
        .then(() => 'ok'),
    ),
    verdict(
      scheduler(c.env)
        .ensure()
        .then(() => 'ok'),
    ),
    verdict(
      liveBackends(c.env).then((list) =>
        list.some(({ report }) => report.state === 'ready' && report.models.length > 0) ? 'ok' : 'none is ready',
      ),
    ),
  ]);
  return { database, scheduler: alarm, backends };
}
