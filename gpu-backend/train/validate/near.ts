/** Pairs that are almost the same, found without comparing all with all: pictures by pieces of their hashes, examples by keys of their texts and pictures. */
import type { Message } from '../../text/layout.ts';
import type { ExampleTable } from './examples.ts';
import { hashDistance, thumbDistance } from './picture-signature.ts';
import type { PictureCheck } from './pictures.ts';
import { BANDS, mixAll, overlap, shinglesOf } from './text-signature.ts';

/**
 * Bits of 64 in which the hashes of two pictures may differ. Measured on 260 photos of real Mantis conversations at nano's 100x100: saved again as JPEG of
 * quality 50 or at half the size all differ by at most this, as WebP of quality 60 99.6 %; of their 33,670 pairs none does (the closest differ in 7). A copy
 * that is cropped by 3 % at two sides is found in half of the cases.
 */
export const MAX_HASH_BITS = 4;
/** Mean difference of two thumbnails, of 255 grey levels; those photos saved again differ by at most 1.9. Tells pictures apart that are mostly flat. */
export const MAX_THUMB_LEVELS = 6;
/** Share of three-word runs that two conversations have in common: about one word in thirty is different. */
export const MIN_OVERLAP = 0.8;

/** In a group of examples with one key, each is compared with so many before it. */
const GROUP_WINDOW = 16;
/** Comparisons of texts, each of which reads two examples from disk; what is beyond is said. */
const MAX_COMPARISONS = 200_000;

/** Whether two pictures look the same. */
export async function looksAlike(pictures: PictureCheck, a: number, b: number): Promise<boolean> {
  if (a === b) return true;
  if (pictures.isUniform(a) || pictures.isUniform(b)) return false;
  if (hashDistance(pictures.hashOf(a), pictures.hashOf(b)) > MAX_HASH_BITS) return false;
  return thumbDistance(await pictures.thumbOf(a), await pictures.thumbOf(b)) <= MAX_THUMB_LEVELS;
}

/** Pieces that a hash is cut into: with one more than the bits that may differ, one piece at least is equal. */
const PIECES = MAX_HASH_BITS + 1;

/**
 * For each of `wanted` that looks like one of `among`, that one.
 * @param among numbers of pictures; equal ones are not looked for here
 */
export async function findAlike(
  pictures: PictureCheck,
  wanted: readonly number[],
  among: readonly number[],
): Promise<Map<number, number>> {
  const found = new Map<number, number>();
  if (wanted.length === 0 || among.length === 0) return found;
  for (let piece = 0; piece < PIECES; piece++) {
    const keys = sortedKeys(among, (picture) => pieceOf(pictures.hashOf(picture), piece));
    for (const picture of wanted) {
      if (found.has(picture)) continue;
      const key = pieceOf(pictures.hashOf(picture), piece);
      for (let i = lowerBound(keys, key * SHIFT); i < keys.length && Math.floor((keys[i] ?? 0) / SHIFT) === key; i++) {
        const other = among[(keys[i] ?? 0) % SHIFT];
        if (other === undefined || !(await looksAlike(pictures, picture, other))) continue;
        found.set(picture, other);
        break;
      }
    }
  }
  return found;
}

const PIECE_BITS = Math.ceil(64 / PIECES);
const pieceOf = (hash: bigint, piece: number): number =>
  Number((hash >> BigInt(piece * PIECE_BITS)) & ((1n << BigInt(PIECE_BITS)) - 1n));

/** More than there may be examples or pictures: a key and a position share one exact number. */
const SHIFT = 2 ** 21;

/** Keys (below 2^32) and positions in one number each, sorted: equal keys stand together, in order. */
function sortedKeys(items: readonly number[], keyOf: (item: number) => number): Float64Array {
  const keys = new Float64Array(items.length);
  for (let i = 0; i < items.length; i++) keys[i] = keyOf(items[i] ?? 0) * SHIFT + i;
  return keys.sort();
}

function lowerBound(keys: Float64Array, value: number): number {
  let [low, high] = [0, keys.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((keys[middle] ?? 0) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

export interface NearPair {
  readonly first: number;
  readonly second: number;
}

/**
 * Examples that say almost the same about pictures that look the same: for each, the first such one before it.
 * @param examples numbers, ascending; those that are exact copies of others are best left out
 * @param messagesOf reads a conversation back
 * @returns pairs, by the second; `isWhole` false: there were more candidates than are compared
 */
export async function findNearExamples(
  table: ExampleTable,
  pictures: PictureCheck,
  examples: readonly number[],
  messagesOf: (example: number) => Promise<readonly Message[]>,
  signal?: AbortSignal,
): Promise<{ readonly pairs: NearPair[]; readonly isWhole: boolean }> {
  const partner = new Map<number, number>();
  const texts = new Recent(async (example) => shinglesOf(await messagesOf(example)));
  let comparisons = 0;
  for (let band = 0; band < BANDS; band++) {
    signal?.throwIfAborted();
    const keys = sortedKeys(examples, (example) => keyOf(table, pictures, example, band));
    let start = 0;
    for (let i = 1; i < keys.length; i++) {
      if (Math.floor((keys[i] ?? 0) / SHIFT) !== Math.floor((keys[start] ?? 0) / SHIFT)) {
        start = i;
        continue;
      }
      const second = examples[(keys[i] ?? 0) % SHIFT] ?? 0;
      if (partner.has(second)) continue;
      for (let j = Math.max(start, i - GROUP_WINDOW); j < i; j++) {
        const first = examples[(keys[j] ?? 0) % SHIFT] ?? 0;
        if (!(await havePicturesAlike(table, pictures, first, second))) continue;
        if (++comparisons > MAX_COMPARISONS) return { pairs: pairsOf(partner), isWhole: false };
        if (overlap(await texts.get(first), await texts.get(second)) < MIN_OVERLAP) continue;
        partner.set(second, first);
        break;
      }
    }
  }
  return { pairs: pairsOf(partner), isWhole: true };
}

/** Texts' key, and of every picture the byte of its hash that belongs to the band: pictures that look the same have most bytes in common. */
function keyOf(table: ExampleTable, pictures: PictureCheck, example: number, band: number): number {
  const values = [table.band(example, band)];
  for (const picture of table.pictures(example))
    values.push(Number((pictures.hashOf(picture) >> BigInt(8 * (band % 8))) & 0xffn));
  return mixAll(values);
}

async function havePicturesAlike(table: ExampleTable, pictures: PictureCheck, a: number, b: number): Promise<boolean> {
  const [left, right] = [table.pictures(a), table.pictures(b)];
  if (left.length !== right.length) return false;
  for (const [i, picture] of left.entries())
    if (!(await looksAlike(pictures, picture, right[i] ?? picture))) return false;
  return true;
}

function pairsOf(partner: ReadonlyMap<number, number>): NearPair[] {
  return [...partner].map(([second, first]) => ({ first, second })).sort((a, b) => a.second - b.second);
}

/** The last few values: groups are compared within themselves. */
class Recent<T> {
  private readonly kept = new Map<number, T>();

  constructor(private readonly make: (key: number) => Promise<T>) {}

  async get(key: number): Promise<T> {
    let value = this.kept.get(key);
    if (value === undefined) value = await this.make(key);
    else this.kept.delete(key);
    this.kept.set(key, value);
    const [oldest] = this.kept.keys();
    if (this.kept.size > 4 * GROUP_WINDOW && oldest !== undefined) this.kept.delete(oldest);
    return value;
  }
}
