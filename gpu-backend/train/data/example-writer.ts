import { type FileHandle, mkdir, open, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { DataExample } from './example.ts';
import type { StoreManifest } from './store.ts';

const FLUSH_BYTES = 1 << 20;

/** Writes the files of an `ExampleStore`; nothing counts until `finish` has put `store.json` there. */
export class ExampleWriter {
  records = 0;
  private offsets = new Float64Array(1024);
  private counts = new Uint8Array(1024);
  private waiting: Buffer[] = [];
  private waitingBytes = 0;
  private offset = 0;

  private constructor(
    private readonly dir: string,
    private readonly file: FileHandle,
  ) {}

  static async create(dir: string): Promise<ExampleWriter> {
    await mkdir(dir, { recursive: true });
    return new ExampleWriter(dir, await open(join(dir, 'examples.jsonl'), 'w'));
  }

  async add(example: DataExample): Promise<void> {
    if (this.records + 1 >= this.offsets.length) {
      this.offsets = grown(this.offsets, new Float64Array(2 * this.offsets.length));
      this.counts = grown(this.counts, new Uint8Array(2 * this.counts.length));
    }
    const bytes = Buffer.from(`${JSON.stringify(example)}\n`);
    this.counts[this.records] = example.images.length;
    this.offset += bytes.length;
    this.offsets[++this.records] = this.offset;
    this.waiting.push(bytes);
    this.waitingBytes += bytes.length;
    if (this.waitingBytes >= FLUSH_BYTES) await this.flush();
  }

  /** Number of pictures of a record. */
  imageCount(record: number): number {
    return this.counts[record] ?? 0;
  }

  async finish(order: Uint32Array, manifest: StoreManifest): Promise<void> {
    await this.flush();
    await this.file.sync();
    await this.file.close();
    await writeFile(join(this.dir, 'offsets.f64'), bytesOf(this.offsets.subarray(0, this.records + 1)));
    await writeFile(join(this.dir, 'image-counts.u8'), this.counts.subarray(0, this.records));
    await writeFile(join(this.dir, 'order.u32'), bytesOf(order));
    const path = join(this.dir, 'store.json');
    await writeFile(`${path}.new`, JSON.stringify(manifest));
    await rename(`${path}.new`, path);
  }

  async abandon(): Promise<void> {
    await this.file.close();
  }

  private async flush(): Promise<void> {
    const bytes = Buffer.concat(this.waiting);
    this.waiting = [];
    this.waitingBytes = 0;
    let written = 0;
    while (written < bytes.length) written += (await this.file.write(bytes, written)).bytesWritten;
  }
}

const bytesOf = (array: Float64Array | Uint32Array): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

function grown<T extends Float64Array | Uint8Array>(old: T, larger: T): T {
  larger.set(old);
  return larger;
}
