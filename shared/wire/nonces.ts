/**
 * Nonces of signed calls that were accepted, for as long as their signature could be accepted again. Bounded by its number of entries; when it is full,
 * calls are refused rather than accepted unseen.
 */
export class NonceCache {
  /** By the second that was signed, so that what has become too old is dropped a second at a time. */
  readonly #bySecond = new Map<number, Set<string>>();
  #size = 0;
  #oldestS = Number.POSITIVE_INFINITY;

  /**
   * @param toleranceS the receiver's: signatures of another time than now ± this are refused before they come here
   * @param max entries kept at most
   */
  constructor(
    readonly toleranceS: number,
    readonly max: number,
  ) {}

  get size(): number {
    return this.#size;
  }

  /** Remembers a nonce. @returns false where it was taken before, or nothing more can be remembered */
  take(nonce: string, timestampS: number, nowS: number): boolean {
    this.#drop(nowS);
    const second = this.#bySecond.get(timestampS);
    if (second?.has(nonce) === true || this.#size >= this.max) return false;
    if (second === undefined) {
      this.#bySecond.set(timestampS, new Set([nonce]));
      this.#oldestS = Math.min(this.#oldestS, timestampS);
    } else second.add(nonce);
    this.#size++;
    return true;
  }

  #drop(nowS: number): void {
    if (this.#oldestS >= nowS - this.toleranceS) return;
    this.#oldestS = Number.POSITIVE_INFINITY;
    for (const [timestampS, nonces] of this.#bySecond) {
      if (timestampS < nowS - this.toleranceS) {
        this.#size -= nonces.size;
        this.#bySecond.delete(timestampS);
      } else this.#oldestS = Math.min(this.#oldestS, timestampS);
    }
  }
}
