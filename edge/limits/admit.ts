/** The one question before work is queued: may this key ask for so much now? */
import { ApiError } from '../../shared/contract/errors.ts';
import type { KeyLimits } from '../../shared/contract/keys.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { Env } from '../env.ts';
import { passedOn } from '../middleware/relay.ts';
import { rateLimitHeaders, refusalMessage } from './headers.ts';
import type { Cost, Decision, Slot } from './limiter.ts';
import type { Limiter } from './object.ts';
import { withDefaults } from './settings.ts';

/** Whose limits: the key's, already filled with its tenant's where it has none of its own. */
export type LimitedCaller = { readonly keyId: string; readonly tenant: string; readonly limits: KeyLimits };

/** Keeps work going after the answer. */
export type Background = { waitUntil(work: Promise<unknown>): void };

export type Admission = {
  /** To be sent with the answer, whatever it is. */
  readonly headers: Readonly<Record<string, string>>;
  /** Gives the slot back; to be called when the answer has ended in whatever way. Later calls do nothing. */
  readonly release: () => void;
  /** Whether there is a slot to give back at all. */
  readonly isHeld: boolean;
};

const FREE: Admission = { headers: {}, release: () => {}, isHeld: false };

/**
 * Takes `cost` from the limits of the caller's key, and a slot where concurrency is limited, or refuses and takes nothing. One call to the tenant's
 * Limiter object, none where nothing is limited.
 * @throws ApiError `rate_limit_exceeded`, with the headers and when to come back
 */
export async function admit(env: Env, ctx: Background, caller: LimitedCaller, cost: Cost): Promise<Admission> {
  const limits = withDefaults(caller.limits, env.KEY_LIMITS);
  if (!isLimited(limits)) return FREE;
  const limiter = limiterOf(env, caller.tenant);
  const slot: Slot | null =
    limits.concurrent === null ? null : { id: crypto.randomUUID(), leaseMs: LIMITS.rates.leaseMs };
  const ask = async () => (await limiter.admit(caller.keyId, limits, cost, slot, false)) as Decision;
  // An object is started anew when the Worker's code changes; the calls under way then fail once.
  const decision = await ask().catch(ask);
  const headers = rateLimitHeaders(decision.standings);
  if (decision.refusal !== null) throw refusalError(decision.refusal, headers);
  return slot === null
    ? { ...FREE, headers }
    : { headers, release: heldSlot(limiter, ctx, caller.keyId, slot), isHeld: true };
}

/** Takes `cost` without asking, for what is known only afterwards. Nothing waits for it, and a lost charge is a lost charge. */
export function charge(env: Env, ctx: Background, caller: LimitedCaller, cost: Cost): void {
  const limits = withDefaults(caller.limits, env.KEY_LIMITS);
  if (!isLimited(limits)) return;
  const limiter = limiterOf(env, caller.tenant);
  ctx.waitUntil(Promise.resolve(limiter.admit(caller.keyId, limits, cost, null, true)).catch(() => {}));
}

function refusalError(refusal: NonNullable<Decision['refusal']>, headers: Record<string, string>): ApiError {
  const { waitMs } = refusal;
  return new ApiError('rate_limit_exceeded', refusalMessage(refusal), {
    headers,
    // What never fits is not to be sent again.
    ...(waitMs === null ? { shouldRetry: false } : { retryAfterMs: waitMs, shouldRetry: true }),
  });
}

/** Renews the slot's lease while the request runs, so that one whose isolate was lost frees itself and a long one does not. */
function heldSlot(limiter: DurableObjectStub<Limiter>, ctx: Background, keyId: string, slot: Slot): () => void {
  const renewal = setInterval(() => {
    ctx.waitUntil(Promise.resolve(limiter.renew(keyId, slot)).catch(() => {}));
  }, LIMITS.rates.leaseRenewMs);
  let held = true;
  return () => {
    if (!held) return;
    held = false;
    clearInterval(renewal);
    // A lost call costs the slot until its lease ends, no more.
    ctx.waitUntil(Promise.resolve(limiter.release(keyId, slot.id)).catch(() => {}));
  };
}

function isLimited(limits: KeyLimits): boolean {
  return Object.values(limits).some((limit) => limit !== null);
}

function limiterOf(env: Env, tenant: string): DurableObjectStub<Limiter> {
  return env.LIMITER.get(env.LIMITER.idFromName(tenant));
}

/** The answer with `release` called when its body has ended, failed or been given up, and at once where there is none. */
export function releasedAtEnd(response: Response, release: () => void): Response {
  if (response.body === null) {
    release();
    return response;
  }
  const body = passedOn(response.body, { atEnd: release });
  return new Response(body, response);
}
