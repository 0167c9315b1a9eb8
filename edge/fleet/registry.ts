import { DurableObject } from 'cloudflare:workers';
import type { BackendReport } from '../../shared/contract/backend.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { ModelCard } from '../../shared/contract/models.ts';
import { type Env, fleet } from '../env.ts';
import type { Autoscaler } from './autoscale/autoscaler.ts';
import { openAutoscaler } from './autoscale/open.ts';
import { type Ask, type Decision, Dispatcher, type Outcome } from './dispatcher.ts';
import { alive, type Backend, servedModels } from './pick.ts';

/** Deadlines and holds are looked at this often while anybody waits or is answered. */
const TICK_MS = 100;
const CARDS = 'cards';

/** The fleet as health and metrics see it. */
export type FleetState = ReturnType<Dispatcher['snapshot']> & {
  /** Null: nobody scales. */
  scaler: ReturnType<Autoscaler['describe']> | null;
  /** Why nobody scales although somebody should. */
  scalerProblem: string | null;
};

/**
 * Who is there and who asks them: the dispatcher's memory, its clock and its waiting callers; and the autoscaler's clock. A lost object is whole again
 * after one heartbeat; only the models' cards are stored, so that requests can be judged while no backend runs.
 */
export class Fleet extends DurableObject<Env> {
  readonly #waiting = new Map<string, (decision: Decision) => void>();
  readonly #dispatcher = new Dispatcher((id, decision) => this.#decide(id, decision), Math.random);
  #ticker: ReturnType<typeof setInterval> | null = null;
  #cards: ModelCard[] = [];
  /** Who waits for any backend at all, because no model was ever seen. */
  readonly #strangers = new Set<() => void>();
  #autoscaler: Autoscaler | null = null;
  #scalerProblem: string | null = null;
  #scaleAtMs = 0;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    void ctx.blockConcurrencyWhile(async () => {
      this.#cards = (await ctx.storage.get<ModelCard[]>(CARDS)) ?? [];
      try {
        this.#autoscaler = await openAutoscaler(env, ctx.storage);
      } catch (error) {
        this.#scalerProblem = error instanceof Error ? error.message : String(error);
        console.error(JSON.stringify({ level: 'error', event: 'scaler_unusable', error: this.#scalerProblem }));
      }
      if (this.#autoscaler !== null) this.#dispatcher.outlook = this.#autoscaler.outcome.outlook;
      await ctx.storage.setAlarm(Date.now());
    });
  }

  /** Takes a report. @returns whether this backend was unknown or gone until now */
  async report(report: BackendReport): Promise<boolean> {
    const isNew = this.#dispatcher.report(report, Date.now());
    if (isNew) {
      // What is served now; of nobody else is anything known.
      this.#cards = [...servedModels(this.#dispatcher.backends(Date.now())).values()];
      for (const goOn of this.#strangers) goOn();
      await this.ctx.storage.put(CARDS, this.#cards);
    }
    this.#scale();
    return isNew;
  }

  /** Backends heard of lately, and the models that were served last, whoever runs now. */
  list(): { backends: Backend[]; cards: ModelCard[] } {
    return { backends: this.#dispatcher.backends(Date.now()), cards: this.#cards };
  }

  /** As `list`; where no model was ever seen but a backend may be started, waits for the first one. */
  async first(): Promise<{ backends: Backend[]; cards: ModelCard[] }> {
    if (this.#cards.length === 0 && this.#dispatcher.outlook.canStart) {
      let goOn = () => {};
      const come = new Promise<void>((resolve) => (goOn = resolve));
      this.#strangers.add(goOn);
      this.#scale(true);
      this.#keepTime();
      const timeout = setTimeout(goOn, LIMITS.fleet.holdMs);
      await come;
      clearTimeout(timeout);
      this.#strangers.delete(goOn);
    }
    return this.list();
  }

  /** Waits until the request may go to a backend, or is refused. What is granted must be released. */
  acquire(ask: Ask): Promise<Decision> | Decision {
    const decision = this.#dispatcher.ask(ask, Date.now());
    this.#keepTime();
    if (decision !== null) return decision;
    const decided = new Promise<Decision>((resolve) => this.#waiting.set(ask.id, resolve));
    this.#scale(this.#dispatcher.waiting === 1);
    return decided;
  }

  cancel(id: string): void {
    this.#dispatcher.cancel(id, Date.now());
  }

  release(id: string, outcome: Outcome, firstEventMs?: number): void {
    this.#dispatcher.release(id, outcome, Date.now(), firstEventMs);
  }

  state(): FleetState {
    const scaler = this.#autoscaler?.describe() ?? null;
    return { ...this.#dispatcher.snapshot(Date.now()), scaler, scalerProblem: this.#scalerProblem };
  }

  /** What a queued job or batch calls, so that somebody is there to take it. */
  wake(): void {
    this.#scale(true);
  }

  override alarm(): void {
    this.#scale();
    if (this.#ticker === null) this.#armAlarm();
  }

  #decide(id: string, decision: Decision): void {
    this.#waiting.get(id)?.(decision);
    this.#waiting.delete(id);
  }

  #keepTime(): void {
    this.#ticker ??= setInterval(() => {
      this.#dispatcher.tick(Date.now());
      this.#scale();
      if (this.#dispatcher.waiting > 0 || this.#dispatcher.leases > 0 || this.#strangers.size > 0) return;
      clearInterval(this.#ticker);
      this.#ticker = null;
      this.#armAlarm();
    }, TICK_MS);
  }

  /** Looks whether backends are to be started or ended, if it is time to. @param now it is */
  #scale(now = false): void {
    const nowMs = Date.now();
    if (this.#autoscaler === null || (!now && nowMs < this.#scaleAtMs)) return;
    const snapshot = this.#dispatcher.snapshot(nowMs);
    snapshot.queue.length += this.#strangers.size;
    snapshot.queue.rows += this.#strangers.size;
    this.#scaleAtMs = nowMs + TICK_MS;
    const done = this.#autoscaler.tick(snapshot, nowMs).then(({ outlook, retiring, nextTickMs }) => {
      this.#dispatcher.outlook = outlook;
      this.#dispatcher.retire(retiring);
      this.#scaleAtMs = Date.now() + nextTickMs;
      if (this.#ticker === null) this.#armAlarm();
    });
    this.ctx.waitUntil(done);
  }

  /** Wakes this object when nobody else does. */
  #armAlarm(): void {
    if (this.#autoscaler !== null)
      this.ctx.waitUntil(this.ctx.storage.setAlarm(Math.max(this.#scaleAtMs, Date.now() + TICK_MS)));
  }
}

/** The isolate's copy, so that most requests make no call to the object. */
const CACHE_MS = 500;
let cached: { backends: Backend[]; cards: ModelCard[]; untilMs: number } | null = null;

/** Live backends, at most `CACHE_MS` old. @param fresh asks the object itself, for when the copy knows nobody that fits. */
export async function liveBackends(env: Env, fresh = false): Promise<Backend[]> {
  const nowMs = Date.now();
  if (fresh || cached === null || cached.untilMs < nowMs || cached.backends.length === 0) {
    const { backends, cards } = (await fleet(env).list()) as { backends: Backend[]; cards: ModelCard[] };
    cached = { backends, cards, untilMs: nowMs + CACHE_MS };
  }
  return alive(cached.backends, nowMs, LIMITS.backends.goneAfterMs);
}

/** Cards of what is served now or, while nobody serves anything, of what was served last. @param fresh as for `liveBackends` */
export async function knownModels(env: Env, fresh = false): Promise<Map<string, ModelCard>> {
  const live = servedModels(await liveBackends(env, fresh));
  if (live.size > 0) return live;
  const cards = cached?.cards ?? [];
  if (cards.length > 0 || !fresh) return new Map(cards.map((card) => [card.id, card]));
  const { backends, cards: first } = (await fleet(env).first()) as { backends: Backend[]; cards: ModelCard[] };
  cached = { backends, cards: first, untilMs: Date.now() + CACHE_MS };
  return new Map(first.map((card) => [card.id, card]));
}
