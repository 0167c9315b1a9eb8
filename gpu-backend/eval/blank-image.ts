import { sha256Hex } from '../io/digest.ts';
import { readPictureSize } from '../vision/decode.ts';
import { encodePng } from '../vision/encode.ts';
import type { EvalImage } from './task.ts';

/** Every channel of a blanked picture, 0 … 255. */
const BLANK_LEVEL = 128;

/** A grey picture of the size that a person sees (EXIF orientation applied), as PNG. @throws Error when the size cannot be read */
export async function blankImage(image: EvalImage, where: string): Promise<EvalImage> {
  const { width, height } = await readPictureSize(await image.bytes()).catch((error: unknown) => {
    throw new Error(
      `${where}: picture ${image.sha256} cannot be blanked, its size is unreadable (${error instanceof Error ? error.message : String(error)})`,
    );
  });
  const bytes = await encodePng({ width, height, pixels_HWC: new Uint8Array(width * height * 3).fill(BLANK_LEVEL) });
  return { sha256: sha256Hex(bytes), bytes: async () => bytes };
}
