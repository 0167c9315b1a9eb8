import { createHash } from 'node:crypto';
import { readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { DataFile, DataSpec, LeftOut } from '../../../shared/contract/backend.ts';
import { type DatasetProblem, Skill } from '../../../shared/contract/datasets.ts';
import { describe } from '../../../shared/contract/errors.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { readDialogue } from './dialogue.ts';
import { contentHashOf, type DataExample } from './example.ts';
import { ExampleWriter } from './example-writer.ts';
import { ImageStore } from './image-store.ts';
import type { RawRecord } from './json-record.ts';
import { type Candidates, mix } from './mixture.ts';
import { type Conversation, readOpenAi } from './openai.ts';
import { PictureTaker } from './pictures.ts';
import { RecordProblems } from './problem.ts';
import { readRecords } from './records.ts';
import { ExampleStore, type FetchImage, type FileCounts, type StoreManifest } from './store.ts';

export interface ImportOptions {
  /** Which data it is, for problems and `leftOut`. Default 0. */
  readonly data?: number | 'validation';
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

interface ReadCounts {
  readonly records: number;
  readonly bad: number;
  readonly leftOut: number;
  /** Its usable examples are first … end − 1 in the store. */
  readonly first: number;
  readonly end: number;
}

/** Reads files of one spec into a writer. */
class SpecReader {
  private readonly images: ImageReader;

  constructor(
    private readonly spec: DataSpec,
    private readonly store: ImageStore,
    private readonly options: ImportOptions,
  ) {
    const { fetchImage } = options;
    this.images = {
      readImage: async (reference) => {
        const own = await store.read(reference);
        if (own !== null) return own;
        if (fetchImage === undefined) throw new Error(`there is no way to fetch the picture ${reference.slice(0, 80)}`);
        return await fetchImage(reference);
      },
    };
  }

  async readFile(
    file: number,
    path: string,
    leftOut: ReadonlySet<number>,
    writer: ExampleWriter,
    onProgress: (bytes: number) => void,
  ): Promise<ReadCounts> {
    const subset = this.spec.files[file];
    if (subset === undefined) throw new Error(`importData: no file ${file}`);
    const pictures = new PictureTaker(this.store, this.options.imageRoot?.(file));
    const name = subset.name ?? (this.spec.files.length > 1 ? subset.filename : null);
    const counts = { records: 0, bad: 0, leftOut: 0 };
    const first = writer.records;
    const problemsOf = (line: number | null) =>
      new RecordProblems((problem) => this.options.onProblem?.(problem, file), {
        data: this.options.data ?? 0,
        subset: name,
        line,
      });
    for await (const record of readRecords(path, {
      filename: subset.filename,
      onProgress,
      signal: this.options.signal,
    })) {
      const { line, fault } = record;
      if (line === null) {
        if (fault !== undefined) problemsOf(null).add('error', { ...fault, param: null });
        continue;
      }
      if (++counts.records > LIMITS.dataset.maxLines) {
        counts.records--;
        problemsOf(line).error('invalid_training_file', null, {
          expected: `at most ${LIMITS.dataset.maxLines} examples in a file`,
          received: 'more; the rest is not read',
        });
        break;
      }
      if (leftOut.has(line)) {
        counts.leftOut++;
        continue;
      }
      const problems = problemsOf(line);
      const example = await this.exampleOf(record, line, file, subset, name, pictures, problems);
      if (example === null || (await this.options.onExample?.(example, this.images)) === false) counts.bad++;
      else await writer.add(example);
    }
    if (counts.records === 0)
      problemsOf(null).error('invalid_training_file', null, {
        expected: 'at least 1 example',
        received: 'a file without any',
      });
    return { ...counts, first, end: writer.records };
  }

  private async exampleOf(
    record: RawRecord,
    line: number,
    file: number,
    subset: DataFile,
    name: string | null,
    pictures: PictureTaker,
    problems: RecordProblems,
  ): Promise<DataExample | null> {
    if (record.fault !== undefined) {
      problems.add('error', { ...record.fault, param: null });
      return null;
    }
    const found = await readConversation(record.value, subset, pictures, problems);
    if (found === null) return null;
    const { id, messages, images, notes } = found;
    const skill = Skill.safeParse(found.skill);
    const contentHash = contentHashOf(messages, images);
    return {
      line,
      file,
      id,
      subset: name,
      skill: skill.success ? skill.data : (subset.skill ?? null),
      messages,
      images,
      notes,
      contentHash,
    };
  }
}

/** By the subset's format, else by what the record holds. */
async function readConversation(
  value: unknown,
  { format, images_first }: DataFile,
  pictures: PictureTaker,
  problems: RecordProblems,
): Promise<Conversation | null> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    problems.error('invalid_type', null, { expected: 'an object', received: describe(value) });
    return null;
  }
  const record = value as Readonly<Record<string, unknown>>;
  const isDialogue = Object.hasOwn(record, 'conversations') || Object.hasOwn(record, 'conversation');
  // What has neither is said to lack what most files have.
  const isOpenAi = format === undefined ? Object.hasOwn(record, 'messages') || !isDialogue : format === 'openai';
  if (isOpenAi) return await readOpenAi(value, pictures, problems);
  return await readDialogue(record, pictures, problems, { imagesFirst: images_first ?? false });
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
