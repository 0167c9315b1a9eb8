/**
 * Several pictures as one, as the paper showed them to models that take a single picture: each scaled to the average height and laid
 * beside the one before it, with a divider between.
 */
import { sha256Hex } from '../../io/digest.ts';
import { decodeImage } from '../../vision/decode.ts';
import { encodePng } from '../../vision/encode.ts';
import { type RgbImage, resizeRgb } from '../../vision/resample.ts';
import type { EvalImage } from '../task.ts';

/** Columns between two pictures: black, white, black. */
const DIVIDER = [
  { columns: 1, level: 0 },
  { columns: 8, level: 255 },
  { columns: 1, level: 0 },
] as const;
const DIVIDER_COLUMNS = DIVIDER.reduce((sum, { columns }) => sum + columns, 0);
/** Raised when the same pictures give other pixels. */
const MERGE_VERSION = 1;

/**
 * Pure. One picture stays as it is. Heights: ⌊mean⌋ of all; widths: ⌊width · height / own height⌋, one at least; Pillow's bicubic filter.
 * @throws RangeError without pictures
 */
export function mergePictures(pictures: readonly RgbImage[]): RgbImage {
  const [first] = pictures;
  if (first === undefined) throw new RangeError('mergePictures: expected at least one picture');
  if (pictures.length === 1) return first;
  const height = Math.floor(pictures.reduce((sum, picture) => sum + picture.height, 0) / pictures.length);
  const scaled = pictures.map((picture) => {
    const width = Math.max(1, Math.trunc((picture.width * height) / picture.height));
    return resizeRgb(picture, width, height, 'bicubic');
  });
  const width = scaled.reduce((sum, picture) => sum + picture.width, DIVIDER_COLUMNS * (scaled.length - 1));
  const pixels_HWC = new Uint8Array(width * height * 3);
  let left = 0;
  for (const [i, picture] of scaled.entries()) {
    for (const { columns, level } of i === 0 ? [] : DIVIDER) {
      for (let y = 0; y < height; y++) {
        const start = (y * width + left) * 3;
        pixels_HWC.fill(level, start, start + columns * 3);
      }
      left += columns;
    }
    const row = picture.width * 3;
    for (let y = 0; y < height; y++)
      pixels_HWC.set(picture.pixels_HWC.subarray(y * row, (y + 1) * row), (y * width + left) * 3);
    left += picture.width;
  }
  return { width, height, pixels_HWC };
}

/**
 * The merged picture of some files, made when it is asked for. Files are read as Pillow's `convert('RGB')` reads them, which is what the paper merged:
 * stored numbers, no EXIF orientation, transparency ignored. Its name is made of theirs, so that a known answer needs no pixel.
 */
export function mergedImage(images: readonly EvalImage[]): EvalImage {
  const sha256 = sha256Hex(['merge', MERGE_VERSION, ...images.map((image) => image.sha256)].join('\n'));
  return {
    sha256,
    bytes: async () => {
      const pictures: RgbImage[] = [];
      for (const image of images)
        pictures.push(await decodeImage(await image.bytes(), { alpha: 'drop', orient: false, colour: 'stored' }));
      // The least effort: it is read once, in this process or by an endpoint.
      return await encodePng(mergePictures(pictures), 1);
    },
  };
}
