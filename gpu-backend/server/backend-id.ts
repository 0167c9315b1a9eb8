import { randomText } from '../../shared/wire/ids.ts';

const METADATA_TIMEOUT_MS = 2_000;

/**
 * What this backend registers as. Where a service runs it, the id names what that service calls it, so that the edge can have exactly this one ended:
 * `ecs-<task id>` (from the task's metadata, version 4), `pod-<pod name>`; else something random.
 */
export async function backendId(env: NodeJS.ProcessEnv): Promise<string> {
  const metadata = env.ECS_CONTAINER_METADATA_URI_V4;
  if (metadata) {
    try {
      const response = await fetch(`${metadata}/task`, { signal: AbortSignal.timeout(METADATA_TIMEOUT_MS) });
      const { TaskARN: arn } = (await response.json()) as { TaskARN?: unknown };
      if (typeof arn === 'string' && arn.includes('/')) return `ecs-${arn.slice(arn.lastIndexOf('/') + 1)}`;
    } catch {
      // Serves all the same; only scaling in chooses less well.
    }
  }
  // The kubelet sets the first; the pod's name is the host's, unless the pod says otherwise (MANTIS_BACKEND_ID).
  if (env.KUBERNETES_SERVICE_HOST && env.HOSTNAME) return `pod-${env.HOSTNAME}`;
  return `backend-${randomText(12)}`;
}
