/** What the environment says about who runs the backends and how many there may be; the Worker gets it under names without `MANTIS_`. */
import { LIMITS } from '../shared/contract/limits.ts';
import { isInPod, podDefaults } from './scaler-kubernetes.ts';

const SCALERS = ['local', 'ecs', 'kubernetes', 'none'] as const;

export type ScalingSettings = {
  scaler: (typeof SCALERS)[number];
  /** Backends that run whether anybody asks or not. */
  min: number;
  /** Variables of the Worker (edge/fleet/autoscale/config.ts). */
  vars: Record<string, string>;
};

/** @throws Error naming the variable, what was expected and what came */
export async function scalingSettings(env: NodeJS.ProcessEnv): Promise<ScalingSettings> {
  const scaler = SCALERS.find((name) => name === (env.MANTIS_SCALER || 'local'));
  if (scaler === undefined)
    throw new Error(
      `MANTIS_SCALER: expected one of ${SCALERS.join(', ')}, received ${JSON.stringify(env.MANTIS_SCALER)}`,
    );
  const most = LIMITS.scaling.maxBackends;
  const min = wholeNumber('MANTIS_MIN_BACKENDS', env.MANTIS_MIN_BACKENDS, 1, 0, most);
  const max = wholeNumber('MANTIS_MAX_BACKENDS', env.MANTIS_MAX_BACKENDS, Math.max(min, 1), 1, most);
  if (max < min)
    throw new Error(`MANTIS_MAX_BACKENDS: expected at least MANTIS_MIN_BACKENDS (${min}), received ${max}`);
  wholeNumber('MANTIS_BACKEND_BUFFER', env.MANTIS_BACKEND_BUFFER, 0, 0, most);
  wholeNumber('MANTIS_IDLE_S', env.MANTIS_IDLE_S, 1, 1, 86_400);
  wholeNumber('MANTIS_SCALE_UP_S', env.MANTIS_SCALE_UP_S, 0, 0, 3_600);
  wholeNumber('MANTIS_SCALE_DOWN_S', env.MANTIS_SCALE_DOWN_S, 0, 0, 86_400);
  const vars: Record<string, string> = {
    SCALER: scaler,
    ...passed(env, ['MIN_BACKENDS', 'MAX_BACKENDS', 'BACKEND_BUFFER', 'IDLE_S', 'SCALE_UP_S', 'SCALE_DOWN_S']),
  };
  if (scaler === 'ecs') {
    Object.assign(vars, passed(env, ['ECS_CLUSTER', 'ECS_SERVICE', 'ECS_ENDPOINT']));
    // The names that every tool for AWS reads.
    for (const name of ['AWS_REGION', 'AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN'])
      if (env[name]) vars[name] = env[name];
  }
  if (scaler === 'kubernetes') {
    if (isInPod()) Object.assign(vars, await podDefaults(env));
    const names = ['KUBERNETES_API', 'KUBERNETES_NAMESPACE', 'KUBERNETES_DEPLOYMENT', 'KUBERNETES_TOKEN'];
    Object.assign(vars, passed(env, names));
  }
  return { scaler, min, vars };
}

/** Those that are set, without `MANTIS_`. */
function passed(env: NodeJS.ProcessEnv, names: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    names.flatMap((name) => (env[`MANTIS_${name}`] ? [[name, env[`MANTIS_${name}`] ?? '']] : [])),
  );
}

/** @throws Error naming the variable, what was expected and what came */
export function wholeNumber(
  name: string,
  text: string | undefined,
  byDefault: number,
  least: number,
  most: number,
): number {
  if (text === undefined || text === '') return byDefault;
  const value = Number(text);
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw new Error(`${name}: expected a whole number from ${least} to ${most}, received ${JSON.stringify(text)}`);
}
