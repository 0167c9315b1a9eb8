/** A fleet under a virtual clock that does what `planReplicas` plans: backends take time to start, answers take time to give, requests wait in order. */
import { newMemory, planReplicas, type ScalingConfig } from '../../../edge/fleet/autoscale/plan.ts';
import type { BackendSnapshot } from '../../../edge/fleet/autoscale/snapshot.ts';

/** Arrivals a second at a time. */
export type Load = (ms: number) => number;

type Sim = { id: string; readyAtMs: number; bornMs: number; endsAtMs: number[] };
type Options = { coldStartMs: number; serviceMs: number; capacity: number; diesEveryMs?: number };
type Trace = { ms: number; desired: number; running: number };

const STEP_MS = 100;
const TICK_MS = 500;
const TOKENS = 300;

export class ScaledFleet {
  constructor(
    readonly config: ScalingConfig,
    readonly options: Options,
  ) {}

  run(load: Load, forMs: number): { trace: Trace[]; refused: number; lost: number; longestWaitMs: number } {
    const { coldStartMs, serviceMs, capacity, diesEveryMs } = this.options;
    let memory = newMemory(0, 0);
    let retiring: readonly string[] = [];
    let backends: Sim[] = [];
    const queue: number[] = [];
    const trace: Trace[] = [];
    const outcome = { refused: 0, lost: 0, longestWaitMs: 0 };
    let born = 0;
    let owed = 0;
    for (let ms = 0; ms <= forMs; ms += STEP_MS) {
      for (const one of backends) one.endsAtMs = one.endsAtMs.filter((end) => end > ms);
      owed += (load(ms) * STEP_MS) / 1000;
      for (; owed >= 1; owed--) queue.push(ms);
      if (diesEveryMs !== undefined && ms > 0 && ms % diesEveryMs === 0) {
        const [victim] = backends;
        if (victim !== undefined) backends = backends.filter((one) => one !== victim);
      }
      const open = backends.filter(({ id, readyAtMs }) => readyAtMs <= ms && !retiring.includes(id));
      while (queue.length > 0) {
        const [place] = open
          .filter(({ endsAtMs }) => endsAtMs.length < capacity)
          .sort((a, b) => a.endsAtMs.length - b.endsAtMs.length);
        if (place === undefined) break;
        outcome.longestWaitMs = Math.max(outcome.longestWaitMs, ms - (queue.shift() ?? ms));
        place.endsAtMs.push(ms + serviceMs);
      }
      if (ms % TICK_MS !== 0) continue;
      const snapshots = backends
        .filter(({ readyAtMs }) => readyAtMs <= ms)
        .map(
          ({ id, endsAtMs, bornMs }): BackendSnapshot => ({
            id,
            state: 'ready',
            inFlight: endsAtMs.length,
            costTokens: endsAtMs.length * TOKENS,
            capacity,
            hasJob: false,
            startedAtMs: bornMs,
            coldStartMs,
          }),
        );
      const rows = queue.length;
      const oldestWaitMs = rows === 0 ? 0 : ms - (queue[0] ?? ms);
      const fleet = { backends: snapshots, queue: { length: rows, rows, costTokens: rows * TOKENS, oldestWaitMs } };
      const next = planReplicas({ fleet, jobs: { queued: 0, running: 0 }, memory }, this.config, ms);
      memory = next.memory;
      retiring = next.retiring;
      for (const one of backends)
        if (next.removable.includes(one.id) && one.endsAtMs.length > 0) outcome.lost += one.endsAtMs.length;
      backends = backends.filter(({ id }) => !next.removable.includes(id));
      while (backends.length < next.desired)
        backends.push({ id: `b${born++}`, readyAtMs: ms + coldStartMs, bornMs: ms, endsAtMs: [] });
      trace.push({ ms, desired: next.desired, running: backends.length });
    }
    return { trace, ...outcome };
  }
}
