/** Somebody who serves a model, for questions that take no place: counting tokens must wake a fleet that sleeps as answering does. */
import type { GenerateRequest } from '../../shared/contract/backend.ts';
import { randomText } from '../../shared/wire/ids.ts';
import { type Env, fleet } from '../env.ts';
import type { Decision } from './dispatcher.ts';
import { refused } from './failure.ts';
import { liveBackends } from './registry.ts';

/**
 * Waits in the interactive line until one of the model's backends could take a request; what it then gets is given back at once.
 * @param bytes what the edge holds meanwhile
 * @throws ApiError why nobody comes, as for an answer
 */
export async function awaitBackend(env: Env, request: GenerateRequest, base: string, bytes: number): Promise<void> {
  const object = fleet(env);
  const decision = (await object.acquire({
    id: randomText(16),
    tenant: request.tenant ?? '',
    model: base,
    tuned: null,
    affinity: null,
    rows: 1,
    cost: 1,
    bytes,
    priority: 'interactive',
    deadlineAtMs: Date.now() + request.deadlineMs,
    attempt: 0,
    exclude: [],
  })) as Decision;
  if (decision.type === 'refusal') throw refused(decision, base, request);
  await object.release(decision.id, 'aborted');
  // Whoever was remembered may not be who is there now.
  await liveBackends(env, true);
}
