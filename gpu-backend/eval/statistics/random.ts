import { createHash } from 'node:crypto';

/** Random numbers that a name decides: resampling and shuffling give the same result in every run and on every machine. xoshiro128**, Blackman & Vigna 2021. */
export class RandomStream {
  readonly #state = new Uint32Array(4);

  constructor(name: string) {
    const digest = createHash('sha256').update(name).digest();
    for (let i = 0; i < 4; i++) this.#state[i] = digest.readUInt32LE(4 * i);
  }

  /** 32 bits, as an unsigned number. */
  bits(): number {
    const s = this.#state as unknown as [number, number, number, number];
    const scrambled = Math.imul(rotate(Math.imul(s[1], 5), 7), 9) >>> 0;
    const shifted = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotate(s[3], 11);
    return scrambled;
  }

  /** Uniform in [0, 1) with 32 bits. */
  uniform(): number {
    return this.bits() / 2 ** 32;
  }

  /** Uniform whole number in 0 … below − 1, for `below` up to 2³². */
  below(below: number): number {
    return Math.floor(this.uniform() * below);
  }

  /** A shuffled copy. Fisher & Yates, from the end. */
  shuffle<T>(of: readonly T[]): T[] {
    const shuffled = [...of];
    for (let i = shuffled.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [shuffled[i], shuffled[j]] = [shuffled[j] as T, shuffled[i] as T];
    }
    return shuffled;
  }
}

function rotate(x: number, by: number): number {
  return (x << by) | (x >>> (32 - by));
}
