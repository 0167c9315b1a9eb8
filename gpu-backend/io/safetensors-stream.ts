import { createHash, type Hash } from 'node:crypto';
import { closeSync, existsSync, fdatasync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { encodeHeader, type TensorSlot } from './safetensors-write.ts';
import { DTYPE_BYTES, elementCount } from './tensor.ts';

/** Where the bytes of a tensor lie in its file. */
export interface TensorPlace {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

const HASH_PIECE_BYTES = 4 << 20;

/**
 * A safetensors file written front to back, for tensors larger than memory: the caller writes the bytes of each tensor, in the order
 * of the slots and in pieces of any size. The file is hashed on the way, and an interrupted one can be continued at a tensor.
 */
export class SafetensorsStream {
  /** Tensors by name. */
  readonly places: ReadonlyMap<string, TensorPlace>;
  readonly #path: string;
  readonly #descriptor: number;
  readonly #hash: Hash;
  readonly #totalBytes: number;
  #position: number;

  private constructor(
    path: string,
    descriptor: number,
    hash: Hash,
    position: number,
    /** Tensors of an earlier file that were kept. */
    readonly tensorsKept: number,
    layout: { readonly places: ReadonlyMap<string, TensorPlace>; readonly totalBytes: number },
  ) {
    this.#path = path;
    this.#descriptor = descriptor;
    this.#hash = hash;
    this.#position = position;
    this.#totalBytes = layout.totalBytes;
    this.places = layout.places;
  }

  /**
   * @param keptTensors how many tensors of an interrupted file to keep; the rest is cut off. A new file is begun for 0, and where
   *   there is no file that these slots describe (see `tensorsKept`)
   */
  static open(
    path: string,
    slots: readonly (readonly [string, TensorSlot])[],
    metadata: Readonly<Record<string, string>>,
    keptTensors = 0,
  ): SafetensorsStream {
    const header = encodeHeader(slots, metadata);
    const places = new Map<string, TensorPlace>();
    let offsetBytes = header.byteLength;
    for (const [name, { dtype, shape }] of slots) {
      const lengthBytes = elementCount(shape) * DTYPE_BYTES[dtype];
      places.set(name, { offsetBytes, lengthBytes });
      offsetBytes += lengthBytes;
    }
    const layout = { places, totalBytes: offsetBytes };
    const lastKept = slots[keptTensors - 1]?.[0];
    const kept = lastKept === undefined ? undefined : places.get(lastKept);
    const descriptor = openSync(path, kept !== undefined && existsSync(path) ? 'r+' : 'w+');
    try {
      const hash = createHash('sha256');
      if (kept !== undefined && isContinuable(descriptor, header, kept.offsetBytes + kept.lengthBytes)) {
        const keptBytes = kept.offsetBytes + kept.lengthBytes;
        ftruncateSync(descriptor, keptBytes);
        hashFile(descriptor, keptBytes, hash);
        return new SafetensorsStream(path, descriptor, hash, keptBytes, keptTensors, layout);
      }
      ftruncateSync(descriptor, 0);
      const stream = new SafetensorsStream(path, descriptor, hash, 0, 0, layout);
      stream.write(header);
      return stream;
    } catch (error) {
      closeSync(descriptor);
      throw error;
    }
  }

  /** Of the whole file, kept ones included. */
  get bytesWritten(): number {
    return this.#position;
  }

  write(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.byteLength; )
      done += writeSync(this.#descriptor, bytes, done, bytes.byteLength - done, this.#position + done);
    this.#hash.update(bytes);
    this.#position += bytes.byteLength;
  }

  /** @throws Error when the next byte is not the first of this tensor: a caller that lost its place */
  expectAt(name: string): void {
    const place = this.places.get(name);
    if (place?.offsetBytes !== this.#position)
      throw new Error(`${this.#path} is at byte ${this.#position}, tensor ${name} belongs at ${place?.offsetBytes}`);
  }

  /** Resolves when everything written so far is on the disk. */
  async sync(): Promise<void> {
    await promisify(fdatasync)(this.#descriptor);
  }

  /** Syncs and closes. @throws Error when bytes are missing */
  async finish(): Promise<{ bytes: number; sha256: string }> {
    if (this.#position !== this.#totalBytes)
      throw new Error(`${this.#path}: expected ${this.#totalBytes} bytes in the end, got ${this.#position}`);
    await this.sync();
    this.close();
    return { bytes: this.#position, sha256: this.#hash.digest('hex') };
  }

  close(): void {
    closeSync(this.#descriptor);
  }
}

function isContinuable(descriptor: number, header: Uint8Array, keptBytes: number): boolean {
  if (fstatSync(descriptor).size < keptBytes) return false;
  const start = new Uint8Array(header.byteLength);
  return (
    readSync(descriptor, start, 0, start.byteLength, 0) === start.byteLength && Buffer.compare(start, header) === 0
  );
}

function hashFile(descriptor: number, bytes: number, hash: Hash): void {
  const piece = new Uint8Array(HASH_PIECE_BYTES);
  for (let at = 0; at < bytes; ) {
    const read = readSync(descriptor, piece, 0, Math.min(piece.byteLength, bytes - at), at);
    if (read === 0) throw new Error(`the file ended at ${at} of ${bytes} bytes`);
    hash.update(piece.subarray(0, read));
    at += read;
  }
}
