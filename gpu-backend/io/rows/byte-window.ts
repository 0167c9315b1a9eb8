import type { FileHandle } from 'node:fs/promises';

const CHUNK_BYTES = 1 << 20;

/**
 * The part of a file that is being looked at: bytes `start … end` of `buffer`. It grows at its end by reading and shrinks at its start by use; the buffer
 * is one, so that a long file leaves no garbage. What is taken from it is a view that the next `fill` overwrites.
 */
export class ByteWindow {
  buffer: Buffer;
  start = 0;
  end = 0;
  /** Bytes of the file before `start`. */
  offset = 0;

  /** @param chunkBytes what one read asks for */
  constructor(
    private readonly file: FileHandle,
    private readonly chunkBytes = CHUNK_BYTES,
  ) {
    this.buffer = Buffer.allocUnsafe(2 * chunkBytes);
  }

  get length(): number {
    return this.end - this.start;
  }

  /** Reads on. @returns false at the end of the file */
  async fill(): Promise<boolean> {
    if (this.start > 0 && this.buffer.length - this.end < this.chunkBytes) {
      this.buffer.copyWithin(0, this.start, this.end);
      this.end -= this.start;
      this.start = 0;
    }
    if (this.buffer.length - this.end < this.chunkBytes) {
      const larger = Buffer.allocUnsafe(
        Math.max(this.buffer.length + (this.buffer.length >> 1), this.end + this.chunkBytes),
      );
      this.buffer.copy(larger, 0, this.start, this.end);
      this.buffer = larger;
      this.end -= this.start;
      this.start = 0;
    }
    const { bytesRead } = await this.file.read(this.buffer, this.end, this.chunkBytes, null);
    this.end += bytesRead;
    return bytesRead > 0;
  }

  /** Passes over `count` bytes. */
  drop(count: number): void {
    this.start += count;
    this.offset += count;
  }
}
