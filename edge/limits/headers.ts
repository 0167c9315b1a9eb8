/** How limits are told: OpenAI's headers, `-images` added, and words. */
import type { KeyLimits } from '../../shared/contract/keys.ts';
import { MINUTES, type Refusal, type Standing } from './limiter.ts';

/** `x-ratelimit-{limit,remaining,reset}-{requests,tokens,images}` of the limits that there are. */
export function rateLimitHeaders(standings: readonly Standing[]): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const { name, limit, remaining, resetMs } of standings) {
    const kind = MINUTES.find((minute) => minute.name === name)?.header;
    if (kind == null) continue;
    headers[`x-ratelimit-limit-${kind}`] = String(limit);
    headers[`x-ratelimit-remaining-${kind}`] = String(remaining);
    headers[`x-ratelimit-reset-${kind}`] = duration(resetMs);
  }
  return headers;
}

/** As OpenAI and Go write durations: `0s`, `250ms`, `1.5s`, `6m0s`. */
export function duration(ms: number): string {
  const whole = Math.ceil(ms);
  if (whole === 0) return '0s';
  if (whole < 1_000) return `${whole}ms`;
  const minutes = Math.floor(whole / 60_000);
  const seconds = (whole % 60_000) / 1_000;
  return minutes === 0 ? `${seconds}s` : `${minutes}m${seconds}s`;
}

/** Which limit, its value, what is left, when to come back. */
export function refusalMessage({ name, limit, left, asked, waitMs }: Refusal): string {
  const words = wordsOf(name);
  if (waitMs === null) {
    return `Rate limit: this key may use ${limit} ${words}; this request alone needs ${asked}, so it can never be admitted. Send less at once or have the limit raised.`;
  }
  if (name === 'concurrent')
    return `Rate limit: this key may have ${limit} ${words}, all are running. Try again when one has ended.`;
  return `Rate limit: this key may use ${limit} ${words}; ${left} are left, this request needs ${asked}. Try again in ${duration(waitMs)}.`;
}

function wordsOf(name: keyof KeyLimits): string {
  return MINUTES.find((minute) => minute.name === name)?.words ?? 'requests at the same time';
}
