import { createHash, type Hash } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import { type FileHandle, lstat, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HubError } from './hub-error.ts';
import type { HubEntry } from './hub-names.ts';
import { type HubClient, type HubResponse, TransientError } from './hub-request.ts';
import { foreignFormat } from './safetensors-header.ts';

export interface FetchedFile {
  readonly name: string;
  readonly bytes: number;
  readonly sha256: string;
}

export interface FileDownload {
  readonly client: HubClient;
  /** Path of the file at the hub. */
  readonly urlPath: string;
  /** Existing folder that takes the file. */
  readonly dir: string;
  readonly entry: HubEntry;
  /** Most bytes taken where the hub does not give a size. */
  readonly maxBytes: number;
  /** Called with the bytes that lie on disk and the size (0: not known yet). */
  readonly onBytes: (doneBytes: number, totalBytes: number) => void;
}

/** Says which content a `.part` file is the beginning of; stands beside it as `.part.json`. */
interface PartNote {
  readonly etag?: string;
  readonly content?: string;
}

/** Long enough for every magic number that is looked for. */
const HEAD_BYTES = 32;
const WRITE_BYTES = 1 << 20;

/**
 * Downloads one file: into `<name>.part`, continued with Range and If-Range after a break (of the connection or of the whole
 * process), checked against size and digest, synced, renamed. A file whose digest is wrong is fetched once more from the
 * start, because what was resumed may have been damaged.
 *
 * @throws HubError; the part that has come stays, unless its content is wrong
 */
export async function downloadFile(options: FileDownload): Promise<FetchedFile> {
  const part = new PartFile(join(options.dir, `${options.entry.name}.part`));
  for (let isSecond = false; ; isSecond = true) {
    const file = await receive(options, part);
    const wrong = await part.differenceFrom(file);
    if (wrong === undefined) {
      const sha256 = await part.digest();
      await part.finish(join(options.dir, options.entry.name));
      return { name: options.entry.name, bytes: part.bytes, sha256 };
    }
    await part.discard();
    if (isSecond)
      throw new HubError(
        'wrong_hash',
        `${options.entry.name}: ${wrong}, twice: the hub or a mirror sends other content`,
      );
  }
}

/** Brings the part to full length. @returns the entry, completed by what the hub said on the way */
async function receive(options: FileDownload, part: PartFile): Promise<HubEntry> {
  const { client, entry } = options;
  let known = entry;
  await client.retrying(entry.name, async (gained) => {
    const wanted = known.sha256 ?? known.blobSha1;
    await part.load(wanted);
    if (known.bytes !== undefined && part.bytes > known.bytes) await part.discard();
    if (known.bytes !== undefined && known.bytes > 0 && part.bytes === known.bytes) return;
    const answer = await client.open(options.urlPath, entry.name, part.rangeHeaders(wanted !== undefined));
    try {
      known = completed(known, answer);
      const start = await part.startOf(answer);
      const total = known.bytes ?? totalBytes(answer.response, start);
      if (known.bytes === undefined && total !== undefined) known = { ...known, bytes: total };
      const limit = total ?? options.maxBytes;
      if (limit > options.maxBytes)
        throw new HubError('too_large', `${entry.name} has ${limit} bytes, the limit for it is ${options.maxBytes}`);
      options.onBytes(part.bytes, total ?? 0);
      await part.opened({ etag: answer.response.headers.get('etag'), content: known.sha256 ?? known.blobSha1 });
      for await (const piece of answer.body()) {
        if (part.bytes + piece.byteLength > limit) {
          await part.discard();
          throw new HubError('wrong_size', `${entry.name}: expected ${limit} bytes, more came`);
        }
        await part.append(piece);
        gained(piece.byteLength);
        options.onBytes(part.bytes, total ?? 0);
      }
      await part.refuseForeign(true);
      if (total !== undefined && part.bytes < total)
        throw new TransientError(`the answer ended at byte ${part.bytes} of ${total}`);
    } finally {
      answer.cancel();
      await part.close();
    }
  });
  await part.load(known.sha256 ?? known.blobSha1);
  await part.refuseForeign(true);
  return known;
}

