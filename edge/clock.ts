/** What time it is, Unix milliseconds. Everything at the edge that decides by time asks here, so that tests can run it under a clock of their own. */
export function nowMs(): number {
  return Date.now();
}
