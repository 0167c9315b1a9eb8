import type { FileHandle } from 'node:fs/promises';
import { type AsyncBuffer, type Compressors, parquetMetadataAsync, parquetReadObjects } from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import type { RawRecord } from './json-record.ts';

const MIB = 1 << 20;
/** What one read of rows may take unpacked. Row groups of pictures are larger, and are read in slices where the file has an offset index. */
const SLICE_BYTES = 24 * MIB;
const MAX_GROUP_BYTES = 1024 * MIB;
const MAX_PAGE_BYTES = 512 * MIB;

/** A codec that is asked for more than any page needs is a trap. */
export const boundedCodecs: Compressors = Object.fromEntries(
  Object.entries(compressors).map(([codec, unpack]) => [
    codec,
    (input: Uint8Array, outputLength: number) => {
      if (outputLength > MAX_PAGE_BYTES)
        throw new Error(`a page claims ${outputLength} bytes unpacked, at most ${MAX_PAGE_BYTES} are read`);
      return unpack(input, outputLength);
    },
  ]),
);

function bufferOf(file: FileHandle, byteLength: number): AsyncBuffer {
  return {
    byteLength,
    async slice(start, end = byteLength) {
      if (start < 0 || end < start || end > byteLength)
        throw new Error(`it points to bytes ${start} to ${end} of a file of ${byteLength}`);
      const bytes = new ArrayBuffer(end - start);
      const view = new Uint8Array(bytes);
      let got = 0;
      while (got < view.length) {
        const { bytesRead } = await file.read(view, got, view.length - got, start + got);
        if (bytesRead === 0) throw new Error(`the file ends at byte ${start + got}`);
        got += bytesRead;
      }
      return bytes;
    },
  };
}

/** Parquet, a few rows at a time; `line` counts rows from 1. Byte arrays stay bytes, annotated strings become strings. */
export async function* readParquet(file: FileHandle, byteLength: number): AsyncGenerator<RawRecord, void, undefined> {
  const buffer = bufferOf(file, byteLength);
  let row = 0;
  try {
    const metadata = await parquetMetadataAsync(buffer);
    for (const group of metadata.row_groups) {
      const rows = Number(group.num_rows);
      const bytes = group.columns.reduce((sum, c) => sum + Number(c.meta_data?.total_uncompressed_size ?? 0n), 0);
      // Columns of one page have none, and are read again with every slice.
      const hasIndex = group.columns.every(
        (c) => c.offset_index_offset !== undefined || Number(c.meta_data?.total_uncompressed_size ?? 0n) <= 2 * MIB,
      );
      if (!hasIndex && bytes > MAX_GROUP_BYTES) {
        const message = `rows ${row + 1} to ${row + rows} are one row group of ${bytes} bytes without an offset index, at most ${MAX_GROUP_BYTES} are read at once; write the file with smaller row groups`;
        yield { line: null, fault: { code: 'invalid_training_file', message } };
        row += rows;
        continue;
      }
      const slices = hasIndex ? Math.max(1, Math.ceil(bytes / SLICE_BYTES)) : 1;
      const step = Math.max(1, Math.ceil(rows / slices));
      for (let from = 0; from < rows; from += step) {
        const read: Record<string, unknown>[] = await parquetReadObjects({
          file: buffer,
          metadata,
          rowStart: row + from,
          rowEnd: row + Math.min(rows, from + step),
          compressors: boundedCodecs,
          utf8: false,
          useOffsetIndex: hasIndex,
        });
        for (const [i, value] of read.entries()) yield { line: row + from + i + 1, value: plain(value) };
      }
      row += rows;
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message.slice(0, 200) : String(error);
    const message = `expected a whole Parquet file, reading it failed after row ${row}: ${reason}`;
    yield { line: null, fault: { code: 'invalid_training_file', message } };
  }
}

/** Struct fields that a row does not have are nulls in Parquet and absent in JSON. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return Number(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, field]) =>
      field === null || field === undefined ? [] : [[key, plain(field)]],
    ),
  );
}
