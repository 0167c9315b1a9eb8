import type { PictureSize } from '../models/family.ts';

/** Pixels of one run, padding included: attention over patches grows with the square of a picture, memory with it. */
const PIXELS_PER_RUN = 2 ** 20;

/** Share of a run that may be padding. What is padded is computed for nothing. */
const MAX_PADDING = 1 / 8;

/**
 * Which pictures go through the encoder together, of whatever requests they are: those of one shape, and those whose shapes are
 * so alike that little is padded. A picture larger than a run is alone in it.
 * @returns indices into `pictures`, each once, rising within a run; runs in order of their first picture
 */
export function pictureRuns(pictures: readonly PictureSize[]): number[][] {
  const order = [...pictures.keys()].sort((a, b) => {
    const [p, q] = [pictures[a]!, pictures[b]!];
    return p.height - q.height || p.width - q.width || a - b;
  });
  const runs: number[][] = [];
  let run = { width: 0, height: 0, pixels: 0 };
  for (const index of order) {
    const { width, height } = pictures[index]!;
    const last = runs.at(-1);
    const grown = {
      width: Math.max(run.width, width),
      height: Math.max(run.height, height),
      pixels: run.pixels + width * height,
    };
    const padded = ((last?.length ?? 0) + 1) * grown.width * grown.height;
    if (last !== undefined && padded <= PIXELS_PER_RUN && padded - grown.pixels <= MAX_PADDING * padded) {
      last.push(index);
      run = grown;
    } else {
      runs.push([index]);
      run = { width, height, pixels: width * height };
    }
  }
  for (const one of runs) one.sort((a, b) => a - b);
  return runs.sort((a, b) => a[0]! - b[0]!);
}
