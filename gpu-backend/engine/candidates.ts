/**
 * Orders of a vocabulary, best token first, without sorting it: by logit, and by the race that draws from the softmax (the Gumbel-max
 * trick: `logit + temperature · Gumbel noise` is largest for a token with exactly its probability). A token's key depends on its
 * logit and the draw alone, so leaving other tokens out never changes the order of the rest; and every token has a random number of
 * its own, so that rounding differences between batches can change the outcome only where two keys are all but equal. With one
 * number for the sum of all, they could wherever two tokens meet.
 */
import { bitsOfToken, bitsOfTokens, unitOf } from './random.ts';

/** Index of the largest value; the first of equals. NaN never wins. */
export function argmax(logits_V: Float32Array): number {
  let best = 0;
  let bestValue = Number.NEGATIVE_INFINITY;
  for (let id = 0; id < logits_V.length; id++) {
    const value = logits_V[id]!;
    if (value > bestValue) {
      bestValue = value;
      best = id;
    }
  }
  return best;
}

/** The same among given ids. */
export function argmaxAmong(logits_V: Float32Array, among: ArrayLike<number>): number {
  let best = among[0] ?? 0;
  let bestValue = Number.NEGATIVE_INFINITY;
  for (let index = 0; index < among.length; index++) {
    const id = among[index]!;
    const value = logits_V[id]!;
    if (value > bestValue || (value === bestValue && id < best)) {
      bestValue = value;
      best = id;
    }
  }
  return best;
}

/** Ids of the `count` largest logits, best first; equals by id. */
export function mostLikely(
  logits_V: Float32Array,
  count: number,
  among: ArrayLike<number> | null = null,
): readonly number[] {
  const candidates = among?.length ?? logits_V.length;
  if (count <= 0 || candidates === 0) return [];
  const best = new Best(Math.min(count, candidates));
  for (let index = 0; index < candidates; index++) {
    const id = among === null ? index : among[index]!;
    const value = logits_V[id]!;
    if (value >= best.least) best.offer(id, value);
  }
  return best.sorted();
}

/** Gumbel noise from 32 bits, -3.1 … 22.9. */
function gumbelOf(bits: number): number {
  return -Math.log(-Math.log(unitOf(bits)));
}

/** What the noise is at most, by the leading bits: most tokens are out of a race without a logarithm. */
const LEADING = 10;
const CEILINGS = Float64Array.from({ length: 2 ** LEADING }, (_, leading) => {
  const largest = (leading + 1) * 2 ** (32 - LEADING) - 1;
  return gumbelOf(largest) + 1e-9;
});
/** Random bits are made for so many tokens at a time. */
const BLOCK = 256;
const block = new Int32Array(BLOCK);

/**
 * The token that a draw picks from softmax(logits / temperature); -1 where no logit is above -Infinity.
 * @param draw see `drawOf`
 */
export function race(logits_V: Float32Array, temperature: number, draw: number): number {
  let winner = -1;
  let first = Number.NEGATIVE_INFINITY;
  for (let start = 0; start < logits_V.length; start += BLOCK) {
    bitsOfTokens(draw, start, block);
    const end = Math.min(start + BLOCK, logits_V.length);
    for (let id = start; id < end; id++) {
      const value = logits_V[id]!;
      const bits = block[id - start]!;
      if (!(value + temperature * CEILINGS[bits >>> (32 - LEADING)]! >= first)) continue;
      const key = value + temperature * gumbelOf(bits);
      if (key > first) {
        winner = id;
        first = key;
      }
    }
  }
  return winner;
}

/** The same race among given ids only, in any order; one of them at least has a logit above -Infinity. */
export function raceAmong(
  logits_V: Float32Array,
  temperature: number,
  draw: number,
  among: ArrayLike<number>,
  count = among.length,
): number {
  let winner = among[0]!;
  let first = Number.NEGATIVE_INFINITY;
  for (let index = 0; index < count; index++) {
    const id = among[index]!;
    const value = logits_V[id]!;
    const bits = bitsOfToken(draw, id);
    if (!(value + temperature * CEILINGS[bits >>> (32 - LEADING)]! >= first)) continue;
    const key = value + temperature * gumbelOf(bits);
    if (key > first || (key === first && id < winner)) {
      winner = id;
      first = key;
    }
  }
  return winner;
}

/** The first `count` of the race, in order. */
export function firstOfRace(
  logits_V: Float32Array,
  temperature: number,
  draw: number,
  count: number,
): readonly number[] {
  const best = new Best(Math.min(count, logits_V.length));
  for (let start = 0; start < logits_V.length; start += BLOCK) {
    bitsOfTokens(draw, start, block);
    const end = Math.min(start + BLOCK, logits_V.length);
    for (let id = start; id < end; id++) {
      const value = logits_V[id]!;
      const bits = block[id - start]!;
      if (!(value + temperature * CEILINGS[bits >>> (32 - LEADING)]! >= best.least)) continue;
      const key = value + temperature * gumbelOf(bits);
      if (key >= best.least) best.offer(id, key);
    }
  }
  return best.sorted();
}

/** The largest keys so far, in a heap with the worst of them on top: most of a vocabulary costs one comparison each. */
class Best {
  readonly #capacity: number;
  readonly #ids: number[] = [];
  readonly #keys: number[] = [];
  /** A smaller key is not among the largest. */
  least = Number.NEGATIVE_INFINITY;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** @param key at least `least` */
  offer(id: number, key: number): void {
    const [ids, keys] = [this.#ids, this.#keys];
    if (ids.length < this.#capacity) {
      ids.push(id);
      keys.push(key);
      this.#rise(id, key);
    } else {
      if (key === keys[0]! && id > ids[0]!) return;
      this.#sink(id, key);
    }
    if (ids.length === this.#capacity) this.least = keys[0]!;
  }

  /** Ids, best first; equals by id. */
  sorted(): readonly number[] {
    const [ids, keys] = [this.#ids, this.#keys];
    return [...ids.keys()].sort((a, b) => keys[b]! - keys[a]! || ids[a]! - ids[b]!).map((at) => ids[at]!);
  }

  #rise(id: number, key: number): void {
    const [ids, keys] = [this.#ids, this.#keys];
    let at = ids.length - 1;
    while (at > 0) {
      const parent = (at - 1) >>> 1;
      if (!(key < keys[parent]! || (key === keys[parent]! && id > ids[parent]!))) break;
      ids[at] = ids[parent]!;
      keys[at] = keys[parent]!;
      at = parent;
    }
    ids[at] = id;
    keys[at] = key;
  }

  /** Puts the token in place of the worst. */
  #sink(id: number, key: number): void {
    const [ids, keys] = [this.#ids, this.#keys];
    let at = 0;
    for (let child = 1; child < ids.length; child = 2 * at + 1) {
      const other = child + 1;
      if (
        other < ids.length &&
        (keys[other]! < keys[child]! || (keys[other]! === keys[child]! && ids[other]! > ids[child]!))
      )
        child = other;
      if (!(keys[child]! < key || (keys[child]! === key && ids[child]! > id))) break;
      ids[at] = ids[child]!;
      keys[at] = keys[child]!;
      at = child;
    }
    ids[at] = id;
    keys[at] = key;
  }
}
