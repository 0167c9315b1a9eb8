/** Start of a table; it doubles when it is two thirds full. */
const FIRST_SLOTS = 1 << 10;
const WORDS = 4;

/**
 * Numbers digests in the order they are first seen: 0, 1, 2, … Holds 128 bits of each, which for a million digests makes an accidental match less likely
 * than 1e-26, in about 30 bytes a digest, where a `Map` of hex strings takes ten times that.
 */
export class DigestIndex {
  private keys = new Uint32Array(FIRST_SLOTS * WORDS);
  /** Number of the digest plus one; 0: empty. */
  private numbers = new Uint32Array(FIRST_SLOTS);
  private count = 0;

  get size(): number {
    return this.count;
  }

  /** @param digest hex, at least 32 digits @returns its number, and whether it was new */
  add(digest: string): { readonly number: number; readonly isNew: boolean } {
    if (3 * (this.count + 1) > 2 * this.numbers.length) this.grow();
    const words = wordsOf(digest);
    const slot = this.find(words);
    const known = this.numbers[slot] ?? 0;
    if (known > 0) return { number: known - 1, isNew: false };
    this.keys.set(words, slot * WORDS);
    this.numbers[slot] = ++this.count;
    return { number: this.count - 1, isNew: true };
  }

  /** @returns its number, or undefined where it was never added */
  get(digest: string): number | undefined {
    const known = this.numbers[this.find(wordsOf(digest))] ?? 0;
    return known > 0 ? known - 1 : undefined;
  }

  /** The slot that has the key, or the empty one where it would go. */
  private find(words: ArrayLike<number>): number {
    const mask = this.numbers.length - 1;
    for (let slot = (words[0] ?? 0) & mask; ; slot = (slot + 1) & mask) {
      if (this.numbers[slot] === 0) return slot;
      const at = slot * WORDS;
      let isSame = true;
      for (let w = 0; w < WORDS; w++) if (this.keys[at + w] !== words[w]) isSame = false;
      if (isSame) return slot;
    }
  }

  private grow(): void {
    const { keys, numbers } = this;
    this.keys = new Uint32Array(keys.length * 2);
    this.numbers = new Uint32Array(numbers.length * 2);
    for (let slot = 0; slot < numbers.length; slot++) {
      const number = numbers[slot] ?? 0;
      if (number === 0) continue;
      const words = keys.subarray(slot * WORDS, (slot + 1) * WORDS);
      const to = this.find(words);
      this.keys.set(words, to * WORDS);
      this.numbers[to] = number;
    }
  }
}

function wordsOf(digest: string): Uint32Array {
  const words = new Uint32Array(WORDS);
  for (let w = 0; w < WORDS; w++) words[w] = Number.parseInt(digest.slice(8 * w, 8 * w + 8), 16);
  return words;
}
