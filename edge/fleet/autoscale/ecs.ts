import {
  DescribeServicesCommand,
  ECSClient,
  UpdateServiceCommand,
  UpdateTaskProtectionCommand,
} from '@aws-sdk/client-ecs';
import { LIMITS } from '../../../shared/contract/limits.ts';
import type { ScalingEnv } from './config.ts';
import { type Driver, DriverError, type Observed } from './driver.ts';
import type { BackendSnapshot } from './snapshot.ts';

/** Tasks that one call may name (Amazon ECS API reference, UpdateTaskProtection). */
const TASKS_PER_CALL = 10;
/** Errors that go away by themselves; `SyntaxError`: a page of a proxy in place of an answer. */
const PASSING = /throttl|toomanyrequests|requestlimit|serverexception|serviceunavailable|syntaxerror/i;

/**
 * Backends as tasks of an Amazon ECS service, whose desired count is changed. ECS chooses by itself which task ends; those that work are protected
 * before (UpdateTaskProtection), so that it can only choose one that is free. A backend's id is `ecs-<task id>` there (gpu-backend/server/backend-id.ts).
 */
export class EcsDriver implements Driver {
  readonly name = 'ecs';
  readonly observeEveryMs = 5_000;
  readonly #client: ECSClient;
  readonly #cluster: string;
  readonly #service: string;
  #lastDesired = 0;

  /** @throws Error naming the variable that is missing */
  constructor(env: ScalingEnv) {
    this.#cluster = required('ECS_CLUSTER', env.ECS_CLUSTER);
    this.#service = required('ECS_SERVICE', env.ECS_SERVICE);
    this.#client = new ECSClient({
      region: required('AWS_REGION', env.AWS_REGION),
      credentials: {
        accessKeyId: required('AWS_ACCESS_KEY_ID', env.AWS_ACCESS_KEY_ID),
        secretAccessKey: required('AWS_SECRET_ACCESS_KEY', env.AWS_SECRET_ACCESS_KEY),
        ...(env.AWS_SESSION_TOKEN ? { sessionToken: env.AWS_SESSION_TOKEN } : {}),
      },
      ...(env.ECS_ENDPOINT ? { endpoint: env.ECS_ENDPOINT } : {}),
      // The autoscaler asks again by itself; here only what is gone within a second is repeated.
      maxAttempts: 3,
    });
  }

  async observe(): Promise<Observed> {
    const { services, failures } = await this.#send('DescribeServices', (options) =>
      this.#client.send(new DescribeServicesCommand({ cluster: this.#cluster, services: [this.#service] }), options),
    );
    const [service] = services ?? [];
    if (service === undefined || service.status !== 'ACTIVE') {
      const why = failures?.[0]?.reason ?? service?.status ?? 'MISSING';
      throw new DriverError(
        `ECS: expected an active service ${this.#service} in ${this.#cluster}, found ${why}`,
        false,
      );
    }
    this.#lastDesired = service.desiredCount ?? 0;
    return {
      desired: this.#lastDesired,
      running: service.runningCount ?? 0,
      starting: service.pendingCount ?? 0,
    };
  }

  async scaleTo(count: number, remove: readonly string[], keep: readonly BackendSnapshot[]): Promise<void> {
    if (count < this.#lastDesired) {
      await this.#protect(
        keep.filter(({ inFlight, hasJob }) => inFlight > 0 || hasJob).map(({ id }) => id),
        true,
      );
      await this.#protect(remove, false);
    }
    await this.#send('UpdateService', (options) =>
      this.#client.send(
        new UpdateServiceCommand({ cluster: this.#cluster, service: this.#service, desiredCount: count }),
        options,
      ),
    );
  }

  /** Spares tasks, or no longer. Where that fails for one, nothing is ended: better a task too many than an answer too few. */
  async #protect(ids: readonly string[], isProtected: boolean): Promise<void> {
    const tasks = ids.flatMap((id) => (id.startsWith('ecs-') ? [id.slice('ecs-'.length)] : []));
    for (let from = 0; from < tasks.length; from += TASKS_PER_CALL) {
      const some = tasks.slice(from, from + TASKS_PER_CALL);
      const { failures = [] } = await this.#send('UpdateTaskProtection', (options) =>
        this.#client.send(
          new UpdateTaskProtectionCommand({
            cluster: this.#cluster,
            tasks: some,
            protectionEnabled: isProtected,
            ...(isProtected ? { expiresInMinutes: LIMITS.scaling.ecsProtectionMinutes } : {}),
          }),
          options,
        ),
      );
      // A task that is gone needs none.
      const failed = failures.find(({ reason }) => reason !== 'MISSING' && reason !== 'TASK_NOT_VALID');
      if (isProtected && failed !== undefined)
        throw new DriverError(`ECS UpdateTaskProtection: ${failed.arn}: ${failed.reason} ${failed.detail ?? ''}`, true);
    }
  }

  async #send<T>(what: string, call: (options: { abortSignal: AbortSignal }) => Promise<T>): Promise<T> {
    try {
      return await call({ abortSignal: AbortSignal.timeout(LIMITS.scaling.driverTimeoutMs) });
    } catch (cause) {
      const { name, message } = cause instanceof Error ? cause : new Error(String(cause));
      const status = (cause as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
      // Without a status no answer came: the connection broke, which workerd reports as a plain Error.
      const isRetryable = status === undefined || PASSING.test(name) || status === 429 || status >= 500;
      // An HTML page of hundreds of lines says no more than its beginning.
      throw new DriverError(`ECS ${what}: ${name}: ${message.slice(0, 300)}`, isRetryable, { cause });
    }
  }
}

function required(name: string, value: string | undefined): string {
  if (value !== undefined && value !== '') return value;
  throw new Error(`MANTIS_SCALER=ecs: expected ${name} to be set, it is not`);
}
