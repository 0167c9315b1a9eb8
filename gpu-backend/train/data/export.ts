import { mkdir, open, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { sniffFormat } from '../../vision/header.ts';
import type { DataExample } from './example.ts';
import { MantisParquet } from './export-parquet.ts';
import {
  type ExportForm,
  type Locate,
  llavaRecord,
  mantisRecord,
  openAiRecord,
  shareGptRecord,
  type Written,
} from './export-record.ts';
import { mimeOf } from './pictures.ts';
import type { ExampleStore } from './store.ts';

export interface ExportOptions {
  /**
   * Folder for the pictures, by content. OpenAI's form then names them by digest (`sha256:…`), as they are known once they are uploaded; the others by
   * their path from the written file. Without it OpenAI's form holds them as data URLs, and JSON of the others cannot be written if there are any.
   */
  readonly imageDir?: string;
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

export interface ExportReport {
  readonly written: number;
  readonly images: number;
  /** What the form has no place for, by what it is: the number of examples that lost it. */
  readonly losses: ReadonlyMap<string, number>;
  /** Examples that the form cannot hold, by why. */
  readonly notWritten: ReadonlyMap<string, number>;
}

/** Writes the store's mixture in a form of records; the file appears when it is whole. @throws where a picture cannot be read */
export async function exportData(
  store: ExampleStore,
  form: ExportForm,
  out: string,
  options: ExportOptions = {},
): Promise<ExportReport> {
  const temporary = `${out}.part`;
  const losses = new Map<string, number>();
  const notWritten = new Map<string, number>();
  let written = 0;
  let images = 0;
  await mkdir(dirname(out), { recursive: true });
  const sink = form === 'mantis-parquet' ? parquetSink(temporary, store) : await jsonSink(temporary, form === 'openai');
  try {
    const pictures = new PictureWriter(store, out, form, options.imageDir);
    for (let i = 0; i < store.length; i++) {
      options.signal?.throwIfAborted();
      options.onProgress?.(i, store.length);
      const example = await store.get(i);
      const located = form === 'mantis-parquet' ? example.images : await pictures.locate(example);
      const result = recordOf(form, example, (image) => located[image] ?? '');
      if ('reason' in result) {
        count(notWritten, result.reason);
        continue;
      }
      for (const loss of result.losses) count(losses, loss);
      await sink.add(result.record, example);
      written++;
      images += example.images.length;
    }
    await sink.finish();
    options.onProgress?.(store.length, store.length);
    await rename(temporary, out);
  } catch (error) {
    await sink.abandon();
    await rm(temporary, { force: true });
    throw error;
  }
  return { written, images, losses, notWritten };
}

function recordOf(form: ExportForm, example: DataExample, locate: Locate): Written {
  if (form === 'openai') return openAiRecord(example, locate);
  if (form === 'llava') return llavaRecord(example, locate);
  return form === 'sharegpt' ? shareGptRecord(example, locate) : mantisRecord(example, locate);
}

function count(counts: Map<string, number>, what: string): void {
  counts.set(what, (counts.get(what) ?? 0) + 1);
}

/** Says where each picture of an example is, and puts it there. */
class PictureWriter {
  private readonly made = new Map<string, string>();

  constructor(
    private readonly store: ExampleStore,
    private readonly out: string,
    private readonly form: ExportForm,
    private readonly imageDir: string | undefined,
  ) {}

  async locate({ images, line }: DataExample): Promise<string[]> {
    const located: string[] = [];
    for (const reference of images) {
      const known = this.made.get(reference);
      if (known !== undefined) {
        located.push(known);
        continue;
      }
      const bytes = await this.store.images.read(reference);
      // File ids and addresses stay what they are.
      if (bytes === null) located.push(reference);
      else if (this.imageDir === undefined && this.form === 'openai')
        located.push(`data:${typeOf(bytes)};base64,${Buffer.from(bytes).toString('base64')}`);
      else if (this.imageDir === undefined)
        throw new Error(`record ${line} has pictures, and this form has them in files: name a folder for them`);
      else located.push(await this.write(reference, bytes, this.imageDir));
    }
    return located;
  }

  private async write(reference: string, bytes: Uint8Array, dir: string): Promise<string> {
    const digest = reference.slice('sha256:'.length);
    const path = join(dir, digest.slice(0, 2), `${digest}.${typeOf(bytes).slice('image/'.length)}`);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, bytes);
    const said = this.form === 'openai' ? reference : relative(dirname(this.out), path).replaceAll('\\', '/');
    this.made.set(reference, said);
    return said;
  }
}

function typeOf(bytes: Uint8Array): string {
  const format = sniffFormat(bytes);
  return format === null ? 'application/octet-stream' : mimeOf(format);
}

interface Sink {
  add(record: Readonly<Record<string, unknown>>, example: DataExample): Promise<void>;
  finish(): Promise<void>;
  abandon(): Promise<void>;
}

/** A line a record, or one array of them. */
async function jsonSink(path: string, isLines: boolean): Promise<Sink> {
  const file = await open(path, 'w');
  let count = 0;
  return {
    async add(record) {
      const before = isLines ? '' : count === 0 ? '[\n' : ',\n';
      count++;
      await file.writeFile(`${before}${JSON.stringify(record)}${isLines ? '\n' : ''}`);
    },
    async finish() {
      if (!isLines) await file.writeFile(count === 0 ? '[]\n' : '\n]\n');
      await file.sync();
      await file.close();
    },
    async abandon() {
      await file.close().catch(() => undefined);
    },
  };
}

function parquetSink(path: string, store: ExampleStore): Sink {
  const parquet = new MantisParquet(path);
  return {
    async add(record, example) {
      const paths = record.images as string[];
      const images = await Promise.all(
        paths.map(async (reference, i) => {
          const bytes = await store.images.read(reference);
          return { bytes, path: bytes === null ? reference : (example.notes[i]?.path ?? reference) };
        }),
      );
      const conversation = record.conversation as { role: string; content: string; weight?: number }[];
      await parquet.add({ id: String(record.id), skill: example.skill, images, conversation });
    },
    finish: () => parquet.finish(),
    async abandon() {},
  };
}
