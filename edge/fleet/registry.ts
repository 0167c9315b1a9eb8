import { DurableObject } from 'cloudflare:workers';
import type { BackendReport } from '../../shared/contract/backend.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type Env, fleet } from '../env.ts';
import { alive, type Backend } from './pick.ts';

/** Who is there, in memory only: a lost registry is whole again after one heartbeat. */
export class Fleet extends DurableObject<Env> {
  readonly #backends = new Map<string, Backend>();

  /** Takes a report. @returns whether this backend was unknown or gone until now. */
  report(report: BackendReport): boolean {
    const nowMs = Date.now();
    const known = this.#backends.get(report.id);
    this.#backends.set(report.id, { report, seenAtMs: nowMs });
    return known === undefined || nowMs - known.seenAtMs > LIMITS.backends.goneAfterMs;
  }

  /** Backends heard of lately; the others are forgotten here. */
  list(): Backend[] {
    const live = alive([...this.#backends.values()], Date.now(), LIMITS.backends.goneAfterMs);
    if (live.length < this.#backends.size) {
      this.#backends.clear();
      for (const backend of live) this.#backends.set(backend.report.id, backend);
    }
    return live;
  }
}

/** The isolate's copy, so that most requests make no call to the object. */
const CACHE_MS = 500;
let cached: { backends: Backend[]; untilMs: number } | null = null;

/** Live backends, at most `CACHE_MS` old. @param fresh asks the object itself, for when the copy knows nobody that fits. */
export async function liveBackends(env: Env, fresh = false): Promise<Backend[]> {
  const nowMs = Date.now();
  if (fresh || cached === null || cached.untilMs < nowMs || cached.backends.length === 0) {
    cached = { backends: (await fleet(env).list()) as Backend[], untilMs: nowMs + CACHE_MS };
  }
  return alive(cached.backends, nowMs, LIMITS.backends.goneAfterMs);
}
