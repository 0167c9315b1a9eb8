import * as z from 'zod/mini';
import { LIMITS } from './limits.ts';

export const ImageMime = z.enum(LIMITS.images.mimes);
export type ImageMime = z.infer<typeof ImageMime>;

/**
 * What the header of a picture says, before a single pixel is decoded. Width and height are upright (EXIF orientation, or AVIF's `irot` and `imir`,
 * applied). Of an animation the first frame is what a model sees.
 */
export const ImageInfo = z.object({
  mime: ImageMime,
  width: z.int(),
  height: z.int(),
  /** 1, or more for an animation; counting may stop at 2. */
  frames: z.int(),
  /** EXIF orientation 1–8; 1 is upright. Always 1 for AVIF, whose containers turn pictures themselves. */
  orientation: z.int(),
  /** Bits of a sample: 1, 2, 4, 8, 10, 12, 16. */
  bitDepth: z.int(),
  /** Colour samples of a pixel once a palette is looked up, without alpha: 1 grey, 3 colour, 4 CMYK. */
  channels: z.int(),
  hasAlpha: z.boolean(),
  /** Whether it brings a colour profile (ICC). */
  hasProfile: z.boolean(),
  /** A progressive JPEG or an interlaced PNG or GIF: its decoder holds the whole picture before it gives the first row. */
  progressive: z.boolean(),
});
export type ImageInfo = z.infer<typeof ImageInfo>;

/** Where the features of a picture came from; `none`: they were computed; `duplicate`: the picture stands earlier in the same request. */
export const ImageCacheSource = z.enum(['memory', 'disk', 'objects', 'none', 'duplicate']);
export type ImageCacheSource = z.infer<typeof ImageCacheSource>;

/** One picture in `usage.prompt_tokens_details.images`, in reading order. */
export const ImageUsage = z.object({ tokens: z.int(), cache: ImageCacheSource });
export type ImageUsage = z.infer<typeof ImageUsage>;

/** Header of an answer: one `ImageCacheSource` a picture, in reading order, separated by commas. */
export const IMAGE_CACHE_HEADER = 'x-image-cache';

/**
 * What is said of each picture of a request.
 * @param tokens decoder positions of each, in reading order
 * @param sources what the backend says of each, where it says anything
 * @param blobs which of the request's distinct pictures each one is: a later one of the same is a duplicate
 */
export function imageUsage(
  tokens: readonly number[],
  sources: readonly Exclude<ImageCacheSource, 'duplicate'>[] | undefined,
  blobs: readonly number[],
): ImageUsage[] {
  const seen = new Set<number>();
  return tokens.map((count, i): ImageUsage => {
    const blob = blobs[i];
    const isDuplicate = blob !== undefined && seen.has(blob);
    if (blob !== undefined) seen.add(blob);
    return { tokens: count, cache: isDuplicate ? 'duplicate' : (sources?.[i] ?? 'none') };
  });
}

/** Body of a backend's 409 `blobs_missing`: pictures that it was asked for by digest and does not hold. */
export const BlobsMissing = z.object({ missing: z.array(z.string()) });
export type BlobsMissing = z.infer<typeof BlobsMissing>;
