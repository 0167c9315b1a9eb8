import { type FileHandle, open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { DataExample } from './example.ts';
import { ImageStore } from './image-store.ts';

/** Fetches the bytes of a picture that is not in the store: a `file-…` id, an https address, a `sha256:…` upload. */
export type FetchImage = (reference: string) => Promise<Uint8Array>;

/** What was read of one file, and what became of it. */
export interface FileCounts {
  /** Non-empty lines or records. */
  readonly records: number;
  /** With an error, found by the readers or by `onExample`. */
  readonly bad: number;
  /** Left out because the caller said so (`leftOut`). */
  readonly leftOut: number;
  readonly usable: number;
  /** Usable ones above the subset's `max_num_images`. */
  readonly tooManyImages: number;
  /** Different usable ones that the mixture takes. */
  readonly taken: number;
  /** Entries of the mixture, repetitions included. */
  readonly entries: number;
}

/** The file `store.json`, written last: a folder that has it is whole. */
export interface StoreManifest {
  readonly version: 1;
  readonly key: string;
  readonly records: number;
  readonly length: number;
  readonly files: readonly FileCounts[];
}

/**
 * Examples on disk: conversations in one file with an index, pictures by content in a folder. Positions are those of the mixture: an example that is
 * repeated has several. Nothing but the index (about 13 bytes an example) is held in memory.
 */
export class ExampleStore {
  private constructor(
    readonly dir: string,
    readonly manifest: StoreManifest,
    private readonly file: FileHandle,
    private readonly offsets: Float64Array,
    private readonly imageCounts: Uint8Array,
    private readonly order: Uint32Array,
    readonly images: ImageStore,
    private readonly fetchImage: FetchImage | undefined,
  ) {}

  /** @param imageDir where its pictures are; default: `images` in it @throws where the folder has no whole store */
  static async open(dir: string, options: { imageDir?: string; fetchImage?: FetchImage } = {}): Promise<ExampleStore> {
    const manifest = JSON.parse(await readFile(join(dir, 'store.json'), 'utf8')) as StoreManifest;
    const offsets = new Float64Array(arrayBufferOf(await readFile(join(dir, 'offsets.f64'))));
    const imageCounts = new Uint8Array(await readFile(join(dir, 'image-counts.u8')));
    const order = new Uint32Array(arrayBufferOf(await readFile(join(dir, 'order.u32'))));
    if (
      offsets.length !== manifest.records + 1 ||
      imageCounts.length !== manifest.records ||
      order.length !== manifest.length
    )
      throw new Error(`${dir}: expected ${manifest.records} examples in the index, found ${offsets.length - 1}`);
    const file = await open(join(dir, 'examples.jsonl'), 'r');
    const images = new ImageStore(options.imageDir ?? join(dir, 'images'));
    return new ExampleStore(dir, manifest, file, offsets, imageCounts, order, images, options.fetchImage);
  }

  /** Entries of the mixture. */
  get length(): number {
    return this.manifest.length;
  }

  /** Different examples, taken by the mixture or not. */
  get records(): number {
    return this.manifest.records;
  }

  /** Which of the different examples entry `i` is, 0 … records − 1. */
  recordOf(i: number): number {
    const record = this.order[i];
    if (record === undefined) throw new RangeError(`example ${i} of ${this.length}`);
    return record;
  }

  /** Number of pictures of entry `i`, without reading it. */
  imageCount(i: number): number {
    return this.imageCounts[this.recordOf(i)] ?? 0;
  }

  /** Entry `i` of the mixture. */
  async get(i: number): Promise<DataExample> {
    return await this.record(this.recordOf(i));
  }

  /** One of the different examples, by its place in the files. */
  async record(r: number): Promise<DataExample> {
    const start = this.offsets[r];
    const end = this.offsets[r + 1];
    if (start === undefined || end === undefined) throw new RangeError(`record ${r} of ${this.records}`);
    const bytes = Buffer.alloc(end - start);
    let got = 0;
    while (got < bytes.length) {
      const { bytesRead } = await this.file.read(bytes, got, bytes.length - got, start + got);
      if (bytesRead === 0) throw new Error(`${this.dir}: examples.jsonl ends at ${start + got}, expected ${end} bytes`);
      got += bytesRead;
    }
    return JSON.parse(bytes.toString('utf8')) as DataExample;
  }

  /**
   * Bytes of a picture: from the store, else fetched.
   * @throws where it is neither in the store nor can be fetched
   */
  async readImage(reference: string): Promise<Uint8Array> {
    const own = await this.images.read(reference);
    if (own !== null) return own;
    if (this.fetchImage === undefined)
      throw new Error(`the picture ${reference.slice(0, 80)} is outside the data and there is no way to fetch it`);
    return await this.fetchImage(reference);
  }

  async close(): Promise<void> {
    await this.file.close();
  }
}

function arrayBufferOf(bytes: Buffer): ArrayBuffer {
  const copy = new ArrayBuffer(bytes.length);
  new Uint8Array(copy).set(bytes);
  return copy;
}
