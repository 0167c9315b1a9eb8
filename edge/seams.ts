/**
 * What tests may turn in a running edge: its clock, its stores' faults, its chance. All of it is behind `globalThis.MANTIS_TEST_SEAMS`, which a build
 * replaces by `true` or `false` (deploy/bundle.ts): a production build has none of this, and no route to it.
 *
 * One Worker's objects and requests share an isolate, so what is kept here is the same for all of them. A start anew forgets it.
 */
import type { Context, Hono } from 'hono';
import * as z from 'zod/mini';
import { clockScale, nowMs, setTestClock } from './clock.ts';
import { type AppEnv, type Env, scheduler } from './env.ts';
import { readSignedJson } from './middleware/signed.ts';

/** Made when they are asked for: a build without seams keeps nothing that is made when it is loaded. */
function schemas() {
  const fault = z.strictObject({
    /** Before the call of the store takes effect, or behind it. */
    point: z.enum(['d1.before', 'd1.after', 'r2.before', 'r2.after']),
    /** Calls whose SQL, or whose method and key, hold this text. Default: all. */
    match: z.optional(z.string()),
    action: z.enum(['error', 'delay', 'hang']),
    delay_ms: z.optional(z.int().check(z.gte(0))),
    /** Matching calls that pass first, and so many that are hit. Default 0 and 1. */
    skip: z.optional(z.int().check(z.gte(0))),
    times: z.optional(z.int().check(z.gte(1))),
  });
  const clock = z.strictObject({
    /** Unix ms. Default: as it is. */
    set_ms: z.optional(z.int()),
    /** On top of that; may be negative. */
    advance_ms: z.optional(z.int()),
    /** Virtual ms that go by in one of the platform's. */
    scale: z.optional(z.number().check(z.gt(0), z.lte(100_000))),
    /** Back to the platform's clock. */
    reset: z.optional(z.boolean()),
  });
  return { clock, faults: z.strictObject({ faults: z.array(fault) }), seed: z.strictObject({ seed: z.int() }) };
}

type FaultPoint = 'd1.before' | 'd1.after' | 'r2.before' | 'r2.after';
type Armed = z.infer<ReturnType<typeof schemas>['faults']>['faults'][number] & { hits: number };
let armed: Armed[] = [];

/** `POST /internal/test/clock`, `/faults` (replaces all; the answer has the hits so far) and `/seed`: signed as a backend's calls are. */
export function mountSeams(app: Hono<AppEnv>): void {
  const requests = schemas();
  app.use('*', async (c, next) => {
    watchStores(c.env);
    await next();
  });
  app.post('/internal/test/clock', async (c: Context<AppEnv>) => {
    const { set_ms, advance_ms = 0, scale, reset } = await readSignedJson(c, requests.clock);
    const virtualMs = (set_ms ?? nowMs()) + advance_ms;
    setTestClock(reset === true ? null : { virtualMs, platformMs: Date.now(), scale: scale ?? clockScale() });
    // Alarms were set by the clock as it was.
    await scheduler(c.env).wake();
    return c.json({ now_ms: nowMs(), scale: clockScale() });
  });
  app.post('/internal/test/faults', async (c: Context<AppEnv>) => {
    const hits = armed.map((fault) => fault.hits);
    armed = (await readSignedJson(c, requests.faults)).faults.map((fault) => ({ ...fault, hits: 0 }));
    return c.json({ hits });
  });
  app.post('/internal/test/seed', async (c: Context<AppEnv>) => {
    const { seed } = await readSignedJson(c, requests.seed);
    Math.random = seeded(seed);
    return c.json({ seed });
  });
}

/** mulberry32 */
function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

async function pass(point: FaultPoint, what: string): Promise<void> {
  for (const fault of armed) {
    if (fault.point !== point || (fault.match !== undefined && !what.includes(fault.match))) continue;
    const count = fault.hits - (fault.skip ?? 0);
    if (count >= (fault.times ?? 1)) continue;
    fault.hits++;
    if (count < 0) continue;
    if (fault.action === 'hang') await new Promise(() => {});
    if (fault.delay_ms !== undefined) await new Promise((resolve) => setTimeout(resolve, fault.delay_ms));
    if (fault.action === 'error') throw new Error(`${point}: a fault that a test has set`);
  }
}

type Method = (this: unknown, ...args: unknown[]) => Promise<unknown>;
const watched = new WeakSet<object>();

/** Lets faults stand around the stores' calls, for requests and objects alike: all bindings of a kind share their methods. */
function watchStores(env: Env): void {
  const statement = env.DB.prepare('SELECT 1') as object;
  const sqlOf = (value: unknown): string => {
    const sql = (value as { statement?: unknown }).statement;
    return typeof sql === 'string' ? sql : '';
  };
  watch(Object.getPrototypeOf(env.DB), ['batch'], 'd1', (_self, [statements]) =>
    (statements as unknown[]).map(sqlOf).join('; '),
  );
  watch(Object.getPrototypeOf(statement), ['run', 'all', 'first', 'raw'], 'd1', (self) => sqlOf(self));
  watch(
    Object.getPrototypeOf(env.BLOBS),
    ['get', 'put', 'delete', 'head', 'list'],
    'r2',
    (_self, [key], name) => `${name} ${String(key)}`,
  );
}

function watch(
  prototype: Record<string, unknown>,
  names: readonly string[],
  store: 'd1' | 'r2',
  describe: (self: unknown, args: readonly unknown[], name: string) => string,
): void {
  if (watched.has(prototype)) return;
  watched.add(prototype);
  for (const name of names) {
    const usual = prototype[name] as Method;
    prototype[name] = async function (this: unknown, ...args: unknown[]) {
      if (armed.length === 0) return usual.apply(this, args);
      const what = describe(this, args, name);
      await pass(`${store}.before`, what);
      const answer = await usual.apply(this, args);
      await pass(`${store}.after`, what);
      return answer;
    };
  }
}
