/** The dispatcher under a virtual clock: backends are numbers here (so many answers at once, each taking so long), requests arrive as told. */
import { type Ask, type Decision, Dispatcher, type Outcome } from '../../../edge/fleet/dispatcher.ts';
import type { BackendReport } from '../../../shared/contract/backend.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { report } from './fleet-fixtures.ts';

export type SimulatedBackend = {
  id: string;
  capacity: number;
  /** How one answer goes: after so long, with this outcome. */
  serve: (nowMs: number) => { afterMs: number; outcome: Outcome };
  startsAtMs?: number;
  stopsAtMs?: number;
};

export type Finished = {
  ask: Ask;
  arrivedAtMs: number;
  endedAtMs: number;
  result: 'done' | 'failed' | 'cancelled' | Extract<Decision, { type: 'refusal' }>['reason'];
  attempts: number;
};

type Event = { atMs: number; order: number; run: () => void };

/** Mulberry32: the same seed gives the same run. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class Simulation {
  nowMs = 1_000_000;
  readonly dispatcher: Dispatcher;
  readonly finished: Finished[] = [];
  /** Calls of backends by id. */
  readonly calls = new Map<string, number>();
  mostWaiting = 0;
  readonly #events: Event[] = [];
  readonly #waiting = new Map<string, (decision: Decision) => void>();
  readonly #backends: ReadonlyMap<string, SimulatedBackend>;
  #order = 0;
  #ids = 0;

  constructor(
    backends: readonly SimulatedBackend[],
    readonly random: () => number = seeded(1),
  ) {
    this.#backends = new Map(backends.map((backend) => [backend.id, backend]));
    this.dispatcher = new Dispatcher((id, decision) => {
      this.#waiting.get(id)?.(decision);
      this.#waiting.delete(id);
    }, random);
    const startMs = this.nowMs;
    for (const { id, capacity, startsAtMs = 0, stopsAtMs = Number.POSITIVE_INFINITY } of backends) {
      const said: BackendReport = report(id, { capacity });
      const beat = () => {
        if (this.nowMs - startMs >= stopsAtMs) return;
        this.dispatcher.report(said, this.nowMs);
        this.at(LIMITS.backends.heartbeatEveryMs, beat);
      };
      this.at(startsAtMs, beat);
    }
    const tick = () => {
      this.dispatcher.tick(this.nowMs);
      this.mostWaiting = Math.max(this.mostWaiting, this.dispatcher.waiting);
      this.at(100, tick);
    };
    this.at(0, tick);
  }

  at(afterMs: number, run: () => void): void {
    this.#events.push({ atMs: this.nowMs + afterMs, order: this.#order++, run });
    // A binary heap: sift up.
    let i = this.#events.length - 1;
    while (i > 0) {
      const up = (i - 1) >> 1;
      if (!before(this.#events[i]!, this.#events[up]!)) break;
      [this.#events[i], this.#events[up]] = [this.#events[up]!, this.#events[i]!];
      i = up;
    }
  }

  run(forMs: number): void {
    const endMs = this.nowMs + forMs;
    while (this.#events.length > 0 && this.#events[0]!.atMs <= endMs) {
      const event = this.#pop();
      this.nowMs = event.atMs;
      event.run();
    }
    this.nowMs = endMs;
  }

  /** Arrivals at random (Poisson) from now on. */
  load(perSecond: number, forMs: number, more: Partial<Ask> = {}): void {
    for (let at = 0; ; ) {
      at += (-Math.log(1 - this.random()) / perSecond) * 1_000;
      if (at >= forMs) return;
      this.at(at, () => this.request(more));
    }
  }

  /** One request with its retries, as the edge makes them. */
  request(more: Partial<Ask> = {}): void {
    const arrivedAtMs = this.nowMs;
    const exclude: string[] = [];
    const attempt = (number: number): void => {
      const ask: Ask = {
        id: `r${this.#ids++}`,
        tenant: 't',
        model: 'm',
        tuned: null,
        affinity: null,
        rows: 1,
        cost: 10,
        bytes: 100,
        priority: 'interactive',
        deadlineAtMs: arrivedAtMs + 300_000,
        ...more,
        attempt: number,
        exclude: [...exclude],
      };
      const end = (result: Finished['result']) =>
        this.finished.push({ ask, arrivedAtMs, endedAtMs: this.nowMs, result, attempts: number + 1 });
      const onDecision = (decision: Decision) => {
        if (decision.type === 'refusal') return void end(decision.reason);
        const { id } = decision.backend;
        this.calls.set(id, (this.calls.get(id) ?? 0) + 1);
        const backend = this.#backends.get(id)!;
        const { afterMs, outcome } = backend.serve(this.nowMs);
        this.at(afterMs, () => {
          this.dispatcher.release(ask.id, outcome, this.nowMs, Math.min(afterMs, 50));
          if (outcome === 'done') return void end('done');
          exclude.push(id);
          if (number + 1 < LIMITS.fleet.maxAttempts) attempt(number + 1);
          else end('failed');
        });
      };
      const decision = this.dispatcher.ask(ask, this.nowMs);
      if (decision === null) this.#waiting.set(ask.id, onDecision);
      else onDecision(decision);
    };
    attempt(0);
  }

  /** Answers given between two times since the start, in answers a second. */
  goodput(fromMs: number, toMs: number): number {
    const [from, to] = [1_000_000 + fromMs, 1_000_000 + toMs];
    const done = this.finished.filter(
      ({ result, endedAtMs }) => result === 'done' && endedAtMs >= from && endedAtMs < to,
    );
    return (done.length / (toMs - fromMs)) * 1_000;
  }

  #pop(): Event {
    const events = this.#events;
    const first = events[0]!;
    const last = events.pop()!;
    if (events.length === 0) return first;
    events[0] = last;
    for (let i = 0; ; ) {
      let least = i;
      for (const child of [2 * i + 1, 2 * i + 2])
        if (child < events.length && before(events[child]!, events[least]!)) least = child;
      if (least === i) return first;
      [events[i], events[least]] = [events[least]!, events[i]!];
      i = least;
    }
  }
}

function before(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
