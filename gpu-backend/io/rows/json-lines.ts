import { LIMITS } from '../../../shared/contract/limits.ts';
import type { ByteWindow } from './byte-window.ts';
import { parseRecord, type RawRecord, tooLong } from './json-record.ts';

const LF = 0x0a;

/**
 * JSON Lines, one record a line. Empty lines (and lines of spaces) are passed over but counted, so that `line` is what an editor shows; a line above the
 * limit is passed over without being held.
 */
export async function* readJsonLines(window: ByteWindow): AsyncGenerator<RawRecord, void, undefined> {
  const max = LIMITS.dataset.maxLineBytes;
  let line = 1;
  let scanned = 0;
  let isTooLong = false;
  for (;;) {
    const { buffer, start, end } = window;
    const from = start + scanned;
    // A look at one byte first: files of empty lines are made of nothing else.
    const found = from < end && buffer[from] === LF ? 0 : buffer.subarray(from, end).indexOf(LF);
    const newline = found < 0 ? -1 : from + found;
    if (newline < 0) {
      if (window.length > max) {
        isTooLong = true;
        window.drop(window.length);
      }
      scanned = window.length;
      if (await window.fill()) continue;
      if (isTooLong) yield tooLong(line);
      else if (!isBlank(window.buffer, window.start, window.end))
        yield parseRecord(line, window.buffer.subarray(window.start, window.end));
      window.drop(window.length);
      return;
    }
    scanned = 0;
    if (isTooLong || newline - start > max) yield tooLong(line);
    else if (newline > start && !isBlank(buffer, start, newline))
      yield parseRecord(line, buffer.subarray(start, newline));
    isTooLong = false;
    window.drop(newline + 1 - start);
    line++;
  }
}

function isBlank(bytes: Buffer, from: number, to: number): boolean {
  for (let i = from; i < to; i++) {
    const byte = bytes[i];
    if (byte !== 0x20 && byte !== 0x09 && byte !== 0x0d) return false;
  }
  return true;
}
