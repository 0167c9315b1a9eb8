import { LIMITS } from '../../shared/contract/limits.ts';

const W = LIMITS.webhooks;

/** @property retryAfterMs pause that the receiver asked for; see `retryAfterMs` */
export type AttemptResult = { status: number | null; retryAfterMs: number | null };
export type Decision =
  | { kind: 'delivered' }
  | { kind: 'disable' }
  | { kind: 'retry'; afterMs: number }
  | { kind: 'give_up' };

/**
 * What follows an attempt: 2xx only is success, redirects are failures, 410 wants no more, everything else is tried again on the schedule until it is
 * used up. A gap is up to a tenth shorter than the schedule's, never longer, so that the n-th attempt is made no later than promised. A receiver's
 * `retry-after` may lengthen a gap (by up to a tenth more than it asked for), never shorten it.
 * @param attempts attempts made, this one included.
 * @param roll uniform in [0, 1): the jitter.
 */
export function afterAttempt({ status, retryAfterMs }: AttemptResult, attempts: number, roll: number): Decision {
  if (status !== null && status >= 200 && status < 300) return { kind: 'delivered' };
  if (status === 410) return { kind: 'disable' };
  const gap = W.retryAfterMs[attempts];
  if (gap === undefined) return { kind: 'give_up' };
  const asked = (retryAfterMs ?? 0) * (1 + W.jitter * roll);
  return { kind: 'retry', afterMs: Math.round(Math.max(gap * (1 - W.jitter * roll), asked)) };
}

/**
 * The pause that an answer asks for, ms, at most a day: RFC 9110, section 10.2.3, seconds or an HTTP date, with 429 and 503 only. Null where it asks for
 * none that can be read.
 */
export function retryAfterMs(status: number, header: string | null, nowMs: number): number | null {
  if ((status !== 429 && status !== 503) || header === null) return null;
  const text = header.trim();
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : /[A-Za-z]{3},? /.test(text) ? Date.parse(text) - nowMs : NaN;
  return Number.isNaN(ms) ? null : Math.min(Math.max(ms, 0), W.maxRetryAfterMs);
}
