/**
 * Who may ask which backend when: places, queues, breakers and the retry budget of one installation. No clock, no network, no storage in here: time
 * and chance come in, decisions go out, so that the whole runs under a virtual clock (test/null/edge/dispatcher.test.ts).
 */
import type { BackendReport, Priority } from '../../shared/contract/backend.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type BreakerState, breakerState, newBreaker, onFailure, onNeither, onSent, onSuccess } from './breaker.ts';
import { alive, type Backend, canServe, type Place, pick } from './pick.ts';
import { WaitingLine } from './waiting.ts';

const F = LIMITS.fleet;
/** Weight of the newest answer in running means. */
const MEAN_WEIGHT = 0.05;

/** One attempt of one request. */
export type Ask = {
  /** Unique for each attempt; names the place afterwards. */
  id: string;
  tenant: string;
  /** Base model. */
  model: string;
  tuned: string | null;
  affinity: string | null;
  /** Choices. */
  rows: number;
  /** Decoder positions. */
  cost: number;
  /** Bytes that the edge holds while it waits. */
  bytes: number;
  priority: Priority;
  /** Unix ms. */
  deadlineAtMs: number;
  /** 0: the first. */
  attempt: number;
  /** Backends that have already failed this request. */
  exclude: readonly string[];
};

export type Grant = {
  type: 'grant';
  id: string;
  backend: { id: string; url: string };
  waitedMs: number;
  /** Without an event by then the backend is given up, milliseconds. */
  firstEventMs: number;
};
export type RefusalReason = 'queue_full' | 'wait_too_long' | 'no_backend' | 'deadline' | 'retry_budget' | 'cancelled';
export type Refusal = { type: 'refusal'; reason: RefusalReason; retryAfterMs: number; expectedWaitMs: number };
export type Decision = Grant | Refusal;

/** How it went: `refused` = it was full or draining, `aborted` = the client left or the request itself was refused. */
export type Outcome = 'done' | 'unreachable' | 'failed' | 'refused' | 'aborted';

/** What an outside scaler can do for requests that find no backend. */
export type StartOutlook = {
  canStart: boolean;
  coldStartMs: number | null;
  /** The installation ends: nobody comes any more. */
  isStopping?: boolean;
};

type Waiter = Ask & { sinceMs: number };
type Lease = { ask: Ask; place: Place; sinceMs: number };

export class Dispatcher {
  readonly #places = new Map<string, Place>();
  readonly #leases = new Map<string, Lease>();
  readonly #lines: Record<Priority, WaitingLine<Waiter>> = { interactive: new WaitingLine(), batch: new WaitingLine() };
  readonly #runningOf = new Map<string, number>();
  readonly #decide: (id: string, decision: Decision) => void;
  readonly #random: () => number;
  outlook: StartOutlook = { canStart: false, coldStartMs: null };
  #retiring: ReadonlySet<string> = new Set();
  /** Since when the interactive line has not been empty; null: it is. */
  #standingSinceMs: number | null = null;
  #lastAliveAtMs = Number.NEGATIVE_INFINITY;
  #retryTokens: number = F.retryBurst;
  #meanServiceMs: number | null = null;
  #meanFirstEventMs: number | null = null;
  readonly counts = { asks: 0, grants: 0, retries: 0, refusals: 0, affinityHits: 0, affinityAsks: 0, breakerOpened: 0 };

  /** @param decide told what became of an ask that had to wait */
  constructor(decide: (id: string, decision: Decision) => void, random: () => number) {
    this.#decide = decide;
    this.#random = random;
  }

  /** Takes a report. @returns whether this backend was unknown or gone until now */
  report(report: BackendReport, nowMs: number): boolean {
    const known = this.#places.get(report.id);
    const isNew = known === undefined || nowMs - known.seenAtMs > LIMITS.backends.goneAfterMs;
    if (known === undefined) {
      const place = {
        report,
        seenAtMs: nowMs,
        since: nowMs,
        isUnreachable: false,
        busyUntilMs: 0,
        rows: 0,
        cost: 0,
        isRetiring: this.#retiring.has(report.id),
      };
      this.#places.set(report.id, { ...place, breaker: newBreaker() });
    } else {
      if (isNew || known.isUnreachable) known.since = nowMs;
      Object.assign(known, { report, seenAtMs: nowMs, isUnreachable: false });
    }
    this.#lastAliveAtMs = nowMs;
    this.tick(nowMs);
    return isNew;
  }

