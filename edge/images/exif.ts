import type { Bytes } from './bytes.ts';

const ORIENTATION_TAG = 0x0112;
const SHORT = 3;

/**
 * Orientation (1–8) out of a TIFF block, Exif 2.3 section 4.6. Broken Exif is common in good photographs and decoders ignore it, so everything odd
 * means 1 (upright).
 */
export function exifOrientation(tiff: Bytes): number {
  if (tiff.length < 14) return 1;
  const order = tiff.ascii(0, 2);
  if (order !== 'II' && order !== 'MM') return 1;
  const littleEndian = order === 'II';
  const directory = tiff.u32(4, littleEndian);
  if (directory + 2 > tiff.length) return 1;
  const entries = tiff.u16(directory, littleEndian);
  for (let i = 0; i < entries; i++) {
    const at = directory + 2 + 12 * i;
    if (at + 12 > tiff.length) return 1;
    if (tiff.u16(at, littleEndian) !== ORIENTATION_TAG) continue;
    const value = tiff.u16(at + 8, littleEndian);
    return tiff.u16(at + 2, littleEndian) === SHORT && value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}
