import { type Violation, violation } from '../../shared/contract/errors.ts';
import type { ImageInfo } from '../../shared/contract/images.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { ProbeError } from './bytes.ts';
import { probe } from './probe.ts';
import { nameOther, sniff } from './sniff.ts';

const L = LIMITS.images;

/**
 * Sniffs, probes and measures one picture against the limits.
 * @param declared type the client gave, or null where it gave none; it must be the real one.
 * @returns what the header says, or everything that is wrong.
 */
export function checkImage(bytes: Uint8Array, declared: string | null, param: string): ImageInfo | Violation[] {
  if (bytes.byteLength === 0)
    return [violation('empty_image_file', param, { expected: 'a picture', received: '0 bytes' })];
  if (bytes.byteLength > L.maxBytes) {
    return [
      violation('image_file_too_large', param, { expected: `at most ${L.maxBytes} bytes`, received: bytes.byteLength }),
    ];
  }
  const mime = sniff(bytes);
  if (mime === null) {
    const expected = `one of ${L.mimes.join(', ')}`;
    return [violation('invalid_image_format', param, { expected, received: nameOther(bytes) })];
  }
  if (declared !== null && declared !== mime) {
    return [violation('invalid_image_format', param, { expected: `${declared} as declared`, received: mime })];
  }
  let info: ImageInfo;
  try {
    info = probe(bytes, mime);
  } catch (error) {
    if (!(error instanceof ProbeError)) throw error;
    return [
      violation('image_parse_error', param, { expected: `a whole ${mime}`, received: `one that ${error.message}` }),
    ];
  }
  const wrong = checkSize(info, param);
  return wrong.length > 0 ? wrong : info;
}

function checkSize({ mime, width, height }: ImageInfo, param: string): Violation[] {
  const wrong: Violation[] = [];
  const refuse = (expected: string, received: string) =>
    wrong.push(violation('image_too_large', param, { expected, received, remedy: 'Scale the picture down.' }));
  const size = `${width}x${height}`;
  const pixels = width * height;
  if (Math.max(width, height) > L.maxSide) refuse(`sides of at most ${L.maxSide} pixels`, size);
  if (pixels > L.maxPixels) refuse(`at most ${L.maxPixels} pixels`, `${pixels} (${size})`);
  else if (mime === 'image/avif' && pixels > L.maxAvifPixels)
    refuse(`at most ${L.maxAvifPixels} pixels in an AVIF`, `${pixels} (${size})`);
  if (Math.max(width / height, height / width) > L.maxAspectRatio) {
    wrong.push(
      violation('image_too_large', param, {
        expected: `an aspect ratio of at most ${L.maxAspectRatio}:1`,
        received: size,
      }),
    );
  }
  return wrong;
}
