/** Bytes of any number on their way into the object store: hashed as they pass, never all in memory. */
import { ApiError, errorMessage } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { randomText } from '../../shared/wire/ids.ts';
import { hex } from '../../shared/wire/signature.ts';
import { nowMs } from '../clock.ts';
import { deleteLoose, insertLoose } from '../store/loose.ts';

export type ObjectStore = { db: D1Database; blobs: R2Bucket };

/** An object that is whole and still loose: whoever wants it strikes its note in the transaction that makes the owner. */
export type Staged = { key: string; bytes: number; sha256: string; md5: string | null };

/**
 * One object being written. Up to one part (8 MiB) is a single put; more becomes a multipart upload with equal parts, as the store wants them, of which
 * one is sent while the next one fills: at most three parts are in memory.
 */
export class Stage {
  readonly #store: ObjectStore;
  readonly #key: string;
  readonly #maxBytes: number;
  readonly #param: string;
  readonly #sha256 = new Hash('SHA-256');
  readonly #md5: Hash | null;
  #pieces: Uint8Array[] = [];
  #heldBytes = 0;
  #bytes = 0;
  #noted = false;
  #upload: R2MultipartUpload | null = null;
  readonly #sent: R2UploadedPart[] = [];
  #sending: Promise<void> = Promise.resolve();

  /**
   * @param options.prefix of the key, which ends in random text: an object is never written twice, so nothing that deletes an old one can hit a new one.
   * @param options.param what a 413 is about
   */
  constructor(store: ObjectStore, options: { prefix: string; maxBytes: number; param: string; md5?: boolean }) {
    this.#store = store;
    this.#key = `${options.prefix}${randomText(24)}`;
    this.#maxBytes = options.maxBytes;
    this.#param = options.param;
    this.#md5 = options.md5 === true ? new Hash('MD5') : null;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Takes the next bytes, which the caller must not change afterwards. @throws ApiError 413 above `maxBytes` */
  async write(bytes: Uint8Array): Promise<void> {
    this.#bytes += bytes.byteLength;
    if (this.#bytes > this.#maxBytes) {
      throw new ApiError(
        'request_too_large',
        errorMessage(this.#param, { expected: `at most ${this.#maxBytes} bytes`, received: 'more' }),
        { param: this.#param },
      );
    }
    await Promise.all([this.#sha256.update(bytes), this.#md5?.update(bytes)]);
    for (let rest = bytes; rest.byteLength > 0; ) {
      const room = LIMITS.files.partBytes - this.#heldBytes;
      const piece = rest.subarray(0, room);
      this.#pieces.push(piece);
      this.#heldBytes += piece.byteLength;
      rest = rest.subarray(piece.byteLength);
      // Kept until the next byte comes: the last part may be short, and one part alone needs no multipart upload.
      if (rest.byteLength > 0 && this.#heldBytes === LIMITS.files.partBytes) await this.#sendPart();
    }
  }

  /** All bytes are there. @returns the object, readable from now on. */
  async finish(): Promise<Staged> {
    const sha256 = await this.#sha256.finish();
    const md5 = (await this.#md5?.finish()) ?? null;
    if (this.#upload === null) {
      await this.#note();
      await this.#store.blobs.put(this.#key, this.#take(), { sha256 });
    } else {
      if (this.#heldBytes > 0) await this.#sendPart();
      await this.#sending;
      const object = await this.#upload.complete(this.#sent);
      if (object.size !== this.#bytes)
        throw new Error(`object ${this.#key}: wrote ${this.#bytes} bytes, ${object.size} are there`);
    }
    return { key: this.#key, bytes: this.#bytes, sha256, md5 };
  }

  /** Leaves nothing behind; what it cannot delete now, the sweeper will. */
  async discard(): Promise<void> {
    this.#pieces = [];
    await this.#sending.catch(() => {});
    await Promise.all([this.#sha256.abort(), this.#md5?.abort()]);
    if (!this.#noted) return;
    await this.#upload?.abort().catch(() => {});
    await deleteLoose(this.#store, [this.#key]).catch(() => {});
  }

  async #sendPart(): Promise<void> {
    await this.#sending;
    if (this.#upload === null) {
      this.#upload = await this.#store.blobs.createMultipartUpload(this.#key);
      await this.#note(this.#upload.uploadId);
    }
    const upload = this.#upload;
    const part = this.#take();
    this.#sending = upload.uploadPart(this.#sent.length + 1, part).then((sent) => void this.#sent.push(sent));
    // Its failure is thrown where it is awaited.
    this.#sending.catch(() => {});
  }

  async #note(uploadId?: string): Promise<void> {
    await insertLoose(this.#store.db, this.#key, nowMs(), uploadId === undefined ? {} : { uploadId }).run();
    this.#noted = true;
  }

  #take(): Uint8Array {
    const [only] = this.#pieces;
    const pieces = this.#pieces;
    const total = this.#heldBytes;
    this.#pieces = [];
    this.#heldBytes = 0;
    if (pieces.length === 1 && only !== undefined) return only;
    const part = new Uint8Array(total);
    let at = 0;
    for (const piece of pieces) {
      part.set(piece, at);
      at += piece.byteLength;
    }
    return part;
  }
}

/** A digest of bytes as they pass, made by the runtime. */
class Hash {
  readonly #stream: DigestStream;
  readonly #writer: WritableStreamDefaultWriter<ArrayBuffer | ArrayBufferView>;

  constructor(algorithm: 'SHA-256' | 'MD5') {
    this.#stream = new crypto.DigestStream(algorithm);
    this.#writer = this.#stream.getWriter();
    // Rejects where it is given up; nobody waits for it then.
    this.#stream.digest.catch(() => {});
  }

  update(bytes: Uint8Array): Promise<void> {
    return this.#writer.write(bytes);
  }

  /** Lower-case hex. */
  async finish(): Promise<string> {
    await this.#writer.close();
    return hex(new Uint8Array(await this.#stream.digest));
  }

  async abort(): Promise<void> {
    await this.#writer.abort().catch(() => {});
  }
}
