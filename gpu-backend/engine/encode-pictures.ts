import type { VlmConfig } from '../models/config.ts';
import { familyOf, type Picture } from '../models/family.ts';
import type { Session, Tensor } from '../runtime/session.ts';
import { pictureRuns } from './picture-runs.ts';

/** A compiled vision graph with the weights that it reads. */
export interface PictureEncoder {
  readonly session: Session;
  readonly feeds: Readonly<Record<string, Tensor>>;
}

/** Features of pictures as the decoder takes them, in their order: [slot length, hidden] of each. Alike ones run together. */
export async function encodePictures(
  config: VlmConfig,
  { session, feeds }: PictureEncoder,
  pictures: readonly Picture[],
): Promise<Float32Array[]> {
  const family = familyOf(config);
  const encoded: Float32Array[] = [];
  for (const indices of pictureRuns(pictures)) {
    const run = indices.map((index) => pictures[index]!);
    const results = await session.run({ ...feeds, ...family.pictureFeeds(config, run) });
    const features = results.image_features?.data;
    if (!(features instanceof Float32Array)) throw new Error('internal: the vision graph gave no features as f32');
    let end = 0;
    for (const [i, picture] of run.entries()) {
      const start = end;
      end += family.slotIds(config, picture).length * config.text.hidden;
      // A copy, so that a cached picture does not keep the features of a whole run alive.
      encoded[indices[i]!] = features.slice(start, end);
    }
    if (end !== features.length)
      throw new Error(`internal: ${run.length} pictures have ${features.length} feature values, expected ${end}`);
  }
  return encoded;
}
