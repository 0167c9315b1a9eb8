import sharp from 'sharp';
import type { RgbImage } from './resample.ts';

/** PNG of an image. @param compressionLevel of zlib, 0 … 9; default that of sharp */
export async function encodePng(
  { width, height, pixels_HWC }: RgbImage,
  compressionLevel?: number,
): Promise<Uint8Array> {
  return await sharp(pixels_HWC, { raw: { width, height, channels: 3 } })
    .png(compressionLevel === undefined ? {} : { compressionLevel })
    .toBuffer();
}

/** A picture small enough to stand in a page. */
export interface Thumbnail {
  readonly width: number;
  readonly height: number;
  readonly webp: Uint8Array;
}

/** @param sidePx longer side at most; smaller pictures are not enlarged @param quality 1 … 100 */
export async function encodeThumbnail(image: RgbImage, sidePx: number, quality: number): Promise<Thumbnail> {
  const { width, height, pixels_HWC } = image;
  const { data, info } = await sharp(pixels_HWC, { raw: { width, height, channels: 3 } })
    .resize({ width: sidePx, height: sidePx, fit: 'inside', withoutEnlargement: true })
    .webp({ quality })
    .toBuffer({ resolveWithObject: true });
  return { width: info.width, height: info.height, webp: data };
}
