/**
 * Counter-based random numbers: the n-th draw of a request depends on its seed and n alone, never on what else is in the
 * batch or on how often somebody else drew. Same seed, same text, whatever the batch mates.
 */

/** murmur3's 32-bit finalizer: every input bit flips each output bit with probability close to 1/2. */
function mix(value: number): number {
  let hash = value | 0;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}

/** 32 bits that name one draw: the seed's (any safe integer) at a counter (a token's position in the answer). */
export function drawOf(seed: number, counter: number): number {
  const low = seed >>> 0;
  const high = Math.floor(seed / 2 ** 32) | 0;
  return mix(mix(mix(low ^ 0x9e3779b9) ^ high) ^ Math.imul(counter + 1, 0x85157af5));
}

/** 32 bits (signed), one for each token of a draw. */
export function bitsOfToken(draw: number, id: number): number {
  return mix(mix(draw ^ Math.imul(id + 1, 0x9e3779b1)) + id);
}

/** The same for the tokens from `first` on, as many as fit: a loop of its own is twice as fast as calls from elsewhere. */
export function bitsOfTokens(draw: number, first: number, into: Int32Array): void {
  for (let index = 0; index < into.length; index++) {
    const id = first + index;
    into[index] = mix(mix(draw ^ Math.imul(id + 1, 0x9e3779b1)) + id);
  }
}

/** Uniform in (0, 1) from 32 bits. */
export function unitOf(bits: number): number {
  return ((bits >>> 0) + 0.5) / 2 ** 32;
}

/** Uniform in (0, 1) with 32 bits, one for each token of a draw. */
export function uniformOfToken(draw: number, id: number): number {
  return unitOf(bitsOfToken(draw, id));
}

/** Uniform in [0, 1) with 53 bits, from a seed and a counter. */
export function uniform(seed: number, counter: number): number {
  const base = drawOf(seed, counter);
  const first = mix(base + 0x3c6ef372) >>> 5; // 27 bits
  const second = mix(base ^ 0x1b873593) >>> 6; // 26 bits
  return (first * 2 ** 26 + second) / 2 ** 53;
}

/** The seed of choice `index` of a request with several: choice 0 keeps the request's own, the others draw independently of it. */
export function choiceSeed(seed: number, index: number): number {
  return index === 0 ? seed : Math.floor(uniform(seed, -2 - index) * Number.MAX_SAFE_INTEGER);
}
