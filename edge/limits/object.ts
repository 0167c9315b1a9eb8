import { DurableObject } from 'cloudflare:workers';
import type { KeyLimits } from '../../shared/contract/keys.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { Env } from '../env.ts';
import { type Cost, type Decision, LimiterState, type Slot } from './limiter.ts';

/**
 * The limits of one tenant, in memory only, one object for all isolates. An object that is lost forgets at most the last minute; running requests
 * take their slots anew when their leases are renewed.
 */
export class Limiter extends DurableObject<Env> {
  readonly #state = new LimiterState(LIMITS.rates);

  admit(keyId: string, limits: KeyLimits, cost: Cost, slot: Slot | null, force: boolean): Decision {
    return this.#state.admit(keyId, limits, cost, Date.now(), { slot, force });
  }

  release(keyId: string, slotId: string): void {
    this.#state.release(keyId, slotId);
  }

  renew(keyId: string, slot: Slot): void {
    this.#state.renew(keyId, slot, Date.now());
  }
}
