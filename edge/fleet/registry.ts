import { DurableObject } from 'cloudflare:workers';
import type { BackendReport } from '../../shared/contract/backend.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { ModelCard } from '../../shared/contract/models.ts';
import { type Env, fleet } from '../env.ts';
import { type Ask, type Decision, Dispatcher, type Outcome } from './dispatcher.ts';
import { alive, type Backend, servedModels } from './pick.ts';

/** Deadlines and holds are looked at this often while anybody waits or is answered. */
const TICK_MS = 100;
const CARDS = 'cards';

/**
 * Who is there and who asks them: the dispatcher's memory, its clock and its waiting callers. A lost object is whole again after one heartbeat; only
 * the models' cards are stored, so that requests can be judged while no backend runs.
 */
export class Fleet extends DurableObject<Env> {
  readonly #waiting = new Map<string, (decision: Decision) => void>();
  readonly #dispatcher = new Dispatcher((id, decision) => this.#decide(id, decision), Math.random);
  #ticker: ReturnType<typeof setInterval> | null = null;
  #cards: ModelCard[] = [];

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    void ctx.blockConcurrencyWhile(async () => {
      this.#cards = (await ctx.storage.get<ModelCard[]>(CARDS)) ?? [];
    });
  }

  /** Takes a report. @returns whether this backend was unknown or gone until now */
  async report(report: BackendReport): Promise<boolean> {
    const isNew = this.#dispatcher.report(report, Date.now());
    if (isNew) {
      // What is served now; of nobody else is anything known.
      this.#cards = [...servedModels(this.#dispatcher.backends(Date.now())).values()];
      await this.ctx.storage.put(CARDS, this.#cards);
    }
    return isNew;
  }

  /** Backends heard of lately, and the models that were served last, whoever runs now. */
  list(): { backends: Backend[]; cards: ModelCard[] } {
    return { backends: this.#dispatcher.backends(Date.now()), cards: this.#cards };
  }

  /** Waits until the request may go to a backend, or is refused. What is granted must be released. */
  acquire(ask: Ask): Promise<Decision> | Decision {
    const decision = this.#dispatcher.ask(ask, Date.now());
    this.#keepTime();
    if (decision !== null) return decision;
    return new Promise((resolve) => this.#waiting.set(ask.id, resolve));
  }

  cancel(id: string): void {
    this.#dispatcher.cancel(id, Date.now());
  }

  release(id: string, outcome: Outcome, firstEventMs?: number): void {
    this.#dispatcher.release(id, outcome, Date.now(), firstEventMs);
  }

  snapshot(): ReturnType<Dispatcher['snapshot']> {
    return this.#dispatcher.snapshot(Date.now());
  }

  #decide(id: string, decision: Decision): void {
    this.#waiting.get(id)?.(decision);
    this.#waiting.delete(id);
  }

  #keepTime(): void {
    this.#ticker ??= setInterval(() => {
      this.#dispatcher.tick(Date.now());
      if (this.#dispatcher.waiting > 0 || this.#dispatcher.leases > 0) return;
      clearInterval(this.#ticker);
      this.#ticker = null;
    }, TICK_MS);
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
  return new Map((cached?.cards ?? []).map((card) => [card.id, card]));
}
