import * as z from 'zod/mini';
import { LIMITS } from '../../../shared/contract/limits.ts';
import type { ScalingEnv } from './config.ts';
import { type Driver, DriverError, type Observed } from './driver.ts';
import type { BackendSnapshot } from './snapshot.ts';

/** `GET …/scale` (autoscaling/v1) as far as it is read. */
const Scale = z.object({
  metadata: z.object({ resourceVersion: z.optional(z.string()) }),
  spec: z.object({ replicas: z.optional(z.int()) }),
  status: z.optional(z.object({ replicas: z.optional(z.int()) })),
});
const Deployment = z.object({
  spec: z.object({ replicas: z.optional(z.int()) }),
  status: z.optional(z.object({ readyReplicas: z.optional(z.int()), replicas: z.optional(z.int()) })),
});

const MERGE_PATCH = 'application/merge-patch+json';
/** The controller ends pods of the lowest cost first (KEP-2255, controller.kubernetes.io/pod-deletion-cost). */
const DELETION_COST = 'controller.kubernetes.io/pod-deletion-cost';
const GOES_FIRST = -1_000;
const CONFLICT_ATTEMPTS = 4;

/**
 * Backends as pods of a Kubernetes deployment, whose scale sub-resource is patched. Which pod goes is said by its deletion cost: the one that is to go
 * least, those that work by how much they do. A backend's id is `pod-<pod name>` there (gpu-backend/server/backend-id.ts).
 */
export class KubernetesDriver implements Driver {
  readonly name = 'kubernetes';
  readonly observeEveryMs = 2_000;
  readonly #api: string;
  readonly #namespace: string;
  readonly #deployment: string;
  readonly #token: string | null;
  #lastDesired = 0;
  readonly #fetch: (url: string, init: RequestInit) => Promise<Response>;

  /** @throws Error naming the variable that is missing */
  constructor(env: ScalingEnv) {
    this.#api = required('KUBERNETES_API', env.KUBERNETES_API).replace(/\/$/, '');
    this.#namespace = encodeURIComponent(env.KUBERNETES_NAMESPACE || 'default');
    this.#deployment = encodeURIComponent(required('KUBERNETES_DEPLOYMENT', env.KUBERNETES_DEPLOYMENT));
    const network = env.KUBERNETES_NETWORK;
    this.#token =
      network === undefined ? required('KUBERNETES_TOKEN', env.KUBERNETES_TOKEN) : env.KUBERNETES_TOKEN || null;
    this.#fetch = (url, init) => (network === undefined ? fetch(url, init) : network.fetch(url, init));
  }

  async observe(): Promise<Observed> {
    const { spec, status } = Deployment.parse(await this.#call('GET', this.#path));
    const desired = spec.replicas ?? 1;
    this.#lastDesired = desired;
    const running = status?.readyReplicas ?? 0;
    return { desired, running, starting: Math.max(0, Math.min(desired, status?.replicas ?? 0) - running) };
  }

  async scaleTo(count: number, remove: readonly string[], keep: readonly BackendSnapshot[]): Promise<void> {
    if (count < this.#lastDesired) {
      // Every pod is given its cost: one of an earlier change must not go in the place of who is free now.
      const costs = [
        ...remove.map((id) => ({ id, cost: GOES_FIRST })),
        ...keep.map(({ id, inFlight, hasJob }) => ({ id, cost: inFlight + (hasJob ? 1_000 : 0) })),
      ];
      for (const { id, cost } of costs) await this.#setCost(id, cost);
    }
    for (let attempt = 1; ; attempt++) {
      const { metadata, spec } = Scale.parse(await this.#call('GET', `${this.#path}/scale`));
      if (spec.replicas === count) return;
      try {
        // With the version that was read, so that somebody else's change in between is seen and not overwritten.
        await this.#call('PATCH', `${this.#path}/scale`, { metadata, spec: { replicas: count } });
        return;
      } catch (error) {
        if (!(error instanceof StatusError) || error.status !== 409 || attempt === CONFLICT_ATTEMPTS) throw error;
      }
    }
  }

  get #path(): string {
    return `/apis/apps/v1/namespaces/${this.#namespace}/deployments/${this.#deployment}`;
  }

  async #setCost(id: string, cost: number): Promise<void> {
    if (!id.startsWith('pod-')) return;
    const path = `/api/v1/namespaces/${this.#namespace}/pods/${encodeURIComponent(id.slice('pod-'.length))}`;
    try {
      await this.#call('PATCH', path, { metadata: { annotations: { [DELETION_COST]: String(cost) } } });
    } catch (error) {
      // Gone by itself, or going.
      if (!(error instanceof StatusError) || (error.status !== 404 && error.status !== 410)) throw error;
    }
  }

  /** @throws StatusError for every answer but 2xx, DriverError where none came */
  async #call(method: 'GET' | 'PATCH', path: string, body?: object): Promise<unknown> {
    const what = `Kubernetes ${method} ${path}`;
    let text: string;
    let status: number;
    try {
      const response = await this.#fetch(this.#api + path, {
        method,
        redirect: 'manual',
        signal: AbortSignal.timeout(LIMITS.scaling.driverTimeoutMs),
        headers: {
          accept: 'application/json',
          ...(this.#token === null ? {} : { authorization: `Bearer ${this.#token}` }),
          ...(body === undefined ? {} : { 'content-type': MERGE_PATCH }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      status = response.status;
      text = await response.text();
    } catch (cause) {
      throw new DriverError(`${what}: ${String(cause)}`, true, { cause });
    }
    if (status < 200 || status > 299) throw new StatusError(status, `${what}: ${status} ${reasonOf(text)}`);
    try {
      return JSON.parse(text);
    } catch (cause) {
      throw new DriverError(`${what}: expected JSON, received ${text.slice(0, 200)}`, true, { cause });
    }
  }
}

/** 401, 403 and 404 are for somebody to mend: an expired token, a role without the sub-resource, a wrong name. */
class StatusError extends DriverError {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message, ![400, 401, 403, 404, 422].includes(status));
  }
}

/** The message of a `Status` object, or the beginning of whatever came. */
function reasonOf(text: string): string {
  try {
    const { message } = JSON.parse(text) as { message?: unknown };
    if (typeof message === 'string') return message.slice(0, 300);
  } catch {
    // Not the API server's: a proxy's page.
  }
  return text.slice(0, 200);
}

function required(name: string, value: string | undefined): string {
  if (value !== undefined && value !== '') return value;
  throw new Error(`MANTIS_SCALER=kubernetes: expected ${name} to be set, it is not`);
}
