import { type FileHandle, open } from 'node:fs/promises';
import { ByteWindow } from './byte-window.ts';
import { readJsonArray } from './json-array.ts';
import { readJsonLines } from './json-lines.ts';
import type { RawRecord } from './json-record.ts';
import { readParquet } from './parquet.ts';

export type Container = 'jsonl' | 'json' | 'parquet';

/** Files that are something else, by their first bytes. */
const OTHERS: readonly (readonly [string, string])[] = [
  ['1f8b', 'a gzip file'],
  ['504b0304', 'a zip archive'],
  ['28b52ffd', 'a zstd file'],
  ['fffe', 'UTF-16 text'],
  ['feff', 'UTF-16 text'],
  ['89504e47', 'a PNG picture'],
  ['ffd8ff', 'a JPEG picture'],
  ['25504446', 'a PDF document'],
];

export interface ReadOptions {
  /** Its ending decides where bytes could be either: a file named .jsonl may begin with "[". */
  readonly filename?: string;
  readonly onProgress?: (bytesDone: number) => void;
  readonly signal?: AbortSignal | undefined;
}

/** The records of a file in order: JSON Lines, a JSON array or Parquet, told apart by the bytes. A value may be overwritten when the next is asked for. */
export async function* readRecords(
  path: string,
  options: ReadOptions = {},
): AsyncGenerator<RawRecord, void, undefined> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    const head = Buffer.alloc(8);
    const { bytesRead } = await file.read(head, 0, head.length, 0);
    const magic = head.toString('hex', 0, bytesRead);
    const other = OTHERS.find(([prefix]) => magic.startsWith(prefix))?.[1];
    if (other !== undefined) {
      const message = `expected JSON Lines, a JSON array or Parquet, received ${other}`;
      yield { line: null, fault: { code: 'invalid_training_file', message } };
      return;
    }
    let count = 0;
    const window = new ByteWindow(file);
    for await (const record of containerOf(file, window, size, magic, options.filename ?? path)) {
      // A look at the clock or a signal for each of a million records would cost more than reading them.
      if ((count++ & 63) === 0) {
        options.signal?.throwIfAborted();
        options.onProgress?.(window.offset);
      }
      yield record;
    }
    options.signal?.throwIfAborted();
    options.onProgress?.(size);
  } finally {
    await file.close();
  }
}

async function* containerOf(
  file: FileHandle,
  window: ByteWindow,
  size: number,
  magic: string,
  name: string,
): AsyncGenerator<RawRecord, void, undefined> {
  if (magic.startsWith(Buffer.from('PAR1').toString('hex'))) return yield* readParquet(file, size);
  await window.fill();
  if (magic.startsWith('efbbbf')) window.drop(3);
  if (/\.(jsonl|ndjson)$/i.test(name)) return yield* readJsonLines(window);
  // Blank lines before anything else belong to the lines that are counted, so they are looked past, not taken.
  let at = window.start;
  for (;;) {
    while (at < window.end && /\s/.test(String.fromCharCode(window.buffer[at] ?? 0))) at++;
    if (at < window.end || window.length > 1 << 16) break;
    const looked = at - window.start;
    if (!(await window.fill())) break;
    at = window.start + looked;
  }
  if (window.buffer[at] === 0x5b && at < window.end) return yield* readJsonArray(window);
  return yield* readJsonLines(window);
}
