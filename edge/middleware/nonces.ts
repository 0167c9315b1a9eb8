import { DurableObject } from 'cloudflare:workers';
import { LIMITS } from '../../shared/contract/limits.ts';
import { NonceCache } from '../../shared/wire/nonces.ts';
import type { Env } from '../env.ts';

/** Signatures are good for ± the tolerance, so a nonce is for twice that. */
const KEPT_MS = 2 * LIMITS.backends.signatureToleranceS * 1000;

/**
 * The nonces of backends' calls, in one place for all isolates of the edge. Stored too, beside the answer: a call that was listened to stays used up
 * when the object starts anew.
 */
export class Nonces extends DurableObject<Env> {
  readonly #taken = new NonceCache(LIMITS.backends.signatureToleranceS, LIMITS.backends.maxNonces);

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    ctx.blockConcurrencyWhile(async () => {
      const nowS = Date.now() / 1000;
      for (const [nonce, timestampS] of await ctx.storage.list<number>()) this.#taken.take(nonce, timestampS, nowS);
    });
  }

  /** @returns whether the call is a new one */
  async take(nonce: string, timestampS: number): Promise<boolean> {
    if (!this.#taken.take(nonce, timestampS, Date.now() / 1000)) return false;
    void this.ctx.storage.put(nonce, timestampS, { allowUnconfirmed: true });
    if ((await this.ctx.storage.getAlarm()) === null) await this.ctx.storage.setAlarm(Date.now() + KEPT_MS);
    return true;
  }

  /** Forgets what no signature can repeat any more. */
  override async alarm(): Promise<void> {
    const beforeS = (Date.now() - KEPT_MS) / 1000;
    const old = [...(await this.ctx.storage.list<number>())].filter(([, timestampS]) => timestampS < beforeS);
    for (let at = 0; at < old.length; at += 128)
      await this.ctx.storage.delete(old.slice(at, at + 128).map(([key]) => key));
    if (old.length > 0) await this.ctx.storage.setAlarm(Date.now() + KEPT_MS);
  }
}
