import { readFile, realpath, stat } from 'node:fs/promises';
import { isAbsolute, join, relative } from 'node:path';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { type ImageFormat, sniffFormat } from '../../vision/header.ts';
import type { ImageStore } from './image-store.ts';
import type { RecordProblems } from './problem.ts';

const L = LIMITS.images;
const MAX_HEAD_CHARS = 256;
const OUTSIDE = /^(file-[A-Za-z0-9_-]+|sha256:[0-9a-f]{64})$/;

export const mimeOf = (format: ImageFormat): string => `image/${format}`;

/** Takes pictures out of records into the store; what is wrong with one is said with its place, and is null. */
export class PictureTaker {
  constructor(
    private readonly images: ImageStore,
    /** Folder that paths start from; undefined where the file came alone. */
    private readonly root: string | undefined,
  ) {}

  /** A data URL, an address on the web, or the id of an upload. */
  async reference(url: string, param: string, problems: RecordProblems): Promise<string | null> {
    if (/^data:/i.test(url)) return await this.dataUrl(url, param, problems);
    if (OUTSIDE.test(url)) return url;
    if (/^https?:\/\/[^/]/i.test(url) && url.length <= L.remote.maxUrlChars && URL.canParse(url)) return url;
    problems.error('invalid_image_url', param, {
      expected: 'a data URL, an https URL, the id of a file ("file-…") or its digest ("sha256:…")',
      received: JSON.stringify(url.slice(0, 64)),
    });
    return null;
  }

  /** @param declared the type a data URL gives, or null; it must be the real one */
  async bytes(
    bytes: Uint8Array,
    declared: string | null,
    param: string,
    problems: RecordProblems,
  ): Promise<string | null> {
    if (bytes.length === 0) {
      problems.error('empty_image_file', param, { expected: 'a picture', received: '0 bytes' });
      return null;
    }
    if (bytes.length > L.maxBytes) {
      problems.error('image_file_too_large', param, {
        expected: `at most ${L.maxBytes} bytes`,
        received: bytes.length,
      });
      return null;
    }
    const format = sniffFormat(bytes);
    if (format === null) {
      const head = Buffer.from(bytes.subarray(0, 8)).toString('hex');
      problems.error('invalid_image_format', param, {
        expected: `one of ${L.mimes.join(', ')}`,
        received: `${bytes.length} bytes that begin with ${head}`,
      });
      return null;
    }
    if (declared !== null && declared !== mimeOf(format)) {
      problems.error('invalid_image_format', param, { expected: `${declared} as declared`, received: mimeOf(format) });
      return null;
    }
    return await this.images.put(bytes);
  }

  /** A file beside the data. Nothing outside the root is read, whatever a path or a link says. */
  async path(path: string, param: string, problems: RecordProblems): Promise<string | null> {
    const shown = JSON.stringify(path.slice(0, 128));
    if (this.root === undefined) {
      problems.error('image_file_not_found', param, {
        expected: 'the picture itself: bytes in Parquet, a data URL, an https URL or a file id',
        received: `the path ${shown}, and no pictures came with the file`,
        remedy: '`mantis dataset convert` writes a file that holds its pictures.',
      });
      return null;
    }
    const root = await realpath(this.root);
    let found: string;
    try {
      if (isAbsolute(path)) throw new Error('absolute');
      found = await realpath(join(root, path));
      if (!(await stat(found)).isFile()) throw new Error('no file');
    } catch {
      problems.error('image_file_not_found', param, { expected: `a file under ${root}`, received: shown });
      return null;
    }
    const within = relative(root, found);
    if (within.startsWith('..') || isAbsolute(within)) {
      problems.error('image_file_not_found', param, {
        expected: `a file under ${root}`,
        received: `${shown}, which leads out of it`,
      });
      return null;
    }
    const { size } = await stat(found);
    if (size > L.maxBytes) {
      problems.error('image_file_too_large', param, { expected: `at most ${L.maxBytes} bytes`, received: size });
      return null;
    }
    return await this.bytes(await readFile(found), null, param, problems);
  }

  private async dataUrl(url: string, param: string, problems: RecordProblems): Promise<string | null> {
    const comma = url.slice(0, MAX_HEAD_CHARS).indexOf(',');
    const fields = url
      .slice(5, comma < 0 ? MAX_HEAD_CHARS : comma)
      .split(';')
      .map((field) => field.trim().toLowerCase());
    const mime = fields[0] ?? '';
    if (comma < 0 || fields.at(-1) !== 'base64' || fields.length < 2) {
      problems.error('invalid_image_url', param, {
        expected: '"data:<type>;base64,<data>"',
        received: JSON.stringify(url.slice(0, 48)),
      });
      return null;
    }
    if (!(L.mimes as readonly string[]).includes(mime)) {
      problems.error('unsupported_image_media_type', param, {
        expected: `one of ${L.mimes.join(', ')}`,
        received: JSON.stringify(mime.slice(0, 64)),
      });
      return null;
    }
    const bytes = base64Bytes(url.slice(comma + 1));
    if (bytes === null) {
      problems.error('invalid_base64_image', param, {
        expected: 'base64 (A–Z a–z 0–9 + / =)',
        received: `${url.length - comma - 1} characters that are not`,
      });
      return null;
    }
    return await this.bytes(bytes, mime, param, problems);
  }
}

/** Strict, but for line breaks; null where it is no base64. Node's own decoder passes over what it does not know. */
export function base64Bytes(text: string): Buffer | null {
  let clean = text;
  let bytes = Buffer.from(clean, 'base64');
  if (bytes.length !== decodedLength(clean)) {
    clean = clean.replace(/[\t\n\f\r ]+/g, '');
    bytes = Buffer.from(clean, 'base64');
    if (bytes.length !== decodedLength(clean)) return null;
  }
  // The URL-safe alphabet would pass unseen.
  return clean.includes('-') || clean.includes('_') ? null : bytes;
}

function decodedLength(base64: string): number {
  let chars = base64.length;
  if (chars % 4 === 0) for (let i = 0; i < 2 && base64.charCodeAt(chars - 1) === 0x3d; i++) chars--;
  return chars % 4 === 1 ? -1 : Math.floor((chars * 3) / 4);
}
