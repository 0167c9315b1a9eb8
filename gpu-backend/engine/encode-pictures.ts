import type { VlmConfig } from '../models/config.ts';
import { familyOf, type Picture } from '../models/family.ts';
import type { Session, Tensor } from '../runtime/session.ts';

/** Pixels of one run, padding included: attention over patches grows with the square of a picture, memory with it. */
const PIXELS_PER_RUN = 2 ** 20;

/** A compiled vision graph with the weights that it reads. */
export interface PictureEncoder {
  readonly session: Session;
  readonly feeds: Readonly<Record<string, Tensor>>;
}

/** Neighbours that run together: a picture, and those after it while all of them, padded to the largest, are few pixels. */
export function picturesByRun<P extends Pick<Picture, 'width' | 'height'>>(pictures: readonly P[]): P[][] {
  const runs: P[][] = [];
  let [width, height] = [0, 0];
  for (const picture of pictures) {
    const run = runs.at(-1);
    width = Math.max(width, picture.width);
    height = Math.max(height, picture.height);
    if (run !== undefined && (run.length + 1) * width * height <= PIXELS_PER_RUN) run.push(picture);
    else {
      runs.push([picture]);
      ({ width, height } = picture);
    }
  }
  return runs;
}

/** Features of pictures as the decoder takes them: [slot length, hidden] of each. */
export async function encodePictures(
  config: VlmConfig,
  { session, feeds }: PictureEncoder,
  pictures: readonly Picture[],
): Promise<Float32Array[]> {
  const family = familyOf(config);
  const encoded: Float32Array[] = [];
  for (const run of picturesByRun(pictures)) {
    const results = await session.run({ ...feeds, ...family.pictureFeeds(config, run) });
    const features = results.image_features?.data;
    if (!(features instanceof Float32Array)) throw new Error('internal: the vision graph gave no features as f32');
    let end = 0;
    for (const picture of run) {
      const start = end;
      end += family.slotIds(config, picture).length * config.text.hidden;
      // A copy, so that a cached picture does not keep the features of a whole run alive.
      encoded.push(features.slice(start, end));
    }
    if (end !== features.length)
      throw new Error(`internal: ${run.length} pictures have ${features.length} feature values, expected ${end}`);
  }
  return encoded;
}
