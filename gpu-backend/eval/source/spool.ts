import { type FileHandle, mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Where some bytes lie in a spool. */
export interface Slice {
  readonly at: number;
  readonly length: number;
}

/**
 * A file without a name that bytes are added to and read from at random: what a benchmark's containers can only be read in order for. It takes the disk of
 * the system's temporary folder (`TMPDIR`) and is gone with the process, however that ends.
 */
export class Spool {
  private end = 0;
  private tail: Promise<unknown> = Promise.resolve();

  private constructor(private readonly file: FileHandle) {}

  static async create(): Promise<Spool> {
    const folder = await mkdtemp(join(tmpdir(), 'mantis-eval-'));
    const file = await open(join(folder, 'spool'), 'wx+', 0o600);
    await rm(folder, { recursive: true, force: true });
    return new Spool(file);
  }

  async append(bytes: Uint8Array): Promise<Slice> {
    const slice = { at: this.end, length: bytes.byteLength };
    this.end += bytes.byteLength;
    const written = this.tail.then(async () => {
      for (let done = 0; done < slice.length; ) {
        const { bytesWritten } = await this.file.write(bytes, done, slice.length - done, slice.at + done);
        done += bytesWritten;
      }
    });
    this.tail = written;
    await written;
    return slice;
  }

  async read({ at, length }: Slice): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const { bytesRead } = await this.file.read(bytes, done, length - done, at + done);
      if (bytesRead === 0) throw new Error(`spool: expected ${length} bytes at ${at}, it ends after ${done}`);
      done += bytesRead;
    }
    return bytes;
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}