/** @throws HubError where the listing and the file's own address disagree */
function completed(entry: HubEntry, { linked }: HubResponse): HubEntry {
  const etag = linked.etag === undefined ? '' : bare(linked.etag);
  const sha256 = /^[0-9a-f]{64}$/.test(etag) ? etag : undefined;
  if (entry.sha256 !== undefined && sha256 !== undefined && sha256 !== entry.sha256)
    throw new HubError(
      'wrong_hash',
      `${entry.name}: the listing gives SHA-256 ${entry.sha256}, its address gives ${sha256}: the file was replaced meanwhile, start again`,
    );
  if (entry.bytes !== undefined && linked.bytes !== undefined && linked.bytes !== entry.bytes)
    throw new HubError(
      'wrong_size',
      `${entry.name}: the listing gives ${entry.bytes} bytes, its address gives ${linked.bytes}: the file was replaced meanwhile, start again`,
    );
  const bytes = entry.bytes ?? linked.bytes;
  const blobSha1 = entry.blobSha1 ?? (sha256 === undefined && /^[0-9a-f]{40}$/.test(etag) ? etag : undefined);
  return {
    name: entry.name,
    ...(bytes === undefined ? {} : { bytes }),
    ...(entry.sha256 !== undefined || sha256 !== undefined ? { sha256: entry.sha256 ?? sha256 ?? '' } : {}),
    ...(blobSha1 === undefined ? {} : { blobSha1 }),
  };
}

