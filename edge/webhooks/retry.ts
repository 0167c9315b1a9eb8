import { LIMITS } from '../../shared/contract/limits.ts';

const W = LIMITS.webhooks;

export type AttemptResult = { status: number | null; retryAfterS: number | null };
export type Decision =
  | { kind: 'delivered' }
  | { kind: 'disable' }
  | { kind: 'retry'; afterMs: number }
  | { kind: 'give_up' };

/**
 * What follows an attempt: 2xx only is success, redirects are failures, 410 wants no more, everything else is tried again on the schedule until it is
 * used up. A receiver's `retry-after` may lengthen a gap, never shorten it.
 * @param attempts attempts made, this one included.
 * @param roll uniform in [0, 1): the jitter.
 */
export function afterAttempt(result: AttemptResult, attempts: number, roll: number): Decision {
  const { status, retryAfterS } = result;
  if (status !== null && status >= 200 && status < 300) return { kind: 'delivered' };
  if (status === 410) return { kind: 'disable' };
  const gap = W.retryAfterMs[attempts];
  if (gap === undefined) return { kind: 'give_up' };
  const jittered = gap * (1 + W.jitter * (2 * roll - 1));
  return { kind: 'retry', afterMs: Math.round(Math.max(jittered, (retryAfterS ?? 0) * 1000)) };
}
