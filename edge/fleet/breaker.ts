/** A circuit breaker: a backend that fails again and again is left alone for a while, then tried with one request. Pure; time comes in. */
import { LIMITS } from '../../shared/contract/limits.ts';

const F = LIMITS.fleet;

export type Breaker = {
  /** Failures since the last success. */
  inARow: number;
  /** Answers since it was last closed, and the recent share of failures among them (exponential, 1/10). */
  answers: number;
  errorShare: number;
  /** 0: closed. Else no request before this time, Unix ms, and then only one. */
  openUntilMs: number;
  /** Times it opened since it last stayed closed. */
  opened: number;
  isProbing: boolean;
};

export type BreakerState = 'closed' | 'open' | 'half_open';

export function newBreaker(): Breaker {
  return { inARow: 0, answers: 0, errorShare: 0, openUntilMs: 0, opened: 0, isProbing: false };
}

export function breakerState({ openUntilMs }: Breaker, nowMs: number): BreakerState {
  if (openUntilMs === 0) return 'closed';
  return nowMs < openUntilMs ? 'open' : 'half_open';
}

/** Whether a request may go through now. */
export function allows(breaker: Breaker, nowMs: number): boolean {
  const state = breakerState(breaker, nowMs);
  return state === 'closed' || (state === 'half_open' && !breaker.isProbing);
}

/** A request goes through. */
export function onSent(breaker: Breaker, nowMs: number): void {
  if (breakerState(breaker, nowMs) === 'half_open') breaker.isProbing = true;
}

/** @returns whether it closed just now */
export function onSuccess(breaker: Breaker): boolean {
  const closes = breaker.openUntilMs > 0;
  if (closes) breaker.answers = breaker.errorShare = 0;
  breaker.inARow = breaker.openUntilMs = 0;
  breaker.isProbing = false;
  breaker.answers++;
  breaker.errorShare *= 0.9;
  // Only a backend that has held out for a while is trusted as before.
  if (breaker.answers >= F.breakerMinAnswers) breaker.opened = 0;
  return closes;
}

/** @returns whether it opened just now */
export function onFailure(breaker: Breaker, nowMs: number): boolean {
  breaker.inARow++;
  breaker.answers++;
  breaker.errorShare = breaker.errorShare * 0.9 + 0.1;
  const state = breakerState(breaker, nowMs);
  breaker.isProbing = false;
  const isBad =
    state === 'half_open' ||
    breaker.inARow >= F.breakerFailures ||
    (breaker.answers >= F.breakerMinAnswers && breaker.errorShare > F.breakerErrorShare);
  if (state === 'open' || !isBad) return false;
  breaker.openUntilMs = nowMs + Math.min(F.breakerOpenMs * 2 ** breaker.opened, F.breakerMaxOpenMs);
  breaker.opened++;
  return true;
}

/** The probe ended without saying anything about the backend (the client left). */
export function onNeither(breaker: Breaker): void {
  breaker.isProbing = false;
}
