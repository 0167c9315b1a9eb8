import { readFile, realpath, stat } from 'node:fs/promises';
import { isAbsolute, join, relative } from 'node:path';
import { sha256Hex } from '../../io/digest.ts';
import { type ImageFormat, readFacts, sniffFormat } from '../../vision/header.ts';
import type { EvalImage } from '../task.ts';
import type { Slice, Spool } from './spool.ts';

/** A picture of a record with the place it can be read from again. */
export class StoredImage implements EvalImage {
  constructor(
    readonly sha256: string,
    readonly place: Slice | string,
    private readonly spool: Spool,
  ) {}

  /** @throws when the file has changed since the record was read */
  async bytes(): Promise<Uint8Array> {
    if (typeof this.place !== 'string') return await this.spool.read(this.place);
    const bytes = await readFile(this.place);
    if (sha256Hex(bytes) !== this.sha256)
      throw new Error(`${this.place}: expected the picture that was there when the records were read; it has changed`);
    return bytes;
  }
}

/**
 * Takes the pictures of records: bytes go to the spool, once each; files stay where they are. A picture comes as bytes, as Hugging Face's `{bytes, path}`,
 * as base64 or a data URL, or as a path under a folder.
 */
export class PictureReader {
  private readonly slices = new Map<string, Slice>();
  private readonly files = new Map<string, StoredImage>();
  /** Where the last picture was named. */
  private lastWhere: string | null = null;

  constructor(private readonly spool: Spool) {}

  /** File and row of the pictures that were taken since the last call; null where there were none. */
  rowSinceLast(): string | null {
    const row = this.lastWhere?.replace(/, (column|cell) .*$/s, '') ?? null;
    this.lastWhere = null;
    return row;
  }

  /**
   * @param folder paths start from it, and nothing outside is read
   * @param where for messages: file, row and column
   */
  async take(value: unknown, folder: string, where: string): Promise<StoredImage> {
    if (value instanceof Uint8Array) return await this.bytes(value, where);
    if (typeof value === 'string') {
      const data = /^data:image\/[a-z0-9.+-]+;base64,/i.exec(value);
      if (data !== null) return await this.base64(value.slice(data[0].length), where);
      // Base64 of a JPEG begins with "/9j/", which is also a path; no path is a thousand characters long.
      if (value.length > 1000) return await this.base64(value, where);
      return await this.path(value, folder, where);
    }
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      const { bytes, path } = value as { readonly bytes?: unknown; readonly path?: unknown };
      if (bytes !== undefined && bytes !== null) return await this.take(bytes, folder, where);
      if (typeof path === 'string') return await this.path(path, folder, where);
    }
    throw new Error(`${where}: expected a picture (bytes, {bytes, path}, base64 or a path), received ${shown(value)}`);
  }

  async bytes(bytes: Uint8Array, where: string): Promise<StoredImage> {
    this.lastWhere = where;
    requirePicture(bytes, where);
    const sha256 = sha256Hex(bytes);
    let slice = this.slices.get(sha256);
    if (slice === undefined) {
      slice = await this.spool.append(bytes);
      this.slices.set(sha256, slice);
    }
    return new StoredImage(sha256, slice, this.spool);
  }

  async path(path: string, folder: string, where: string): Promise<StoredImage> {
    this.lastWhere = where;
    const root = await realpath(folder).catch(() => {
      throw new Error(`${where}: the folder of pictures ${folder} does not exist; name another one`);
    });
    const named = JSON.stringify(path.slice(0, 128));
    const found = await realpath(isAbsolute(path) ? path : join(root, path)).catch(() => {
      throw new Error(`${where}: expected the picture ${named} under ${root}, there is no such file`);
    });
    const inside = relative(root, found);
    if (inside.startsWith('..') || isAbsolute(inside))
      throw new Error(`${where}: the picture ${named} leads out of ${root}; nothing outside it is read`);
    const known = this.files.get(found);
    if (known !== undefined) return known;
    if (!(await stat(found)).isFile()) throw new Error(`${where}: expected a file, ${named} is a folder`);
    const bytes = await readFile(found);
    requirePicture(bytes, where);
    const image = new StoredImage(sha256Hex(bytes), found, this.spool);
    this.files.set(found, image);
    return image;
  }

  private async base64(text: string, where: string): Promise<StoredImage> {
    if (!/^[A-Za-z0-9+/\s]*={0,2}\s*$/.test(text))
      throw new Error(`${where}: expected base64, received other characters`);
    return await this.bytes(Buffer.from(text, 'base64'), where);
  }
}

/** What can be told without decoding: every picture of a benchmark passes here. `mantis eval --dry-run` decodes. */
function requirePicture(bytes: Uint8Array, where: string): void {
  const format = sniffFormat(bytes);
  if (format === null) {
    const head = Buffer.from(bytes.subarray(0, 8)).toString('hex');
    throw new Error(
      `${where}: expected a JPEG, PNG, WebP, GIF or AVIF picture, received ${bytes.length} bytes that begin with ${head || 'nothing'}`,
    );
  }
  if (readFacts(bytes) === null || isCutOff(bytes, format))
    throw new Error(
      `${where}: expected a whole picture, received a ${format.toUpperCase()} of ${bytes.length} bytes that is cut off`,
    );
}

/** Whether a file ends before its own lengths say. A JPEG has none, and decoders show what is there of it. */
function isCutOff(bytes: Uint8Array, format: ImageFormat): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (format === 'webp') return view.getUint32(4, true) + 8 > bytes.length;
  if (format !== 'png') return false;
  // Chunks: length, name, data, checksum; the last one is IEND.
  for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
    if (view.getUint32(at + 4) === 0x49454e44) return false;
  }
  return true;
}

function shown(value: unknown): string {
  if (value === null || value === undefined) return 'nothing';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  return typeof value === 'object' ? `an object with ${Object.keys(value).slice(0, 6).join(', ')}` : typeof value;
}
