import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export type PictureName = 'frame-1' | 'frame-2' | 'frame-3' | 'yellow-circle' | 'two-black-squares' | 'blue-triangle';

/** In the order in which tests show them. */
export const PICTURES: readonly PictureName[] = [
  'frame-1',
  'frame-2',
  'frame-3',
  'yellow-circle',
  'two-black-squares',
  'blue-triangle',
];

/** Bytes of a sample picture (PNG, 100x100). */
export function picture(name: PictureName): Buffer {
  return readFileSync(fileURLToPath(new URL(`../../fixtures/pictures/${name}.png`, import.meta.url)));
}

export function dataUrl(bytes: Uint8Array, mime = 'image/png'): string {
  return `data:${mime};base64,${Buffer.from(bytes).toString('base64')}`;
}

/** A content part that shows a sample picture. */
export function imagePart(name: PictureName): { type: 'image_url'; image_url: { url: string } } {
  return { type: 'image_url', image_url: { url: dataUrl(picture(name)) } };
}

export function textPart(text: string): { type: 'text'; text: string } {
  return { type: 'text', text };
}
