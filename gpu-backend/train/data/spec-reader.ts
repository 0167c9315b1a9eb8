import type { DataFile, DataSpec } from '../../../shared/contract/backend.ts';
import { Skill } from '../../../shared/contract/datasets.ts';
import { describe } from '../../../shared/contract/errors.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import type { RawRecord } from '../../io/rows/json-record.ts';
import { readRecords } from '../../io/rows/records.ts';
import { readDialogue } from './dialogue.ts';
import { contentHashOf, type DataExample } from './example.ts';
import type { ExampleWriter } from './example-writer.ts';
import type { ImageStore } from './image-store.ts';
import type { ImageReader, ImportOptions } from './import.ts';
import { type Conversation, readOpenAi } from './openai.ts';
import { PictureTaker } from './pictures.ts';
import { RecordProblems } from './problem.ts';

/** What came of a file. */
export interface ReadCounts {
  readonly records: number;
  readonly bad: number;
  readonly leftOut: number;
  /** Its usable examples are first … end − 1 in the store. */
  readonly first: number;
  readonly end: number;
}

/** Reads files of one spec into a writer. */
export class SpecReader {
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
    const { id, group, messages, images, notes } = found;
    const skill = Skill.safeParse(found.skill);
    const contentHash = contentHashOf(messages, images);
    return {
      line,
      file,
      id,
      subset: name,
      skill: skill.success ? skill.data : (subset.skill ?? null),
      ...(group === undefined ? {} : { group }),
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
