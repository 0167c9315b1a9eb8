/** Tokens that may come next. */
export interface TokenMask {
  /** Bit per token id. */
  readonly bits: Uint32Array;
  readonly count: number;
  /** The allowed ids, ascending, where they are few enough to be faster than the bits; else `null`. */
  readonly ids: Int32Array | null;
}

/** Ids are listed where at most one in so many tokens is allowed. */
const FEW = 8;

/** A mask of these bits, which it keeps. */
export function maskOf(bits: Uint32Array): TokenMask {
  let count = 0;
  for (const word of bits) count += ones(word);
  if (count * FEW > bits.length * 32) return { bits, count, ids: null };
  const ids = new Int32Array(count);
  let at = 0;
  for (let word = 0; word < bits.length; word++)
    for (let rest = bits[word]!; rest !== 0; rest &= rest - 1) ids[at++] = word * 32 + (31 - Math.clz32(rest & -rest));
  return { bits, count, ids };
}

function ones(word: number): number {
  let bits = word - ((word >>> 1) & 0x55555555);
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