  /** These are sent nothing more; whoever is not named any more is. */
  retire(ids: readonly string[]): void {
    this.#retiring = new Set(ids);
    for (const place of this.#places.values()) place.isRetiring = this.#retiring.has(place.report.id);
  }

  /** Backends heard of lately. */
  backends(nowMs: number): Backend[] {
    const places = alive([...this.#places.values()], nowMs, LIMITS.backends.goneAfterMs);
    return places.filter(({ isUnreachable }) => !isUnreachable);
  }

  /** Decides at once, or returns null: it waits, and `decide` is told later. */
  ask(ask: Ask, nowMs: number): Decision | null {
    this.counts.asks++;
    if (ask.attempt === 0) this.#retryTokens = Math.min(F.retryBurst, this.#retryTokens + F.retryRatio);
    else if (this.#retryTokens < 1) return this.#refuse('retry_budget', nowMs);
    else {
      this.#retryTokens--;
      this.counts.retries++;
    }
    const line = this.#lines[ask.priority];
    const mayGoAhead = line.length === 0 && (ask.priority === 'interactive' || this.#lines.interactive.length === 0);
    const place = mayGoAhead ? this.#pick(ask, nowMs) : null;
    if (place !== null) return this.#grant(ask, place, nowMs, 0);
    const reason = this.#whyNotWait(ask, nowMs);
    if (reason !== null) return this.#refuse(reason, nowMs);
    line.add({ ...ask, sinceMs: nowMs }, ask.attempt > 0);
    this.#noteStanding(nowMs);
    // It may be of a model that has room although the first in the line have none.
    this.#drain(nowMs);
    return null;
  }

  /** The client has left while its request waited. */
  cancel(id: string, nowMs: number): void {
    for (const line of Object.values(this.#lines))
      for (const waiter of line.remove((one) => one.id === id))
        this.#decide(waiter.id, this.#refusal('cancelled', nowMs));
    this.#noteStanding(nowMs);
  }

  /** Gives a place back. Twice, or for a place that has expired, does nothing. @param firstEventMs time to the first event, where one came */
  release(id: string, outcome: Outcome, nowMs: number, firstEventMs?: number): void {
    const lease = this.#leases.get(id);
    if (lease === undefined) return;
    this.#leases.delete(id);
    const { ask, place, sinceMs } = lease;
    place.rows -= ask.rows;
    place.cost -= ask.cost;
    const running = (this.#runningOf.get(ask.tenant) ?? 0) - ask.rows;
    if (running > 0) this.#runningOf.set(ask.tenant, running);
    else this.#runningOf.delete(ask.tenant);
    if (firstEventMs !== undefined) this.#meanFirstEventMs = mean(this.#meanFirstEventMs, firstEventMs);
    switch (outcome) {
      case 'done':
        this.#meanServiceMs = mean(this.#meanServiceMs, nowMs - sinceMs);
        // An answer is as good a sign of life as a report, which may be late when the door is busy.
        place.seenAtMs = Math.max(place.seenAtMs, nowMs);
        if (onSuccess(place.breaker)) place.since = nowMs;
        break;
      case 'unreachable':
        place.isUnreachable = true;
        if (onFailure(place.breaker, nowMs)) this.counts.breakerOpened++;
        break;
      case 'failed':
        if (onFailure(place.breaker, nowMs)) this.counts.breakerOpened++;
        break;
      case 'refused':
        place.busyUntilMs = nowMs + F.busyMs;
        onNeither(place.breaker);
        break;
      case 'aborted':
        onNeither(place.breaker);
        break;
      default:
        outcome satisfies never;
    }
    this.#drain(nowMs);
  }

  /** To be called often while anybody waits: what time alone changes. */
  tick(nowMs: number): void {
    for (const [id, { ask }] of this.#leases)
      if (nowMs > ask.deadlineAtMs + F.leaseSlackMs) this.release(id, 'aborted', nowMs);
    for (const [id, place] of this.#places)
      if (place.rows === 0 && nowMs - place.seenAtMs > LIMITS.backends.goneAfterMs) this.#places.delete(id);
    this.#drain(nowMs);
    for (const line of Object.values(this.#lines)) {
      if (line.length === 0) continue;
      for (const waiter of line.remove(({ deadlineAtMs }) => deadlineAtMs <= nowMs))
        this.#decide(waiter.id, this.#refuse('deadline', nowMs));
      const held = line.remove(
        ({ model, sinceMs }) => nowMs - sinceMs > this.#holdMs() && !this.#isServed(model, nowMs),
      );
      for (const waiter of held) this.#decide(waiter.id, this.#refuse('no_backend', nowMs));
    }
    this.#noteStanding(nowMs);
  }

  get waiting(): number {
    return this.#lines.interactive.length + this.#lines.batch.length;
  }

  get leases(): number {
    return this.#leases.size;
  }

  /** For scaling, metrics and health. Times in ms. */
  snapshot(nowMs: number) {
    const waiters = [...this.#lines.interactive, ...this.#lines.batch];
    return {
      backends: [...this.#places.values()].map((place) => ({
        id: place.report.id,
        url: place.report.url,
        state:
          place.isUnreachable || nowMs - place.seenAtMs > LIMITS.backends.goneAfterMs
            ? ('gone' as const)
            : place.report.state,
        inFlight: place.rows,
        costTokens: place.cost,
        capacity: place.report.capacity,
        hasJob: place.report.hasJob ?? false,
        seenAtMs: place.seenAtMs,
        startedAtMs: place.report.startedAtMs ?? null,
        coldStartMs: place.report.coldStartMs ?? null,
        breaker: breakerState(place.breaker, nowMs) satisfies BreakerState,
      })),
      queue: {
        length: waiters.length,
        interactive: this.#lines.interactive.length,
        batch: this.#lines.batch.length,
        rows: this.#lines.interactive.rows + this.#lines.batch.rows,
        costTokens: waiters.reduce((sum, { cost }) => sum + cost, 0),
        oldestWaitMs: waiters.reduce((most, { sinceMs }) => Math.max(most, nowMs - sinceMs), 0),
      },
      meanServiceMs: this.#meanServiceMs,
      retryTokens: this.#retryTokens,
      counts: { ...this.counts },
    };
  }

  #isServed(model: string, nowMs: number): boolean {
    return [...this.#places.values()].some((place) => canServe(place, model, nowMs));
  }

  /** How long a request may wait while nobody serves its model. */
  #holdMs(): number {
    const { canStart, coldStartMs, isStopping } = this.outlook;
    if (isStopping) return 0;
    return canStart ? Math.max(F.holdMs, 2 * (coldStartMs ?? 0)) : F.restartHoldMs;
  }

  #pick(ask: Ask, nowMs: number): Place | null {
    const exclude = new Set(ask.exclude);
    const reserve = ask.priority === 'batch' ? F.interactiveReserve : 0;
    const places = [...this.#places.values()];
    const place = pick(places, { ...ask, exclude, reserve }, nowMs, this.#random());
    // Better the one that failed than none, if it has come back since.
    if (
      place !== null ||
      exclude.size === 0 ||
      places.some((one) => !exclude.has(one.report.id) && canServe(one, ask.model, nowMs))
    )
      return place;
    return pick(places, { ...ask, exclude: new Set(), reserve }, nowMs, this.#random());
  }

  #grant(ask: Ask, place: Place, nowMs: number, waitedMs: number): Grant {
    this.counts.grants++;
    place.rows += ask.rows;
    place.cost += ask.cost;
    onSent(place.breaker, nowMs);
    this.#runningOf.set(ask.tenant, (this.#runningOf.get(ask.tenant) ?? 0) + ask.rows);
    this.#leases.set(ask.id, { ask, place, sinceMs: nowMs });
    const usual = this.#meanFirstEventMs;
    const firstEventMs =
      usual === null ? F.maxFirstEventMs : Math.min(F.maxFirstEventMs, Math.max(F.minFirstEventMs, 20 * usual));
    return {
      type: 'grant',
      id: ask.id,
      backend: { id: place.report.id, url: place.report.url },
      waitedMs,
      firstEventMs,
    };
  }

  /** Gives places to who waits, interactive requests first. */
  #drain(nowMs: number): void {
    for (const priority of ['interactive', 'batch'] as const) {
      const line = this.#lines[priority];
      const full = new Set<string>();
      while (line.length > 0) {
        const waiter = line.next((tenant) => this.#runningOf.get(tenant) ?? 0, full);
        if (waiter === null) break;
        const place = this.#pick(waiter, nowMs);
        if (place === null) {
          full.add(waiter.model);
          continue;
        }
        line.take(waiter);
        this.#decide(waiter.id, this.#grant(waiter, place, nowMs, nowMs - waiter.sinceMs));
      }
      // What interactive requests wait for is not given to batches.
      if (line.length > 0) break;
    }
    this.#noteStanding(nowMs);
  }

  #noteStanding(nowMs: number): void {
    if (this.#lines.interactive.length === 0) this.#standingSinceMs = null;
    else this.#standingSinceMs ??= nowMs;
  }

  #whyNotWait(ask: Ask, nowMs: number): RefusalReason | null {
    const line = this.#lines[ask.priority];
    const { interactive, batch } = this.#lines;
    if (line.length >= F.maxQueued || interactive.bytes + batch.bytes + ask.bytes > F.maxQueuedBytes)
      return 'queue_full';
    if (line.lengthOf(ask.tenant) >= F.maxQueued / 2 && line.tenants > 1) return 'queue_full';
    if (ask.deadlineAtMs <= nowMs) return 'deadline';
    if (!this.#isServed(ask.model, nowMs)) {
      const { canStart, coldStartMs, isStopping } = this.outlook;
      if (isStopping) return 'no_backend';
      const wasThere = nowMs - this.#lastAliveAtMs < F.restartHoldMs + LIMITS.backends.goneAfterMs;
      return (canStart && (coldStartMs ?? 0) <= F.holdMs) || wasThere ? null : 'no_backend';
    }
    // A batch has a day; what is being tried again has already been let in.
    if (ask.priority === 'batch' || ask.attempt > 0) return null;
    const isStanding = this.#standingSinceMs !== null && nowMs - this.#standingSinceMs > F.standingAfterMs;
    const most = isStanding ? Math.max(F.standingWaitMs, this.#meanServiceMs ?? 0) : F.burstWaitMs;
    return this.#expectedWaitMs(nowMs) > most ? 'wait_too_long' : null;
  }

  /** Little's law over the places there are: what waits ahead, by what is answered in a service time. */
  #expectedWaitMs(nowMs: number): number {
    const places = this.backends(nowMs).reduce((sum, { report }) => sum + report.capacity, 0);
    const rows = this.#lines.interactive.rows;
    return this.#meanServiceMs === null || places === 0 ? 0 : (rows / places) * this.#meanServiceMs;
  }

  #refuse(reason: RefusalReason, nowMs: number): Refusal {
    this.counts.refusals++;
    return this.#refusal(reason, nowMs);
  }

  #refusal(reason: RefusalReason, nowMs: number): Refusal {
    const expectedWaitMs = Math.round(this.#expectedWaitMs(nowMs));
    const byStart = this.outlook.canStart ? (this.outlook.coldStartMs ?? 2_000) : 2_000;
    const retryAfterMs = reason === 'no_backend' ? byStart : Math.min(30_000, Math.max(1_000, expectedWaitMs));
    return { type: 'refusal', reason, retryAfterMs: Math.round(retryAfterMs), expectedWaitMs };
  }
}

function mean(before: number | null, value: number): number {
  return before === null ? value : before + MEAN_WEIGHT * (value - before);
}
