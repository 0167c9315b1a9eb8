/** Lets so many in at once; the others wait in their order. */
export class Turnstile {
  readonly #most: number;
  #inside = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(most: number) {
    if (!Number.isInteger(most) || most < 1)
      throw new RangeError(`Turnstile: expected at least 1 at once, received ${most}`);
    this.#most = most;
  }

  async enter(): Promise<void> {
    if (this.#inside >= this.#most) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#inside++;
  }

  /** The place goes to who waits longest. */
  leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#inside--;
    else next();
    if (this.#inside === 0) for (const resolve of this.#emptied.splice(0)) resolve();
  }

  /** Resolves when nobody is inside. */
  async empty(): Promise<void> {
    if (this.#inside > 0) await new Promise<void>((resolve) => this.#emptied.push(resolve));
  }

  readonly #emptied: (() => void)[] = [];
}