/** An entity tag without its quotes and weakness. */
function bare(etag: string): string {
  return etag.replace(/^W\//, '').replaceAll('"', '');
}

function totalBytes({ status, headers }: Response, start: number): number | undefined {
  const total = status === 206 ? /\/(\d{1,15})$/.exec(headers.get('content-range') ?? '')?.[1] : undefined;
  if (total !== undefined) return Number(total);
  const length = headers.get('content-length');
  const isPlain = (headers.get('content-encoding') ?? 'identity') === 'identity';
  return isPlain && length !== null && /^\d{1,15}$/.test(length) ? start + Number(length) : undefined;
}

/** SHA-1 as git computes it for a file of `bytes` bytes. */
export function gitBlobHash(bytes: number): Hash {
  return createHash('sha1').update(`blob ${bytes}\0`);
}

/** The growing `.part` file, its note, and the digest of what it holds. */
class PartFile {
  bytes = 0;
  private readonly notePath: string;
  private note: PartNote = {};
  private file: FileHandle | undefined;
  private hash: Hash = createHash('sha256');
  private hashedBytes = 0;
  private isHeadChecked = false;
  private waiting: Uint8Array[] = [];
  private waitingBytes = 0;

  constructor(private readonly path: string) {
    this.notePath = `${path}.json`;
  }

  /** Looks at what is on disk; a part that belongs to other content is dropped. */
  async load(wanted: string | undefined): Promise<void> {
    const stat = await lstat(this.path).catch(() => undefined);
    const note = await readFile(this.notePath, 'utf8')
      .then(
        (text) => JSON.parse(text) as PartNote,
        () => undefined,
      )
      .catch(() => undefined);
    this.note = note ?? {};
    this.bytes = stat?.isFile() === true ? stat.size : 0;
    const isSame =
      note !== undefined && (wanted === undefined || note.content === undefined || note.content === wanted);
    if (stat !== undefined && (!stat.isFile() || !isSame)) await this.discard();
  }

  async discard(): Promise<void> {
    this.waiting = [];
    this.waitingBytes = 0;
    await this.close();
    await rm(this.path, { force: true });
    await rm(this.notePath, { force: true });
    this.note = {};
    this.startAnew();
  }

  private startAnew(): void {
    this.bytes = 0;
    this.hash = createHash('sha256');
    this.hashedBytes = 0;
    this.isHeadChecked = false;
  }

  /** Headers that ask for the rest only. Without a digest to check in the end, a strong entity tag is needed for that. */
  rangeHeaders(hasDigest: boolean): Record<string, string> {
    const { etag } = this.note;
    const isStrong = etag?.startsWith('"') === true;
    if (this.bytes === 0 || (!isStrong && !hasDigest)) return {};
    return { range: `bytes=${this.bytes}-`, ...(isStrong && etag !== undefined ? { 'if-range': etag } : {}) };
  }

  /** Where the answer's body starts in the file; what has come is dropped when the content has changed. */
  async startOf({ response: { status, headers } }: HubResponse): Promise<number> {
    const etag = headers.get('etag');
    if (status === 206) {
      const start = /^bytes (\d{1,15})-/.exec(headers.get('content-range') ?? '')?.[1];
      const isSame = etag === null || this.note.etag === undefined || etag === this.note.etag;
      if (Number(start) === this.bytes && isSame) return this.bytes;
      await this.discard();
      throw new TransientError(
        isSame ? `asked for byte ${this.bytes} on, got ${start}` : 'the content changed meanwhile',
      );
    }
    const before = this.bytes;
    await this.discard();
    if (status === 416) throw new TransientError(`there is nothing after byte ${before}`);
    return 0;
  }

  async opened(note: { readonly etag: string | null; readonly content: string | undefined }): Promise<void> {
    this.note = {
      ...(note.etag === null ? {} : { etag: note.etag }),
      ...(note.content === undefined ? {} : { content: note.content }),
    };
    await writeFile(this.notePath, JSON.stringify(this.note));
    // Never through a link: the name comes from a listing, the folder may be shared.
    this.file = await open(this.path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW);
    await this.catchUp();
  }

  /** Takes the next piece; pieces are written together, a mebibyte at a time. */
  async append(piece: Uint8Array): Promise<void> {
    this.waiting.push(piece);
    this.waitingBytes += piece.byteLength;
    this.hash.update(piece);
    this.bytes += piece.byteLength;
    this.hashedBytes = this.bytes;
    if (this.waitingBytes >= WRITE_BYTES || !this.isHeadChecked) await this.flush();
    await this.refuseForeign(false);
  }

  private async flush(): Promise<void> {
    if (this.waitingBytes === 0) return;
    if (this.file === undefined) throw new Error('the part is not open');
    const start = this.bytes - this.waitingBytes;
    const [pieces, bytes] = [this.waiting, this.waitingBytes];
    this.waiting = [];
    this.waitingBytes = 0;
    try {
      let { bytesWritten: done } = await this.file.writev(pieces, start);
      // Hardly ever needed: what a short write left.
      for (const rest = done < bytes ? Buffer.concat(pieces, bytes) : null; rest !== null && done < bytes; )
        done += (await this.file.write(rest, done, bytes - done, start + done)).bytesWritten;
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOSPC')
        throw new HubError(
          'disk_full',
          `the disk is full near byte ${start} of ${this.path}: free space, then start again`,
          { cause },
        );
      throw cause;
    }
  }

  /** Brings the digest to what lies on disk: nothing to do except after a start of the process. */
  private async catchUp(): Promise<void> {
    if (this.hashedBytes === this.bytes) return;
    const hash = createHash('sha256');
    if (this.bytes > 0)
      for await (const piece of createReadStream(this.path, { end: this.bytes - 1, highWaterMark: 1 << 20 }))
        hash.update(piece as Uint8Array);
    this.hash = hash;
    this.hashedBytes = this.bytes;
  }

  /** Refuses pickles and other foreign formats by their first bytes, before the rest of them is fetched. */
  async refuseForeign(isComplete: boolean): Promise<void> {
    if (isComplete) await this.flush();
    if (this.isHeadChecked || (!isComplete && this.bytes < HEAD_BYTES) || this.bytes === 0) return;
    const file = await open(this.path, 'r');
    const head = new Uint8Array(HEAD_BYTES);
    const { bytesRead } = await file.read(head, 0, HEAD_BYTES, 0);
    await file.close();
    const what = foreignFormat(head.subarray(0, bytesRead));
    if (what !== undefined) {
      const path = this.path;
      await this.discard();
      throw new HubError('pickle', `${path.replace(/\.part$/, '')}: the hub sends ${what}: it is not kept`);
    }
    this.isHeadChecked = true;
  }

  /** SHA-256 of the whole part, hexadecimal. */
  async digest(): Promise<string> {
    await this.catchUp();
    return this.hash.copy().digest('hex');
  }

  /** What is wrong with the complete part, or undefined. */
  async differenceFrom(entry: HubEntry): Promise<string | undefined> {
    if (entry.bytes !== undefined && entry.bytes !== this.bytes)
      return `expected ${entry.bytes} bytes, got ${this.bytes}`;
    const sha256 = await this.digest();
    if (entry.sha256 !== undefined)
      return sha256 === entry.sha256 ? undefined : `expected SHA-256 ${entry.sha256}, got ${sha256}`;
    if (entry.blobSha1 === undefined) return undefined;
    const hash = gitBlobHash(this.bytes);
    if (this.bytes > 0) for await (const piece of createReadStream(this.path)) hash.update(piece as Uint8Array);
    const sha1 = hash.digest('hex');
    return sha1 === entry.blobSha1 ? undefined : `expected git blob ${entry.blobSha1}, got ${sha1}`;
  }

  /** Makes the part the file: synced first, so that a crash leaves the one or the other. */
  async finish(path: string): Promise<void> {
    const file = await open(this.path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW);
    await file.sync();
    await file.close();
    await rename(this.path, path);
    await rm(this.notePath, { force: true });
  }

  async close(): Promise<void> {
    try {
      await this.flush();
    } finally {
      await this.file?.close();
      this.file = undefined;
    }
  }
}
