/** A benchmark laid out on disk: every question as it is asked, with the record it is scored against. Written by a child process, read by the server. */
import { createReadStream } from 'node:fs';
import { type FileHandle, open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { EvalImage, EvalPrompt, EvalRecord, EvalSpec, EvalVariant } from '../../../eval/task.ts';

export const LAID = {
  /** A `LaidQuestion` a line. */
  questions: 'questions.jsonl',
  /** A `LaidRecord` a line, in order: what a report shows. */
  records: 'records.jsonl',
  /** Files of pictures one behind the other, each once. */
  pictures: 'pictures.bin',
  /** `[name, place, bytes]` a line. */
  index: 'pictures.jsonl',
} as const;

/** Pictures by name: the digest of the file, or of what it is made of. */
export type LaidRecord = Omit<EvalRecord, 'images'> & { readonly images: readonly string[] };

export type LaidPrompt = Omit<EvalPrompt, 'images' | 'mergedText'> & { readonly images: readonly string[] };

export interface LaidQuestion {
  /** From 0, in an order that the data and the run fix. */
  readonly index: number;
  readonly variant: EvalVariant;
  /** Whether the benchmark asks it so: only these count as the run's questions. */
  readonly isCounted: boolean;
  /** Under which its score is summed. */
  readonly criterion: string;
  /** As it is shown: options and answers rotated, pictures in their order. */
  readonly shown: LaidRecord;
  /** The question as it was published. */
  readonly question: string;
  /** Absent where it cannot be asked; then `fault` says why. */
  readonly prompt?: LaidPrompt;
  readonly fault?: string;
}

/** What the process that laid it out says. */
export interface LaidOut {
  readonly spec: EvalSpec;
  readonly title: string;
  readonly questions: number;
  /** Of these, those of the benchmark itself. */
  readonly counted: number;
}

type Places = ReadonlyMap<string, readonly [at: number, bytes: number]>;

/** Reads what was laid out: files of our own, whatever the benchmark's were. */
export class LaidBenchmark {
  readonly #folder: string;
  readonly #places: Places;
  readonly #pictures: FileHandle;

  private constructor(folder: string, places: Places, pictures: FileHandle) {
    this.#folder = folder;
    this.#places = places;
    this.#pictures = pictures;
  }

  static async open(folder: string): Promise<LaidBenchmark> {
    const lines = (await readFile(join(folder, LAID.index), 'utf8')).split('\n').filter((line) => line !== '');
    const places = lines.map((line) => {
      const [name, at, bytes] = JSON.parse(line) as [string, number, number];
      return [name, [at, bytes]] as const;
    });
    return new LaidBenchmark(folder, new Map(places), await open(join(folder, LAID.pictures), 'r'));
  }

  questions(): AsyncGenerator<LaidQuestion, void, undefined> {
    return linesOf<LaidQuestion>(join(this.#folder, LAID.questions));
  }

  /** The records that were asked, with pictures that can be read. */
  async *records(): AsyncGenerator<EvalRecord, void, undefined> {
    for await (const { images, ...record } of linesOf<LaidRecord>(join(this.#folder, LAID.records)))
      yield { ...record, images: images.map((name) => this.image(name)) };
  }

  image(name: string): EvalImage {
    return { sha256: name, bytes: () => this.#read(name) };
  }

  async close(): Promise<void> {
    await this.#pictures.close();
  }

  async #read(name: string): Promise<Uint8Array> {
    const place = this.#places.get(name);
    // Of a picture that could not be read, the question has a fault; a report leaves it out.
    if (place === undefined) throw new Error(`picture ${name}: it could not be read`);
    const [at, bytes] = place;
    const file = new Uint8Array(bytes);
    for (let done = 0; done < bytes; ) {
      const { bytesRead } = await this.#pictures.read(file, done, bytes - done, at + done);
      if (bytesRead === 0) throw new Error(`${LAID.pictures}: expected ${bytes} bytes at ${at}, it ends after ${done}`);
      done += bytesRead;
    }
    return file;
  }
}

async function* linesOf<Line>(path: string): AsyncGenerator<Line, void, undefined> {
  const input = createReadStream(path);
  try {
    for await (const line of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY }))
      if (line !== '') yield JSON.parse(line) as Line;
  } finally {
    input.destroy();
  }
}
