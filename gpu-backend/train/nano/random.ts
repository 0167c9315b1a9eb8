/**
 * A small seeded generator for data synthesis. Every dialogue gets its own generator from (seed, index), so that any element of the
 * stream can be made without making the ones before it, and a resumed run sees exactly the data it would have seen.
 */
export class Rng {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  /** @param seed any integer @param stream any non-negative integer below 2^53; different pairs give unrelated sequences */
  constructor(seed: number, stream = 0) {
    this.#a = seed >>> 0;
    this.#b = Math.floor(seed / 0x1_0000_0000) >>> 0;
    this.#c = stream >>> 0;
    this.#d = (Math.floor(stream / 0x1_0000_0000) ^ 0x9e3779b9) >>> 0;
    for (let i = 0; i < 12; i++) this.next();
  }

  /** The next 32-bit word of sfc32 (Chris Doty-Humphrey, PractRand). */
  next(): number {
    const sum = (this.#a + this.#b + this.#d) >>> 0;
    this.#d = (this.#d + 1) >>> 0;
    this.#a = (this.#b ^ (this.#b >>> 9)) >>> 0;
    this.#b = (this.#c + (this.#c << 3)) >>> 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) >>> 0;
    this.#c = (this.#c + sum) >>> 0;
    return sum;
  }

  /** Uniform in [0, 1). */
  unit(): number {
    return this.next() / 0x1_0000_0000;
  }

  /** Uniform integer, both ends included. */
  int(low: number, high: number): number {
    return low + Math.floor(this.unit() * (high - low + 1));
  }

  chance(probability: number): boolean {
    return this.unit() < probability;
  }

  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new RangeError('Rng.pick: expected a non-empty list');
    return items[Math.floor(this.unit() * items.length)] as T;
  }

  /** One key of `weights`, drawn in proportion to its value (values >= 0, not all 0). */
  weighted<K extends string>(weights: Readonly<Partial<Record<K, number>>>): K {
    const entries = Object.entries(weights) as [K, number][];
    let total = 0;
    for (const [, weight] of entries) total += weight;
    if (!(total > 0)) throw new RangeError(`Rng.weighted: expected a positive weight, got ${JSON.stringify(weights)}`);
    let left = this.unit() * total;
    for (const [key, weight] of entries) {
      left -= weight;
      if (left < 0) return key;
    }
    return (entries[entries.length - 1] as [K, number])[0];
  }

  /** Fisher–Yates on a copy. */
  shuffle<T>(items: readonly T[]): T[] {
    const out = items.slice();
    for (let i = out.length - 1; i > 0; i--) {
      const j = Math.floor(this.unit() * (i + 1));
      const kept = out[i] as T;
      out[i] = out[j] as T;
      out[j] = kept;
    }
    return out;
  }

  /** `count` different items in random order; all of them when there are fewer. */
  sample<T>(items: readonly T[], count: number): T[] {
    return this.shuffle(items).slice(0, count);
  }
}
