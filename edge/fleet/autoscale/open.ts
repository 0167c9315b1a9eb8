import { jobDemand } from '../../store/demand.ts';
import { Autoscaler } from './autoscaler.ts';
import { type ScalingEnv, scalerName, scalingConfig } from './config.ts';
import type { Driver } from './driver.ts';
import { LocalDriver } from './local.ts';

/**
 * The installation's autoscaler, or null where nobody is to scale (`MANTIS_SCALER=none`).
 * @param storage where times of starts outlive the object: the Durable Object's own
 * @throws Error naming the variable at fault
 */
export async function openAutoscaler(
  env: ScalingEnv & { DB: D1Database },
  storage: Pick<DurableObjectStorage, 'get' | 'put'>,
): Promise<Autoscaler | null> {
  const driver = await openDriver(env);
  if (driver === null) return null;
  return new Autoscaler({
    config: scalingConfig(env),
    driver,
    jobs: () => jobDemand(env.DB, Date.now()),
    storage: { get: (key) => storage.get<number[]>(key), put: (key, value) => storage.put(key, value) },
  });
}

/** @throws Error naming the variable at fault */
export async function openDriver(env: ScalingEnv): Promise<Driver | null> {
  const name = scalerName(env);
  switch (name) {
    case 'none':
      return null;
    case 'local':
      if (env.BACKEND_STARTER === undefined)
        throw new Error('MANTIS_SCALER=local: expected a start by `npm start`; a Worker cannot start processes itself');
      return new LocalDriver(env.BACKEND_STARTER);
    case 'ecs':
      // Loaded by who uses it: the AWS client is the largest part of the bundle.
      return new (await import('./ecs.ts')).EcsDriver(env);
    case 'kubernetes':
      return new (await import('./kubernetes.ts')).KubernetesDriver(env);
    default:
      return name satisfies never;
  }
}
