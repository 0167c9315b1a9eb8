import { decodeImage } from '../../vision/decode.ts';
import { encodeThumbnail, type Thumbnail } from '../../vision/encode.ts';
import type { RgbImage } from '../../vision/resample.ts';
import type { EvalRecord } from '../task.ts';
import type { EvalComparison, EvalReport } from './schema.ts';

/** By the SHA-256 of the picture's file. */
export type Thumbnails = ReadonlyMap<string, Thumbnail>;

/** Longer side, px; small pictures are not enlarged. */
const SIDE_PX = 224;
const QUALITY = 62;
/** All thumbnails of a page; what comes after is left out, and the page says so. */
const MAX_BYTES = 3_500_000;

type Decode = (bytes: Uint8Array) => Promise<RgbImage>;

/** Digests of the pictures that a page shows. */
export function picturesOf(shown: EvalReport | EvalComparison): Set<string> {
  const questions =
    shown.object === 'mantis.eval_report' ? shown.wrong.shown : [...shown.wins.shown, ...shown.losses.shown];
  return new Set(questions.flatMap(({ images }) => images));
}

/**
 * Thumbnails of pictures, read from the records once. A picture that cannot be read is left out: a report must not fail by it.
 * @param decode pixels of a file; a server passes the one that runs in a process of its own
 */
export async function makeThumbnails(
  wanted: ReadonlySet<string>,
  records: AsyncIterable<Pick<EvalRecord, 'images'>> | Iterable<Pick<EvalRecord, 'images'>>,
  decode: Decode = decodeImage,
): Promise<Thumbnails> {
  const made = new Map<string, Thumbnail>();
  const open = new Set(wanted);
  let bytes = 0;
  if (open.size === 0) return made;
  for await (const { images } of records) {
    for (const image of images) {
      if (!open.delete(image.sha256)) continue;
      const thumbnail = await shrink(await image.bytes(), decode).catch(() => null);
      if (thumbnail === null) continue;
      bytes += thumbnail.webp.length;
      if (bytes > MAX_BYTES) return made;
      made.set(image.sha256, thumbnail);
    }
    if (open.size === 0) break;
  }
  return made;
}

async function shrink(file: Uint8Array, decode: Decode): Promise<Thumbnail> {
  return await encodeThumbnail(await decode(file), SIDE_PX, QUALITY);
}
