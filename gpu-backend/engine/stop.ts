/**
 * Stop strings may begin in one token and end in a later one. Text that could still become a stop string is held back, so
 * that nothing of it ever reaches the client; it is released as soon as it cannot, or at the end of the answer.
 */
export class StopMatcher {
  readonly #stops: readonly string[];
  #held = '';
  #stopped = false;

  /** Empty strings are refused: they would stop every answer before it starts. */
  constructor(stops: readonly string[]) {
    const empty = stops.indexOf('');
    if (empty >= 0) throw new Error(`stop[${empty}] is an empty string; expected at least one character.`);
    this.#stops = stops;
  }

  /** True once a stop string has been seen; everything pushed later is dropped. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** Takes the next piece of text, gives the part that is safe to send. The stop string itself is never sent. */
  push(text: string): string {
    if (this.#stopped || text === '') return '';
    const all = this.#held + text;
    let cut = -1;
    for (const stop of this.#stops) {
      const at = all.indexOf(stop);
      if (at >= 0 && (cut < 0 || at < cut)) cut = at;
    }
    if (cut >= 0) {
      this.#stopped = true;
      this.#held = '';
      return all.slice(0, cut);
    }
    const keep = longestStopPrefix(all, this.#stops);
    this.#held = all.slice(all.length - keep);
    return all.slice(0, all.length - keep);
  }

  /** End of the answer: what was held back turned out to be ordinary text. */
  flush(): string {
    const rest = this.#held;
    this.#held = '';
    return rest;
  }
}

/** Length of the longest end of `text` that is a beginning of some stop string (never a whole one). */
function longestStopPrefix(text: string, stops: readonly string[]): number {
  let longest = 0;
  for (const stop of stops)
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--)
      if (text.endsWith(stop.slice(0, length))) longest = length;
  return longest;
}
