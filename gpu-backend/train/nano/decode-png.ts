import type { DecodePng } from '../../io/nlvr.ts';
import { decodeImage } from '../../vision/decode.ts';

/** PNG → RGB bytes, height-width-channel order. */
export const decodePng: DecodePng = async (png) => {
  const { width, height, pixels_HWC } = await decodeImage(png);
  return { width, height, rgb: pixels_HWC };
};
