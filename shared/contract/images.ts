import * as z from 'zod/mini';
import { LIMITS } from './limits.ts';

export const ImageMime = z.enum(LIMITS.images.mimes);
export type ImageMime = z.infer<typeof ImageMime>;

/** What the header of a picture says, before a single pixel is decoded. Width and height are upright (EXIF orientation applied). */
export const ImageInfo = z.object({
  mime: ImageMime,
  width: z.int(),
  height: z.int(),
  frames: z.int(),
  /** EXIF orientation 1–8; 1 is upright. */
  orientation: z.int(),
});
export type ImageInfo = z.infer<typeof ImageInfo>;
