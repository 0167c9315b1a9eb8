/**
 * A prompt as the prefix tree compares it: a token id at every text position, and (image key, offset) at every position of
 * an image. Two positions are equal when the symbols are; nothing is hashed, so nothing can collide. An image key stands for
 * the features (pixels, recipe, model), so equal keys mean equal numbers at equal offsets.
 */
export interface PromptSymbols {
  /** By position. What stands at positions of an image is not looked at. */
  readonly tokenIds: Int32Array;
  /** In order of `start`, without overlap, inside the prompt. */
  readonly images: readonly ImageRun[];
}

export interface ImageRun {
  readonly start: number;
  readonly tokens: number;
  readonly key: string;
}

/** Index of the first run that ends behind `position`; `images.length` when there is none. */
function runAt(images: readonly ImageRun[], position: number): number {
  let low = 0;
  let high = images.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const run = images[middle]!;
    if (run.start + run.tokens <= position) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** How many symbols of `a` from `aFrom` on equal those of `b` from `bFrom` on, at most `limit`. */
export function commonLength(a: PromptSymbols, aFrom: number, b: PromptSymbols, bFrom: number, limit: number): number {
  let runA = runAt(a.images, aFrom);
  let runB = runAt(b.images, bFrom);
  let length = 0;
  while (length < limit) {
    const atA = aFrom + length;
    const atB = bFrom + length;
    const imageA = a.images[runA];
    const imageB = b.images[runB];
    const offsetA = imageA === undefined ? Number.NEGATIVE_INFINITY : atA - imageA.start;
    const offsetB = imageB === undefined ? Number.NEGATIVE_INFINITY : atB - imageB.start;
    if (offsetA >= 0 || offsetB >= 0) {
      if (imageA === undefined || imageB === undefined || offsetA !== offsetB) return length;
      if (imageA.key !== imageB.key || imageA.tokens !== imageB.tokens) return length;
      length += imageA.tokens - offsetA;
      runA++;
      runB++;
    } else {
      const end = Math.min(limit, length + Math.min(-offsetA, -offsetB));
      for (; length < end; length++) if (a.tokenIds[aFrom + length] !== b.tokenIds[bFrom + length]) return length;
    }
  }
  return limit;
}

/** The symbol at a position as a map key: a number for text, a string for an image. */
export function symbolAt(symbols: PromptSymbols, position: number): number | string {
  const run = symbols.images[runAt(symbols.images, position)];
  if (run === undefined || position < run.start) return symbols.tokenIds[position]!;
  return `${position - run.start}/${run.tokens} ${run.key}`;
}

/** A copy of positions from … to-1. An image cut by `from` keeps its true start, which is then negative. */
export function sliceSymbols(symbols: PromptSymbols, from: number, to: number): PromptSymbols {
  const images: ImageRun[] = [];
  for (let index = runAt(symbols.images, from); index < symbols.images.length; index++) {
    const { start, tokens, key } = symbols.images[index]!;
    if (start >= to) break;
    images.push({ start: start - from, tokens, key });
  }
  return { tokenIds: symbols.tokenIds.slice(from, to), images };
}
