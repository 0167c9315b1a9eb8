declare global {
  /** `true` in builds for tests, `false` in all others (deploy/bundle.ts); absent where nothing was built. */
  var MANTIS_TEST_SEAMS: boolean | undefined;
}

/** Virtual time was `virtualMs` when the platform's was `platformMs`, and runs `scale` times as fast. */
export type TestClock = { virtualMs: number; platformMs: number; scale: number };
let clock: TestClock | null = null;

/** What time it is, Unix milliseconds. Everything at the edge that decides by time asks here, so that tests can run it under a clock of their own. */
export function nowMs(): number {
  if (globalThis.MANTIS_TEST_SEAMS !== true || clock === null) return Date.now();
  return Math.floor(clock.virtualMs + (Date.now() - clock.platformMs) * clock.scale);
}

/** A moment of `nowMs`'s clock on the platform's, which alarms go by: the same, but in a test that has set the clock. */
export function platformMs(atMs: number): number {
  if (globalThis.MANTIS_TEST_SEAMS !== true || clock === null) return atMs;
  return Math.ceil(clock.platformMs + (atMs - clock.virtualMs) / clock.scale);
}

/** For `seams.ts` alone; does nothing in builds that are not for tests. @param set null: the platform's clock */
export function setTestClock(set: TestClock | null): void {
  if (globalThis.MANTIS_TEST_SEAMS === true) clock = set;
}

/** Virtual ms in one of the platform's. */
export function clockScale(): number {
  return clock?.scale ?? 1;
}
