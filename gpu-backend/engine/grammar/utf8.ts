import type { CodeRange } from './expr.ts';

/** First and last value of one byte. */
export type ByteRange = readonly [low: number, high: number];

/** The UTF-8 forms of characters from `from` to `to`: each sequence stands for the product of its byte ranges. */
export function utf8Sequences(ranges: readonly CodeRange[]): readonly (readonly ByteRange[])[] {
  const sequences: ByteRange[][] = [];
  for (const [from, to] of ranges)
    for (const [first, last, length] of LENGTHS)
      if (from <= last && to >= first) split(Math.max(from, first), Math.min(to, last), length, sequences);
  return sequences;
}

const LENGTHS = [
  [0, 0x7f, 1],
  [0x80, 0x7ff, 2],
  [0x800, 0xffff, 3],
  [0x10000, 0x10ffff, 4],
] as const;

/** Cuts a range of equal length at the borders of its trailing six-bit groups, until each piece is a product. */
function split(from: number, to: number, length: number, into: ByteRange[][]): void {
  for (let group = 1; group < length; group++) {
    const mask = 2 ** (6 * group) - 1;
    if (Math.floor(from / (mask + 1)) === Math.floor(to / (mask + 1))) continue;
    if ((from & mask) !== 0) {
      split(from, from | mask, length, into);
      split((from | mask) + 1, to, length, into);
      return;
    }
    if ((to & mask) !== mask) {
      split(from, (to & ~mask) - 1, length, into);
      split(to & ~mask, to, length, into);
      return;
    }
  }
  const [low, high] = [encode(from, length), encode(to, length)];
  into.push(low.map((byte, i): ByteRange => [byte, high[i]!]));
}

function encode(code: number, length: number): number[] {
  if (length === 1) return [code];
  const lead = [0, 0, 0xc0, 0xe0, 0xf0][length]!;
  return Array.from({ length }, (_, i) => {
    const bits = (code >> (6 * (length - 1 - i))) & 0x3f;
    return (i === 0 ? lead : 0x80) | bits;
  });
}
