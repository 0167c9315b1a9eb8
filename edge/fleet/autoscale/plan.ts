/**
 * How many backends there should be, and which may go. Pure: state and time come in, a plan goes out.
 *
 * Wanted are as many as carry the answers being worked on and waited for, in answers and in decoder positions (an image is hundreds of them), at
 * `targetLoad` of what a backend takes; one more than there are while the first in the queue has waited for too long, whatever the arithmetic says;
 * and one for each job. What is wanted must have been wanted for a while before anything is done: the least of the last `upAfterMs` raises, the most
 * of the last `downAfterMs` lowers (as the stabilisation windows of Kubernetes' HorizontalPodAutoscaler do), so load that swings within a window
 * changes nothing. Only the first backend of all is started at once.
 */
import type { BackendSnapshot, FleetSnapshot } from './snapshot.ts';

export type ScalingConfig = {
  /** Backends there are at least and at most. */
  min: number;
  max: number;
  /** Backends beyond what the load wants, while there is any. */
  buffer: number;
  /** Without any work for so long, only `min` stay. */
  idleMs: number;
  upAfterMs: number;
  downAfterMs: number;
  /** Share of a backend's places that is filled before another is wanted, 0 … 1. */
  targetLoad: number;
  /** Who has waited longer wants another backend. */
  maxWaitMs: number;
  /** What a backend is taken to carry before any has reported, or where it does not say: answers and decoder positions. */
  rowsPerBackend: number;
  tokensPerBackend: number;
};

/** Fine-tuning jobs that no backend has yet, and those that run. */
export type JobDemand = { queued: number; running: number };

/** What was wanted, until when: until the plan after. */
type Want = { untilMs: number; count: number };

/** Carried from plan to plan; plain data, bounded by `max`. */
export type ScalingMemory = {
  desired: number;
  /** Unix ms of the last moment with any work; null: none yet. */
  workedAtMs: number | null;
  /** Counts wanted in the last `upAfterMs`, each less than all later ones; the first is their least. */
  lows: readonly Want[];
  /** Counts wanted in the last `downAfterMs`, each more than all later ones; the first is their most. */
  highs: readonly Want[];
  /** Ids of backends that are to end. */
  retiring: readonly string[];
  /** Of the last backends that were ready: what one carries. */
  rows: number | null;
  tokens: number | null;
};

export type ScalingState = { fleet: FleetSnapshot; jobs: JobDemand; memory: ScalingMemory };

export type ScalingPlan = {
  desired: number;
  /** For logs: what decides. */
  reason: string;
  /** To be sent nothing new. */
  retiring: readonly string[];
  /** Of these, those that have nothing left to do and may be ended. */
  removable: readonly string[];
  memory: ScalingMemory;
};

/** @param running backends there are now, those that start included: nothing is ended before a whole `downAfterMs` was seen */
export function newMemory(running: number, nowMs: number): ScalingMemory {
  const seen = [{ untilMs: nowMs, count: running }];
  return { desired: running, workedAtMs: null, lows: [], highs: seen, retiring: [], rows: null, tokens: null };
}

