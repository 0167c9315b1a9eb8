/** Where the counts of all isolates add up. Isolates tell at most once a second, beside their requests; nothing waits for it. */
import { DurableObject } from 'cloudflare:workers';
import { newId } from '../../shared/wire/ids.ts';
import type { Env } from '../env.ts';
import { takeCounts } from './metrics.ts';
import { addDelta, type Delta } from './recorder.ts';

const FLUSH_EVERY_MS = 1_000;
/** What is in memory only may be lost with the object; on disk it is at most this much older. */
const PERSIST_EVERY_MS = 5_000;
const MAX_REPORTERS = 1_000;

/** One telling of one isolate; told again after a failure, it is counted once. */
export type Report = { reporter: string; sequence: number; delta: Delta };

/** There is one an installation. Counts outlive restarts: a counter that begins anew would look like traffic to nobody. */
export class Metrics extends DurableObject<Env> {
  #totals: Delta = {};
  readonly #lastSequence = new Map<string, number>();
  #isDirty = false;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    void ctx.blockConcurrencyWhile(async () => {
      this.#totals = (await ctx.storage.get<Delta>('totals')) ?? {};
    });
  }

  async add({ reporter, sequence, delta }: Report): Promise<void> {
    if (sequence <= (this.#lastSequence.get(reporter) ?? 0)) return;
    if (this.#lastSequence.size >= MAX_REPORTERS) this.#lastSequence.clear();
    this.#lastSequence.set(reporter, sequence);
    addDelta(this.#totals, delta);
    if (this.#isDirty) return;
    this.#isDirty = true;
    await this.ctx.storage.setAlarm(Date.now() + PERSIST_EVERY_MS);
  }

  totals(): Delta {
    return this.#totals;
  }

  override async alarm(): Promise<void> {
    this.#isDirty = false;
    await this.ctx.storage.put('totals', this.#totals);
  }
}

/** The one collector, found by name. */
export function collector(env: Env): DurableObjectStub<Metrics> {
  return env.METRICS.get(env.METRICS.idFromName('metrics'));
}

// An isolate may not draw random numbers before its first request.
let reporter: string | null = null;
let sequence = 0;
let scheduledAtMs = 0;
let unsent: Report | null = null;

/** Tells what has been counted, unless it is about to be told; costs a comparison where it is. @param ctx keeps the telling alive */
export function flushSoon(env: Env, ctx: Pick<ExecutionContext, 'waitUntil'>): void {
  const nowMs = Date.now();
  if (nowMs - scheduledAtMs < FLUSH_EVERY_MS) return;
  scheduledAtMs = nowMs;
  ctx.waitUntil(new Promise((resolve) => setTimeout(resolve, FLUSH_EVERY_MS)).then(() => flush(env)));
}

/** Tells now. A failure is told again the next time, under the same number, so that nothing is lost or counted twice. */
export async function flush(env: Env): Promise<void> {
  try {
    if (unsent !== null) await send(env, unsent);
    const delta = takeCounts();
    if (delta === null) return;
    reporter ??= newId('req_');
    unsent = { reporter, sequence: ++sequence, delta };
    await send(env, unsent);
  } catch (error) {
    console.error(JSON.stringify({ level: 'warn', event: 'metrics_not_told', error: String(error) }));
  }
}

async function send(env: Env, report: Report): Promise<void> {
  await collector(env).add(report);
  if (unsent === report) unsent = null;
}
