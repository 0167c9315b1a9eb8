import { LIMITS } from '../../shared/contract/limits.ts';
import { type Env, fleet } from '../env.ts';
import { type FleetState, liveBackends } from '../fleet/registry.ts';

/** The fleet as health and metrics look at it. Times in ms. */
export type FleetView = {
  backends: {
    id: string;
    state: 'ready' | 'draining' | 'gone';
    inFlight: number;
    capacity: number;
    breaker: 'closed' | 'open' | 'half_open';
    /** How many it serves. */
    models: number;
  }[];
  queue: { length: number; interactive: number; batch: number; oldestWaitMs: number; limit: number };
  counts: Readonly<Record<string, number>>;
  /** There is to be no backend until a request wants one, and then one is started. */
  isAsleep: boolean;
  replicasDesired: number | null;
  /** Why backends cannot be started or stopped, in the driver's words; null: it can. */
  scalerProblem: string | null;
};

export async function viewFleet(env: Env): Promise<FleetView> {
  const [told, live] = await Promise.all([fleet(env).state(), liveBackends(env, true)]);
  const { backends, queue, counts, scaler, scalerProblem } = told as FleetState;
  const modelsOf = new Map(live.map(({ report }) => [report.id, report.models.length]));
  return {
    backends: backends.map(({ id, state, inFlight, capacity, breaker }) => ({
      id,
      state,
      inFlight,
      capacity,
      breaker,
      models: modelsOf.get(id) ?? 0,
    })),
    queue: { ...queue, limit: LIMITS.fleet.maxQueued },
    counts,
    isAsleep: scaler !== null && scaler.desired === 0 && scaler.problem === null,
    replicasDesired: scaler?.desired ?? null,
    scalerProblem: scalerProblem ?? scaler?.problem ?? null,
  };
}
