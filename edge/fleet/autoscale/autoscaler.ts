import { LIMITS } from '../../../shared/contract/limits.ts';
import type { Driver, Observed } from './driver.ts';
import {
  type JobDemand,
  newMemory,
  planReplicas,
  type ScalingConfig,
  type ScalingMemory,
  type ScalingPlan,
} from './plan.ts';
import type { FleetSnapshot, ScalingOutcome } from './snapshot.ts';

const S = LIMITS.scaling;
const COLD_STARTS_KEY = 'coldStartsMs';

export type AutoscalerOptions = {
  config: ScalingConfig;
  driver: Driver;
  /** Fine-tuning jobs that wait and that run. */
  jobs: () => Promise<JobDemand>;
  /** Outlives the object: how long starts took. */
  storage: {
    get(key: string): Promise<number[] | undefined>;
    put(key: string, value: number[]): Promise<void>;
  };
  log?: (line: object) => void;
};

/** Carries out `planReplicas` through a driver. One for an installation; `tick` is called by the fleet's object. */
export class Autoscaler {
  readonly #o: AutoscalerOptions;
  #memory: ScalingMemory | null = null;
  #observed: (Observed & { atMs: number }) | null = null;
  #jobs: (JobDemand & { atMs: number }) | null = null;
  /** When backends were asked for that have not registered yet, oldest first. */
  #pendingStarts: number[] = [];
  readonly #seen = new Set<string>();
  #coldStartsMs: number[] | null = null;
  #failures = 0;
  #retryAtMs = 0;
  #problem: string | null = null;
  #outcome: ScalingOutcome = {
    outlook: { canStart: true, coldStartMs: null },
    retiring: [],
    nextTickMs: S.busyTickMs,
  };
  #running: Promise<ScalingOutcome> | null = null;

  constructor(options: AutoscalerOptions) {
    this.#o = options;
  }

  /** What the last tick said. */
  get outcome(): ScalingOutcome {
    return this.#outcome;
  }

  /** For health and logs. */
  describe(): { driver: string; desired: number | null; running: number | null; problem: string | null } {
    return {
      driver: this.#o.driver.name,
      desired: this.#memory?.desired ?? null,
      running: this.#observed?.running ?? null,
      problem: this.#problem,
    };
  }

  /**
   * Looks, plans, acts. Never rejects: a driver that fails is logged and asked again later. While one tick runs, further calls share its outcome.
   * @param nowMs Unix ms
   */
  tick(fleet: FleetSnapshot, nowMs: number): Promise<ScalingOutcome> {
    this.#running ??= this.#tick(fleet, nowMs).finally(() => {
      this.#running = null;
    });
    return this.#running;
  }

  async #tick(fleet: FleetSnapshot, nowMs: number): Promise<ScalingOutcome> {
    const { config, storage } = this.#o;
    try {
      this.#coldStartsMs ??= (await storage.get(COLD_STARTS_KEY)) ?? [];
      await this.#noteStarts(fleet, nowMs);
      if (nowMs < this.#retryAtMs) return this.#outcome;
      const observed = await this.#observe(nowMs);
      const own = observed.ids === undefined ? fleet : { ...fleet, backends: ours(fleet.backends, observed.ids) };
      const jobs = await this.#countJobs(nowMs);
      this.#memory ??= newMemory(observed.desired, nowMs);
      const before = this.#memory;
      const plan = planReplicas({ fleet: own, jobs, memory: before }, config, nowMs);
      this.#memory = plan.memory;
      if (plan.desired !== before.desired)
        this.#log('info', 'backends_planned', { from: before.desired, to: plan.desired, reason: plan.reason });
      await this.#act(plan, observed, own, nowMs);
      this.#problem = observed.problem ?? null;
      this.#failures = 0;
      const isQuiet =
        plan.desired === 0 || (plan.desired === config.min && observed.starting === 0 && fleet.queue.length === 0);
      this.#outcome = {
        outlook: {
          canStart: config.max > 0 && this.#problem === null,
          coldStartMs: median(this.#coldStartsMs),
          ...(observed.isStopping === true ? { isStopping: true } : {}),
        },
        retiring: plan.retiring,
        nextTickMs: isQuiet && plan.retiring.length === 0 && !isWorking(own) ? S.idleTickMs : S.busyTickMs,
      };
    } catch (error) {
      this.#fail(error, nowMs);
    }
    return this.#outcome;
  }

  async #observe(nowMs: number): Promise<Observed> {
    const known = this.#observed;
    if (known !== null && nowMs - known.atMs < this.#o.driver.observeEveryMs) return known;
    const observed = await this.#o.driver.observe();
    this.#observed = { ...observed, atMs: nowMs };
    return observed;
  }

  async #countJobs(nowMs: number): Promise<JobDemand> {
    if (this.#jobs === null || nowMs - this.#jobs.atMs >= S.jobsEveryMs)
      this.#jobs = { ...(await this.#o.jobs()), atMs: nowMs };
    return this.#jobs;
  }

  /** Asks the driver for what is planned, unless that stands already. Fewer only as those become free that are to go. */
  async #act(plan: ScalingPlan, observed: Observed, fleet: FleetSnapshot, nowMs: number): Promise<void> {
    const { driver } = this.#o;
    const remove = plan.removable;
    // Those that only start have nothing to lose.
    const count = Math.max(plan.desired, observed.desired - observed.starting - remove.length);
    if (count === observed.desired) return;
    if (count < observed.desired) this.#pendingStarts = this.#pendingStarts.slice(observed.desired - count);
    for (let n = observed.desired; n < count; n++) this.#pendingStarts.push(nowMs);
    const keep = fleet.backends.filter(({ id, state }) => state === 'ready' && !remove.includes(id));
    await driver.scaleTo(count, remove, keep);
    this.#observed = null;
    this.#log('info', 'backends_scaled', { to: count, remove: remove.length, reason: plan.reason });
  }

  /** A new backend answers the oldest start that was asked for: that long it took, provisioning included. */
  async #noteStarts(fleet: FleetSnapshot, nowMs: number): Promise<void> {
    const times = this.#coldStartsMs ?? [];
    let isNew = false;
    for (const { id, state, startedAtMs } of fleet.backends) {
      if (state === 'gone' || this.#seen.has(id)) continue;
      this.#seen.add(id);
      const askedMs = this.#pendingStarts[0];
      if (askedMs === undefined || (startedAtMs !== null && startedAtMs < askedMs - 1_000)) continue;
      this.#pendingStarts.shift();
      times.push(nowMs - askedMs);
      isNew = true;
    }
    const there = new Set(fleet.backends.map(({ id }) => id));
    for (const id of this.#seen) if (!there.has(id)) this.#seen.delete(id);
    if (!isNew) return;
    times.splice(0, times.length - S.coldStarts);
    await this.#o.storage.put(COLD_STARTS_KEY, times);
  }

  #fail(error: unknown, nowMs: number): void {
    const pauseMs = Math.min(S.retryMs * 2 ** this.#failures, S.maxRetryMs);
    this.#failures++;
    this.#retryAtMs = nowMs + pauseMs;
    this.#observed = null;
    this.#problem = error instanceof Error ? error.message : String(error);
    // Once is an accident; a driver that goes on failing will start nobody, and who waits should hear so.
    const canStart = this.#failures < S.failuresUntilHopeless && this.#outcome.outlook.canStart;
    this.#outcome = {
      ...this.#outcome,
      outlook: { ...this.#outcome.outlook, canStart },
      nextTickMs: Math.max(S.busyTickMs, pauseMs),
    };
    this.#log('error', 'scaling_failed', { error: this.#problem, failures: this.#failures, retry_in_ms: pauseMs });
  }

  #log(level: 'info' | 'error', event: string, more: object): void {
    const line = { level, event, driver: this.#o.driver.name, ...more };
    if (this.#o.log !== undefined) this.#o.log(line);
    else console.log(JSON.stringify(line));
  }
}

function ours<T extends { id: string }>(backends: readonly T[], ids: readonly string[]): T[] {
  return backends.filter(({ id }) => ids.includes(id));
}

function isWorking({ backends, queue }: FleetSnapshot): boolean {
  return queue.length > 0 || backends.some(({ inFlight, state }) => inFlight > 0 && state !== 'gone');
}

function median(values: readonly number[]): number | null {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? null;
}
