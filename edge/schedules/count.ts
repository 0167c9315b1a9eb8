/**
 * How many examples a file holds, counted as they are written: lines of JSON Lines that are not empty, elements of a JSON array, rows of a Parquet file.
 * What is wrong with them is for validation to say. Each content is read once, in constant memory.
 */
import { parquetMetadata } from 'hyparquet';
import type { DataSpec } from '../../shared/contract/backend.ts';
import type { Env } from '../env.ts';
import { fileKey, getFiles } from '../store/files.ts';

/** Examples of a list of data: each file's, up to its `max_size`. */
export async function countExamples(env: Pick<Env, 'DB' | 'BLOBS'>, tenant: string, spec: DataSpec): Promise<number> {
  let total = 0;
  for (const { file, max_size } of spec.files) {
    const examples = (await knownCount(env.DB, file.sha256)) ?? (await countAndKeep(env, tenant, file));
    total += Math.min(examples, max_size ?? examples);
  }
  return total;
}

async function knownCount(db: D1Database, sha256: string): Promise<number | null> {
  const row = await db
    .prepare('SELECT examples FROM file_examples WHERE sha256 = ?')
    .bind(sha256)
    .first<{ examples: number }>();
  return row?.examples ?? null;
}

async function countAndKeep(
  env: Pick<Env, 'DB' | 'BLOBS'>,
  tenant: string,
  file: { id: string; bytes: number; sha256: string },
): Promise<number> {
  const [row] = await getFiles(env.DB, tenant, [file.id]);
  if (row === undefined) throw new Error(`file ${file.id}: expected a row, found none`);
  const key = fileKey(row);
  const head = await bytesOf(env.BLOBS, key, { offset: 0, length: Math.min(file.bytes, 4_096) });
  const examples = startsWith(head, PARQUET)
    ? await countParquet(env.BLOBS, key, file.bytes)
    : await countJson(await streamOf(env.BLOBS, key));
  await env.DB.prepare('INSERT OR IGNORE INTO file_examples (sha256, examples) VALUES (?, ?)')
    .bind(file.sha256, examples)
    .run();
  return examples;
}

const PARQUET = [0x50, 0x41, 0x52, 0x31];
const startsWith = (bytes: Uint8Array, start: readonly number[]) => start.every((byte, at) => bytes[at] === byte);

/** The footer says how many rows there are; its length stands before the closing magic. */
async function countParquet(blobs: R2Bucket, key: string, bytes: number): Promise<number> {
  const tail = await bytesOf(blobs, key, { offset: Math.max(0, bytes - 8), length: Math.min(8, bytes) });
  const footer = new DataView(tail.buffer, tail.byteOffset, tail.byteLength).getUint32(0, true) + 8;
  if (footer > bytes || footer > MAX_FOOTER)
    throw new Error(`a Parquet footer of ${footer} bytes in a file of ${bytes}`);
  const all = await bytesOf(blobs, key, { offset: bytes - footer, length: footer });
  return Number(parquetMetadata(all.slice().buffer).num_rows);
}

const MAX_FOOTER = 32 * 1024 * 1024;

const SPACE = new Set([0x20, 0x09, 0x0a, 0x0d]);
/** What may stand before the first character: white space, and the bytes of a byte order mark, which may come apart. */
const LEADING = new Set([...SPACE, 0xef, 0xbb, 0xbf]);
const [NEWLINE, QUOTE, BACKSLASH, COMMA] = [0x0a, 0x22, 0x5c, 0x2c];
const OPENS = new Set([0x5b, 0x7b]);
const CLOSES = new Set([0x5d, 0x7d]);

/** Lines that are not empty, or, where the first character opens an array, its elements. */
export async function countJson(stream: ReadableStream<Uint8Array>): Promise<number> {
  let isArray: boolean | null = null;
  let count = 0;
  // Of lines: whether this one has anything on it. Of an array: whether an element has begun.
  let hasContent = false;
  let depth = 0;
  let inString = false;
  let isEscaped = false;
  for await (const whole of chunksOf(stream)) {
    let at = 0;
    if (isArray === null) {
      while (at < whole.length && LEADING.has(whole[at] as number)) at++;
      if (at === whole.length) continue;
      isArray = whole[at] === 0x5b;
      if (isArray) {
        depth = 1;
        at++;
      }
    }
    if (!isArray) {
      while (at < whole.length) {
        const end = whole.indexOf(NEWLINE, at);
        const stop = end === -1 ? whole.length : end;
        for (; !hasContent && at < stop; at++) hasContent = !SPACE.has(whole[at] as number);
        if (end === -1) break;
        if (hasContent) count++;
        hasContent = false;
        at = end + 1;
      }
      continue;
    }
    for (; at < whole.length && depth > 0; at++) {
      const byte = whole[at] as number;
      if (inString) {
        if (isEscaped) isEscaped = false;
        else if (byte === BACKSLASH) isEscaped = true;
        else if (byte === QUOTE) inString = false;
        continue;
      }
      if (CLOSES.has(byte)) {
        depth--;
        continue;
      }
      if (byte === COMMA && depth === 1) {
        count++;
        hasContent = false;
        continue;
      }
      if (!hasContent && !SPACE.has(byte)) hasContent = true;
      if (byte === QUOTE) inString = true;
      else if (OPENS.has(byte)) depth++;
    }
  }
  return hasContent ? count + 1 : count;
}

async function* chunksOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

async function streamOf(blobs: R2Bucket, key: string): Promise<ReadableStream<Uint8Array>> {
  const object = await blobs.get(key);
  if (object === null) throw new Error(`${key}: expected an object in the store, found none`);
  return object.body;
}

async function bytesOf(blobs: R2Bucket, key: string, range: { offset: number; length: number }): Promise<Uint8Array> {
  const object = await blobs.get(key, { range });
  if (object === null) throw new Error(`${key}: expected an object in the store, found none`);
  return new Uint8Array(await object.arrayBuffer());
}
