import { LIMITS } from '../../../shared/contract/limits.ts';
import type { ScalingConfig } from './plan.ts';

const S = LIMITS.scaling;

/** Variables of the Worker that say who runs the backends and how many there may be; `npm start` passes on those of the same names with `MANTIS_` before. */
export type ScalingEnv = {
  /** `local`, `ecs`, `kubernetes` or `none`; absent: `local` where the start process offers itself, else `none`. */
  SCALER?: string;
  MIN_BACKENDS?: string;
  MAX_BACKENDS?: string;
  BACKEND_BUFFER?: string;
  IDLE_S?: string;
  SCALE_UP_S?: string;
  SCALE_DOWN_S?: string;
  /** The process that started the Worker, in local starts. */
  BACKEND_STARTER?: Fetcher;
  ECS_CLUSTER?: string;
  ECS_SERVICE?: string;
  /** Instead of the region's own address: for emulators and private endpoints. */
  ECS_ENDPOINT?: string;
  AWS_REGION?: string;
  AWS_ACCESS_KEY_ID?: string;
  AWS_SECRET_ACCESS_KEY?: string;
  AWS_SESSION_TOKEN?: string;
  /** Origin of the API server. */
  KUBERNETES_API?: string;
  KUBERNETES_NAMESPACE?: string;
  KUBERNETES_DEPLOYMENT?: string;
  /** Token of a service account; absent where `KUBERNETES_NETWORK` adds one. */
  KUBERNETES_TOKEN?: string;
  /** Reaches the API server through the start process, which trusts the cluster's authority and reads the account's token anew for each call. */
  KUBERNETES_NETWORK?: Fetcher;
};

export const SCALERS = ['local', 'ecs', 'kubernetes', 'none'] as const;
export type ScalerName = (typeof SCALERS)[number];

/** @throws Error naming the variable, what was expected and what came */
export function scalerName(env: ScalingEnv): ScalerName {
  const name = env.SCALER || (env.BACKEND_STARTER === undefined ? 'none' : 'local');
  if ((SCALERS as readonly string[]).includes(name)) return name as ScalerName;
  throw new Error(`MANTIS_SCALER: expected one of ${SCALERS.join(', ')}, received ${JSON.stringify(name)}`);
}

/** @throws Error naming the variable, what was expected and what came */
export function scalingConfig(env: ScalingEnv): ScalingConfig {
  const min = count('MIN_BACKENDS', env.MIN_BACKENDS, 1, 0, S.maxBackends);
  // Locally a second backend holds all weights a second time and takes the same cores: only who has both to spare asks for it. In a cloud each brings
  // its own, and costs.
  const max = count(
    'MAX_BACKENDS',
    env.MAX_BACKENDS,
    Math.max(min, scalerName(env) === 'local' ? 1 : 3),
    1,
    S.maxBackends,
  );
  if (max < min)
    throw new Error(`MANTIS_MAX_BACKENDS: expected at least MANTIS_MIN_BACKENDS (${min}), received ${max}`);
  return {
    min,
    max,
    buffer: count('BACKEND_BUFFER', env.BACKEND_BUFFER, 0, 0, S.maxBackends),
    idleMs: 1_000 * count('IDLE_S', env.IDLE_S, S.idleS, 1, 86_400),
    upAfterMs: 1_000 * count('SCALE_UP_S', env.SCALE_UP_S, S.upAfterMs / 1_000, 0, 3_600),
    downAfterMs: 1_000 * count('SCALE_DOWN_S', env.SCALE_DOWN_S, S.downAfterMs / 1_000, 0, 86_400),
    targetLoad: S.targetLoad,
    maxWaitMs: S.maxWaitMs,
    rowsPerBackend: S.rowsPerBackend,
    tokensPerBackend: S.tokensPerBackend,
  };
}

function count(name: string, text: string | undefined, byDefault: number, least: number, most: number): number {
  if (text === undefined || text === '') return byDefault;
  const value = Number(text);
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw new Error(`MANTIS_${name}: expected a whole number from ${least} to ${most}, received ${JSON.stringify(text)}`);
}
