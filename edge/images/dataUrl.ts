import { ApiError, errorMessage } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';

/** Ours to declare until TypeScript's library has it; workerd does. */
type FromBase64 = {
  fromBase64(text: string, options?: { lastChunkHandling?: 'loose' | 'strict' }): Uint8Array<ArrayBuffer>;
};

/** `data:`, a type, parameters that nobody needs, `;base64` and the comma. */
const MAX_HEAD_CHARS = 256;

export type DataUrl = { mime: string; bytes: Uint8Array<ArrayBuffer> };

/** `data:image/png;base64,…` to bytes; refused by length before a byte is decoded. `param` names the field in errors. */
export function parseDataUrl(url: string, param: string): DataUrl {
  // What stands before the data is short; a long one is not taken apart.
  const comma = url.slice(0, MAX_HEAD_CHARS).indexOf(',');
  const head = url.slice(5, comma < 0 ? MAX_HEAD_CHARS : comma);
  const fields = head.split(';').map((field) => field.trim().toLowerCase());
  const mime = fields[0] ?? '';
  if (comma < 0 || fields.at(-1) !== 'base64' || fields.length < 2) {
    throw new ApiError(
      'invalid_image_url',
      errorMessage(param, { expected: '"data:<type>;base64,<data>"', received: JSON.stringify(url.slice(0, 48)) }),
      { param },
    );
  }
  if (!(LIMITS.images.mimes as readonly string[]).includes(mime)) {
    throw new ApiError(
      'unsupported_image_media_type',
      errorMessage(param, {
        expected: `one of ${LIMITS.images.mimes.join(', ')}`,
        received: JSON.stringify(mime.slice(0, 64)),
      }),
      { param },
    );
  }
  const encodedChars = url.length - comma - 1;
  const maxChars = Math.ceil(LIMITS.images.maxBytes / 3) * 4;
  // Slack for line breaks, which the decoder skips.
  if (encodedChars > maxChars * 1.03 + 4) {
    throw new ApiError(
      'image_file_too_large',
      errorMessage(param, {
        expected: `at most ${LIMITS.images.maxBytes} bytes`,
        received: `about ${Math.floor((encodedChars / 4) * 3)}`,
      }),
      { param },
    );
  }
  try {
    return { mime, bytes: (Uint8Array as unknown as FromBase64).fromBase64(url.slice(comma + 1)) };
  } catch {
    throw new ApiError(
      'invalid_base64_image',
      errorMessage(param, {
        expected: 'base64 (A–Z a–z 0–9 + / =)',
        received: `${encodedChars} characters that are not`,
      }),
      { param },
    );
  }
}
