import sharp from 'sharp';
import { sha256Hex } from '../io/digest.ts';
import type { EvalImage } from './task.ts';

/** Every channel of a blanked picture, 0 … 255. */
const BLANK_LEVEL = 128;

/** A grey picture of the size that a person sees (EXIF orientation applied), as PNG. @throws Error when the size cannot be read */
export async function blankImage(image: EvalImage, where: string): Promise<EvalImage> {
  let size: { width: number; height: number };
  try {
    size = (await sharp(await image.bytes()).metadata()).autoOrient;
  } catch (error) {
    throw new Error(
      `${where}: picture ${image.sha256} cannot be blanked, its size is unreadable (${error instanceof Error ? error.message : String(error)})`,
    );
  }
  const background = { r: BLANK_LEVEL, g: BLANK_LEVEL, b: BLANK_LEVEL };
  const bytes = await sharp({ create: { ...size, channels: 3, background } })
    .png()
    .toBuffer();
  return { sha256: sha256Hex(bytes), bytes: async () => bytes };
}
