import type { Context } from 'hono';
import type { Health, Readiness, Version } from '../../shared/contract/health.ts';
import { PRODUCT } from '../../shared/contract/version.ts';
import { type AppEnv, type Env, scheduler } from '../env.ts';
import { knownModels } from '../fleet/registry.ts';
import { type FleetView, viewFleet } from '../metrics/fleet.ts';
import { hasReady, judge, type Said, type Verdict } from '../metrics/reasons.ts';
import { webhookBacklog } from '../store/operations.ts';

/** These routes are open, so that however often they are called the parts are asked at most this often. */
const CACHE_MS = 100;
/** A part that takes longer is as good as gone. */
const PART_TIMEOUT_MS = 3_000;

type Heard = { verdict: Verdict; fleet: FleetView | Error; models: string[] };
/** Only what has been said: a promise of one request cannot be waited for by another. */
let cached: { health: Heard; untilMs: number } | null = null;
/** Since when this isolate has seen no backend that is ready. */
let noneReadySinceMs: number | null = null;

/** `GET /version`, with the time by the edge's clock. */
export function version(c: Context<AppEnv>): Response {
  return c.json({ ...PRODUCT, time_ms: Date.now() } satisfies Version);
}

/** The process answers. */
export function live(c: Context<AppEnv>): Response {
  return c.json({ status: 'ok' });
}

/** Whether a request would be answered: the database and the scheduler answer, a backend is there or can be started. */
export async function ready(c: Context<AppEnv>): Promise<Response> {
  const { status, reasons, parts } = (await read(c.env)).verdict;
  return c.json(
    { status: status === 'unavailable' ? 'unavailable' : 'ok', reasons, parts } satisfies Readiness,
    status === 'unavailable' ? 503 : 200,
  );
}

/** For people: the same with backends, queue and models, always 200 while the door itself works. */
export async function health(c: Context<AppEnv>): Promise<Response> {
  const { verdict, fleet, models } = await read(c.env);
  const status = verdict.status === 'ok' ? ('ok' as const) : ('degraded' as const);
  const head = { status, reasons: verdict.reasons, parts: verdict.parts, version: PRODUCT.version };
  if (fleet instanceof Error) return c.json({ ...head, backends: [], models });
  return c.json({
    ...head,
    queue: { length: fleet.queue.length, oldest_wait_ms: fleet.queue.oldestWaitMs },
    backends: fleet.backends
      .filter(({ state }) => state !== 'gone')
      .map(({ id, state, inFlight, capacity, breaker }) => ({ id, state, in_flight: inFlight, capacity, breaker })),
    models,
  } satisfies Health);
}

async function read(env: Env): Promise<Heard> {
  if (cached !== null && cached.untilMs > Date.now()) return cached.health;
  const health = await ask(env);
  cached = { health, untilMs: Date.now() + CACHE_MS };
  return health;
}

async function ask(env: Env): Promise<Heard> {
  const [database, alarm, fleet, webhooks, models] = await Promise.all([
    said('database', env.DB.prepare('SELECT 1 FROM jobs LIMIT 1').run()),
    said('scheduler', scheduler(env).ensure()),
    said('fleet', viewFleet(env)),
    said('webhooks', webhookBacklog(env.DB, Date.now())),
    said('models', knownModels(env)),
  ]);
  if (!(fleet instanceof Error) && hasReady(fleet)) noneReadySinceMs = null;
  else noneReadySinceMs ??= Date.now();
  const all: Said = {
    database: database instanceof Error ? database : true,
    scheduler: alarm instanceof Error ? alarm : true,
    fleet,
    webhooks,
  };
  return {
    verdict: judge(all, noneReadySinceMs),
    fleet,
    models: models instanceof Error ? [] : [...models.keys()],
  };
}

/** The reason goes to the log, never to whoever asks: this is open to all. */
async function said<T>(part: string, asked: Promise<T>): Promise<T | Error> {
  let timer: ReturnType<typeof setTimeout> | null = null;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${PART_TIMEOUT_MS} ms`)), PART_TIMEOUT_MS);
  });
  try {
    return await Promise.race([asked, late]);
  } catch (error) {
    console.error(JSON.stringify({ level: 'warn', event: 'unhealthy', part, error: String(error) }));
    return error instanceof Error ? error : new Error(String(error));
  } finally {
    clearTimeout(timer);
  }
}