export function planReplicas({ fleet, jobs, memory }: ScalingState, config: ScalingConfig, nowMs: number): ScalingPlan {
  const ready = fleet.backends.filter(({ state }) => state === 'ready');
  const rows = mean(ready.map(({ capacity }) => capacity)) ?? memory.rows;
  const tokens = mean(ready.flatMap(({ capacityTokens }) => capacityTokens ?? [])) ?? memory.tokens;
  const { count, reason, works } = wanted(fleet, jobs, ready.length, {
    ...config,
    rowsPerBackend: rows ?? config.rowsPerBackend,
    tokensPerBackend: tokens ?? config.tokensPerBackend,
  });
  const workedAtMs = works ? nowMs : memory.workedAtMs;
  const isIdle = workedAtMs === null || nowMs - workedAtMs >= config.idleMs;
  const want = isIdle ? config.min : clamp(Math.max(count, 1) + config.buffer, config);

  const lows = pushed(memory.lows, { untilMs: nowMs, count: want }, config.upAfterMs, (a, b) => a < b);
  const highs = pushed(memory.highs, { untilMs: nowMs, count: want }, config.downAfterMs, (a, b) => a > b);
  let least = clamp(lows[0]?.count ?? want, config);
  const most = clamp(highs[0]?.count ?? want, config);
  // Somebody waits, and nobody is there: that is not a swing.
  if (memory.desired === 0 && want > 0) least = Math.max(least, 1);
  const before = clamp(memory.desired, config);
  const desired = Math.max(least, Math.min(most, before));

  const retiring = toRetire(ready, ready.length - desired, memory.retiring);
  const removable = retiring.flatMap(({ id, inFlight, hasJob }) =>
    // Not at once: what was on its way when it was named has arrived by the next plan.
    inFlight === 0 && !hasJob && memory.retiring.includes(id) ? [id] : [],
  );
  const ids = retiring.map(({ id }) => id);
  return {
    desired,
    reason: desired === want ? (isIdle ? 'idle' : reason) : `${isIdle ? 'idle' : reason}, not yet for long enough`,
    retiring: ids,
    removable,
    memory: { desired, workedAtMs, lows, highs, retiring: ids, rows, tokens },
  };
}

/** Backends that the work of this moment wants, and what about it decides. */
function wanted(
  { backends, queue, knowsModels = true }: FleetSnapshot,
  jobs: JobDemand,
  ready: number,
  config: ScalingConfig,
): { count: number; reason: string; works: boolean } {
  const there = backends.filter(({ state }) => state !== 'gone');
  const rows = there.reduce((sum, { inFlight }) => sum + inFlight, queue.rows);
  const tokens = there.reduce((sum, { costTokens }) => sum + costTokens, queue.costTokens);
  const running = Math.max(jobs.running, there.filter(({ hasJob }) => hasJob).length);
  const reasons: readonly (readonly [number, string])[] = [
    [Math.ceil(rows / (config.rowsPerBackend * config.targetLoad)), `${rows} ${rows === 1 ? 'answer' : 'answers'}`],
    [Math.ceil(tokens / (config.tokensPerBackend * config.targetLoad)), `${tokens} decoder positions`],
    [jobs.queued + running, `${jobs.queued} jobs wait, ${running} run`],
    [queue.oldestWaitMs > config.maxWaitMs ? ready + 1 : 0, `the first has waited ${queue.oldestWaitMs} ms`],
    [knowsModels ? 0 : 1, 'nobody has said which models there are'],
  ];
  const [count, reason] = reasons.reduce((most, one) => (one[0] > most[0] ? one : most));
  return { count, reason, works: rows + queue.length + jobs.queued + running > 0 || !knowsModels };
}

/**
 * Appends to a window in which only those are kept that no later one surpasses, so that its first is its extreme.
 * @param isKept whether an earlier count stays beside a later one
 */
function pushed(
  window: readonly Want[],
  want: Want,
  lengthMs: number,
  isKept: (earlier: number, later: number) => boolean,
): Want[] {
  const kept = window
    .map((one, i) => (i === window.length - 1 ? { ...one, untilMs: want.untilMs } : one))
    .filter(({ untilMs, count }) => want.untilMs - untilMs < lengthMs && isKept(count, want.count));
  return [...kept, want];
}

/** The emptiest first, of these the youngest: its caches have the least in them. One that is already on its way out stays so before others follow it. */
function toRetire(ready: readonly BackendSnapshot[], excess: number, already: readonly string[]): BackendSnapshot[] {
  if (excess <= 0) return [];
  const known = new Set(already);
  return ready
    .filter(({ hasJob }) => !hasJob)
    .sort(
      (a, b) =>
        Number(known.has(b.id)) - Number(known.has(a.id)) ||
        a.inFlight - b.inFlight ||
        a.costTokens - b.costTokens ||
        (b.startedAtMs ?? 0) - (a.startedAtMs ?? 0),
    )
    .slice(0, excess);
}

function clamp(count: number, { min, max }: Pick<ScalingConfig, 'min' | 'max'>): number {
  return Math.min(Math.max(count, min), Math.max(min, max));
}

function mean(values: readonly number[]): number | null {
  return values.length === 0 ? null : values.reduce((a, b) => a + b, 0) / values.length;
}
