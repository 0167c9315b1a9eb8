/**
 * Whether two conversations say almost the same: overlap of their three-word shingles (Jaccard), found by MinHash. A. Broder, "On the resemblance and
 * containment of documents", 1997.
 */
import type { Message } from '../../text/layout.ts';

/** Words of a shingle. */
const SHINGLE = 3;
/** Keys of an example by which near ones are found, each over `ROWS` minima: of pairs that overlap to 0.8, 99.9 % share a key. */
export const BANDS = 10;
const ROWS = 3;

/** Hashes of all runs of three words, case and punctuation aside. Turns are told apart by who speaks. */
export function shinglesOf(messages: readonly Message[]): Set<number> {
  const shingles = new Set<number>();
  const recent: number[] = [];
  let words = 0;
  const add = (word: string): void => {
    recent.push(hashText(word));
    words++;
    if (recent.length > SHINGLE) recent.shift();
    if (recent.length === SHINGLE) shingles.add(mixAll(recent));
  };
  for (const { role, parts } of messages) {
    add(`<${role}>`);
    for (const part of parts) {
      if (part.type === 'image') add('<image>');
      else for (const word of part.text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []) add(word);
    }
  }
  if (words > 0 && shingles.size === 0) shingles.add(mixAll(recent));
  return shingles;
}

/** Share of shingles that two sets have in common, 0 … 1. */
export function overlap(a: ReadonlySet<number>, b: ReadonlySet<number>): number {
  if (a.size > b.size) return overlap(b, a);
  let common = 0;
  for (const shingle of a) if (b.has(shingle)) common++;
  const all = a.size + b.size - common;
  return all === 0 ? 1 : common / all;
}

/** `BANDS` numbers of 32 bits; sets that overlap much share some. */
export function bandsOf(shingles: ReadonlySet<number>): Uint32Array {
  const minima = new Uint32Array(BANDS * ROWS).fill(0xffffffff);
  for (const shingle of shingles)
    for (let i = 0; i < minima.length; i++) {
      const value = mix(shingle ^ Math.imul(i + 1, 0x9e3779b9));
      if (value < (minima[i] ?? 0)) minima[i] = value;
    }
  return Uint32Array.from({ length: BANDS }, (_, band) => mixAll(minima.subarray(band * ROWS, (band + 1) * ROWS)));
}

/** One number of several. */
export function mixAll(values: ArrayLike<number>): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < values.length; i++) h = mix(Math.imul(h, 31) ^ (values[i] ?? 0));
  return h;
}

/** FNV-1a over UTF-16 units. */
function hashText(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return mix(h);
}

/** The finaliser of MurmurHash3: every bit of the input moves every bit of the output. */
function mix(value: number): number {
  let h = value;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
