import type { ImageMime } from '../../shared/contract/images.ts';

/** Bytes that any of the signatures below may need: an AVIF's list of brands is the longest. */
const HEAD_BYTES = 256;

/** Format by magic bytes, or null. The declared type is not looked at. */
export function sniff(data: Uint8Array): ImageMime | null {
  const head = latin1(data);
  if (head.startsWith('\xff\xd8\xff')) return 'image/jpeg';
  if (head.startsWith('\x89PNG\r\n\x1a\n')) return 'image/png';
  if (head.startsWith('RIFF') && head.startsWith('WEBP', 8)) return 'image/webp';
  if (head.startsWith('GIF87a') || head.startsWith('GIF89a')) return 'image/gif';
  if (brands(head).some((brand) => brand === 'avif' || brand === 'avis')) return 'image/avif';
  return null;
}

/** Signatures of what people send by mistake, or others on purpose; named in the refusal, never opened. */
const OTHERS: readonly (readonly [name: string, matches: (head: string) => boolean])[] = [
  ['a TIFF', (head) => head.startsWith('II*\0') || head.startsWith('MM\0*') || head.startsWith('II+\0')],
  ['a BMP', (head) => head.startsWith('BM')],
  ['a HEIC', (head) => brands(head).some((brand) => /^(hei[csxm]|hev[cmsx]|mif1|msf1)$/.test(brand))],
  ['a video', (head) => brands(head).length > 0 || head.startsWith('\x1aE\xdf\xa3') || /^RIFF....AVI /s.test(head)],
  ['a PDF', (head) => head.startsWith('%PDF')],
  ['a PostScript file', (head) => head.startsWith('%!PS') || head.startsWith('\xc5\xd0\xd3\xc6')],
  ['an icon', (head) => head.startsWith('\0\0\x01\0') || head.startsWith('\0\0\x02\0') || head.startsWith('icns')],
  ['a JPEG 2000', (head) => head.startsWith('\0\0\0\x0cjP  ') || head.startsWith('\xff\x4f\xff\x51')],
  ['a JPEG XL', (head) => head.startsWith('\xff\x0a') || head.startsWith('\0\0\0\x0cJXL ')],
  ['a Photoshop file', (head) => head.startsWith('8BPS')],
  [
    'an archive',
    (head) => head.startsWith('PK\x03\x04') || head.startsWith('\x1f\x8b') || head.startsWith('7z\xbc\xaf'),
  ],
  ['an SVG', (head) => /^(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg|<svg[\s>])/is.test(head)],
  ['a web page', (head) => /^(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body)[\s>]/i.test(head)],
];

/** In words, for what `sniff` does not know. */
export function nameOther(data: Uint8Array): string {
  const head = latin1(data);
  return OTHERS.find(([, matches]) => matches(head))?.[0] ?? `${data.byteLength} bytes that are none of these`;
}

/** Major and compatible brands of an ISO base media file; none for anything else. */
function brands(head: string): string[] {
  if (!head.startsWith('ftyp', 4)) return [];
  const size = (head.charCodeAt(0) << 24) | (head.charCodeAt(1) << 16) | (head.charCodeAt(2) << 8) | head.charCodeAt(3);
  const end = Math.min(size, head.length);
  const found = [head.slice(8, 12)];
  for (let at = 16; at + 4 <= end; at += 4) found.push(head.slice(at, at + 4));
  return found;
}

function latin1(data: Uint8Array): string {
  return String.fromCharCode(...data.subarray(0, HEAD_BYTES));
}
