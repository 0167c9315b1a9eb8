import { createHash } from 'node:crypto';
import { readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { DataFile, DataSpec, LeftOut } from '../../../shared/contract/backend.ts';
import type { DataName, DatasetProblem } from '../../../shared/contract/datasets.ts';
import type { DataExample } from './example.ts';
import { ExampleWriter } from './example-writer.ts';
import { ImageStore } from './image-store.ts';
import { type Candidates, mix } from './mixture.ts';
import { type ReadCounts, SpecReader } from './spec-reader.ts';
import { ExampleStore, type FetchImage, type FileCounts, type StoreManifest } from './store.ts';

export interface ImportOptions {
  /** Which data it is, for problems and `leftOut`. Default 0. */
  readonly data?: DataName;
  /** Every problem of every record, as it is found; `file` is an index into the spec's files. */
  readonly onProblem?: (problem: DatasetProblem, file: number) => void;
  /**
   * Every example that the readers find right, in the order of the files and before the mixture takes its share; its pictures are in `images` or outside.
   * Reading waits for the promise. `false`: the example is bad after all (the caller has said why), and the store is made without it.
   */
  readonly onExample?: (example: DataExample, images: ImageReader) => Promise<boolean> | boolean;
  /** Lines that are not trained on, exactly as validation has listed them; `file` is a `file_id`. */
  readonly leftOut?: LeftOut;
  /** Folder of pictures, where several stores share one. Default: `images` in `dir`. */
  readonly imageDir?: string;
  /** For pictures that stay outside. */
  readonly fetchImage?: FetchImage;
  /** Folder that the paths of a file's pictures start from; without one (an uploaded file) a path is a problem. */
  readonly imageRoot?: (file: number) => string | undefined;
  /** Number of each file's subset, where several files are one: their examples are shuffled, cut and balanced together, by the first file's settings. */
  readonly groups?: readonly number[];
  readonly onProgress?: (bytesDone: number, bytesTotal: number) => void;
  readonly signal?: AbortSignal | undefined;
}

export interface ImageReader {
  /** Bytes of a picture: from the store, else fetched. @throws where neither has it */
  readImage(reference: string): Promise<Uint8Array>;
}

export interface ImportResult {
  readonly store: ExampleStore;
  readonly files: readonly FileCounts[];
}

/** Rises when the same bytes would give another store. */
const VERSION = 1;

/**
 * Reads the files of a data spec once, in constant memory, into a store in `dir`: canonical examples, pictures by content, and the order of the mixture.
 * Lines with errors are told and passed over. The store depends on the files' bytes, the spec and `leftOut` alone; a whole one that is already there for
 * the same of these is opened as it is, where nobody asks for problems or examples.
 * @param paths where the bytes of `spec.files` are, in the same order
 * @throws the signal's reason
 */
export async function importData(
  spec: DataSpec,
  paths: readonly string[],
  dir: string,
  options: ImportOptions = {},
): Promise<ImportResult> {
  if (paths.length !== spec.files.length)
    throw new Error(`importData: expected a path for each of ${spec.files.length} files, received ${paths.length}`);
  const data = options.data ?? 0;
  const imageDir = options.imageDir ?? join(dir, 'images');
  const reopen = {
    imageDir,
    ...(options.fetchImage === undefined ? {} : { fetchImage: options.fetchImage }),
  };
  const leftOut = spec.files.map(
    ({ file_id }) =>
      new Set((options.leftOut ?? []).filter((l) => l.data === data && l.file === file_id).flatMap((l) => l.lines)),
  );
  const key = keyOf(spec, leftOut, options.groups ?? null);
  if (options.onProblem === undefined && options.onExample === undefined && (await keyIn(dir)) === key) {
    const store = await ExampleStore.open(dir, reopen);
    return { store, files: store.manifest.files };
  }
  await rm(join(dir, 'store.json'), { force: true });
  const images = new ImageStore(imageDir);
  const reader = new SpecReader(spec, images, options);
  const writer = await ExampleWriter.create(dir);
  try {
    const sizes = await Promise.all(paths.map(async (path) => (await stat(path)).size));
    const total = sizes.reduce((sum, size) => sum + size, 0);
    let done = 0;
    const read: ReadCounts[] = [];
    for (const [file, path] of paths.entries()) {
      read.push(
        await reader.readFile(file, path, leftOut[file] ?? new Set(), writer, (bytes) =>
          options.onProgress?.(done + bytes, total),
        ),
      );
      done += sizes[file] ?? 0;
    }
    const candidates = read.map((counts, file) => candidatesOf(spec.files[file], counts, writer));
    const mixture = mix(grouped(candidates, options.groups), spec.balancing);
    const shares = sharesOf(mixture.order, read);
    const files = read.map(
      ({ records, bad, leftOut: left, first, end }, file): FileCounts => ({
        records,
        bad,
        leftOut: left,
        usable: end - first,
        tooManyImages: end - first - (candidates[file]?.records.length ?? 0),
        taken: shares[file]?.taken ?? 0,
        entries: shares[file]?.entries ?? 0,
      }),
    );
    const manifest: StoreManifest = {
      version: VERSION,
      key,
      records: writer.records,
      length: mixture.order.length,
      files,
    };
    await writer.finish(mixture.order, manifest);
    return { store: await ExampleStore.open(dir, reopen), files };
  } catch (error) {
    await writer.abandon();
    throw error;
  }
}

function candidatesOf(subset: DataFile | undefined, { first, end }: ReadCounts, writer: ExampleWriter): Candidates {
  const records = new Uint32Array(end - first);
  let count = 0;
  const max = subset?.max_num_images ?? Number.POSITIVE_INFINITY;
  for (let r = first; r < end; r++) if (writer.imageCount(r) <= max) records[count++] = r;
  return {
    records: records.subarray(0, count),
    maxSize: subset?.max_size,
    shuffle: subset?.shuffle,
    seed: subset?.seed,
  };
}

function grouped(candidates: readonly Candidates[], groups: readonly number[] | undefined): Candidates[] {
  if (groups === undefined) return [...candidates];
  const subsets = new Map<number, Candidates>();
  for (const [file, own] of candidates.entries()) {
    const group = groups[file] ?? file;
    const before = subsets.get(group);
    const records = new Uint32Array((before?.records.length ?? 0) + own.records.length);
    records.set(before?.records ?? []);
    records.set(own.records, before?.records.length ?? 0);
    subsets.set(group, { ...(before ?? own), records });
  }
  return [...subsets.values()];
}

/** How many entries each file has, and how many different records they are of. */
function sharesOf(order: Uint32Array, read: readonly ReadCounts[]): { taken: number; entries: number }[] {
  const times = new Uint32Array(read.at(-1)?.end ?? 0);
  for (const record of order) times[record] = (times[record] ?? 0) + 1;
  return read.map(({ first, end }) => {
    const own = times.subarray(first, end);
    return { taken: own.reduce((sum, n) => sum + Math.min(n, 1), 0), entries: own.reduce((sum, n) => sum + n, 0) };
  });
}

function keyOf(spec: DataSpec, leftOut: readonly ReadonlySet<number>[], groups: readonly number[] | null): string {
  const hash = createHash('sha256');
  hash.update(JSON.stringify([VERSION, spec, groups, leftOut.map((lines) => [...lines].sort((a, b) => a - b))]));
  return hash.digest('hex');
}

async function keyIn(dir: string): Promise<string | null> {
  try {
    return (JSON.parse(await readFile(join(dir, 'store.json'), 'utf8')) as Partial<StoreManifest>).key ?? null;
  } catch {
    return null;
  }
}
