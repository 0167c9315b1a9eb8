/** Tokens that may come next: their ids, ascending, where they are few enough for that to be faster; else a bit per token id. */
export type TokenMask =
  | { readonly count: number; readonly ids: Int32Array; readonly bits: null }
  | { readonly count: number; readonly ids: null; readonly bits: Uint32Array };

/** Ids are listed where at most one in so many tokens is allowed. */
const FEW = 8;

/** A mask of these bits, which it keeps. */
export function maskOf(bits: Uint32Array): TokenMask {
  let count = 0;
  for (const word of bits) count += ones(word);
  if (count * FEW > bits.length * 32) return { count, ids: null, bits };
  const ids = new Int32Array(count);
  let at = 0;
  for (let word = 0; word < bits.length; word++)
    for (let rest = bits[word]!; rest !== 0; rest &= rest - 1) ids[at++] = word * 32 + (31 - Math.clz32(rest & -rest));
  return { count, ids, bits: null };
}

/** A mask of these ids. */
export function maskOfIds(found: readonly number[]): TokenMask {
  return { count: found.length, ids: Int32Array.from(found).sort(), bits: null };
}

function ones(word: number): number {
  let bits = word - ((word >>> 1) & 0x55555555);
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
