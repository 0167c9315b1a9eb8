import { LIMITS } from '../../../shared/contract/limits.ts';
import type { ByteWindow } from './byte-window.ts';
import { parseRecord, type RawRecord, tooLong } from './json-record.ts';

const [QUOTE, BACKSLASH, COMMA, OPEN, CLOSE] = [0x22, 0x5c, 0x2c, 0x5b, 0x5d] as const;

/**
 * One JSON array, an element at a time; `line` counts elements from 1. The array may be longer than memory; an element above the limit is passed over
 * without being held. Strings, escapes and nesting are followed byte by byte across reads.
 */
export async function* readJsonArray(window: ByteWindow): AsyncGenerator<RawRecord, void, undefined> {
  if ((await nextByte(window)) !== OPEN) throw new Error('readJsonArray: expected a window that begins with "["');
  window.drop(1);
  let element = 1;
  if ((await nextByte(window)) === CLOSE) window.drop(1);
  else
    for (;;) {
      if ((await nextByte(window)) === null) return yield endFault(element);
      const size = await elementEnd(window);
      if (size === null) return yield endFault(element);
      if (size === 'too long') yield tooLong(element);
      else if (size === 0) {
        const message = `record ${element}: expected an element of the array, received ${shown(window)}; the rest of the file is not read`;
        return yield { line: null, fault: { code: 'invalid_json', message } };
      } else {
        yield parseRecord(element, window.buffer.subarray(window.start, window.start + size));
        window.drop(size);
      }
      const separator = await nextByte(window);
      if (separator === null) return yield endFault(element);
      if (separator !== COMMA && separator !== CLOSE) {
        const message = `record ${element}: expected "," or "]" after it, received ${shown(window)}; the rest of the file is not read`;
        return yield { line: null, fault: { code: 'invalid_json', message } };
      }
      window.drop(1);
      if (separator === CLOSE) break;
      element++;
    }
  if ((await nextByte(window)) !== null) {
    const message = `expected nothing after the array's "]", received ${shown(window)}; a file of one record a line is named .jsonl`;
    yield { line: null, fault: { code: 'invalid_json', message } };
  }
}

function endFault(element: number): RawRecord {
  const message = `the file ends within record ${element} of its array; it seems to have been cut off`;
  return { line: null, fault: { code: 'invalid_json', message } };
}

function shown(window: ByteWindow): string {
  return JSON.stringify(window.buffer.toString('latin1', window.start, Math.min(window.start + 24, window.end)));
}

/** The next byte that is no white space, not taken; null at the end of the file. */
async function nextByte(window: ByteWindow): Promise<number | null> {
  for (;;) {
    let at = window.start;
    while (at < window.end && isSpace(window.buffer[at])) at++;
    window.drop(at - window.start);
    if (window.length > 0) return window.buffer[window.start] ?? null;
    if (!(await window.fill())) return null;
  }
}

const isSpace = (byte: number | undefined): boolean => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;

/** Bytes of the element at the window's start. `too long`: it has been dropped. Null: the file ends within it. */
async function elementEnd(window: ByteWindow): Promise<number | 'too long' | null> {
  const max = LIMITS.dataset.maxLineBytes;
  let depth = 0;
  let inString = false;
  let escaped = false;
  let isTooLong = false;
  /** Bytes from the window's start that have been looked at. */
  let seen = 0;
  for (;;) {
    const { buffer, start, end } = window;
    let at = start + seen;
    while (at < end) {
      if (inString) {
        if (escaped) {
          escaped = false;
          at++;
          continue;
        }
        at = endOfRun(buffer, at, end);
        if (at >= end) break;
        if (buffer[at] === BACKSLASH) escaped = true;
        else inString = false;
        at++;
        if (!inString && depth === 0) return finished(at);
        continue;
      }
      const byte = buffer[at];
      if (byte === QUOTE) inString = true;
      else if (byte === 0x7b || byte === OPEN) depth++;
      else if (byte === 0x7d || byte === CLOSE) {
        if (depth === 0) return finished(at);
        if (--depth === 0) return finished(at + 1);
      } else if (depth === 0 && (byte === COMMA || isSpace(byte))) return finished(at);
      at++;
    }
    seen = window.length;
    if (seen > max) {
      isTooLong = true;
      window.drop(seen);
      seen = 0;
    }
    if (!(await window.fill())) return null;
  }

  function finished(at: number): number | 'too long' {
    const size = at - window.start;
    if (!isTooLong && size <= max) return size;
    window.drop(size);
    return 'too long';
  }
}

/** Position of the next quote or backslash, `end` where there is none. */
function endOfRun(buffer: Buffer, from: number, end: number): number {
  // Most strings are short: a look byte by byte first, then in strides.
  const near = Math.min(from + 64, end);
  for (let i = from; i < near; i++) if (buffer[i] === QUOTE || buffer[i] === BACKSLASH) return i;
  if (near === end) return end;
  const view = buffer.subarray(near, end);
  const quote = view.indexOf(QUOTE);
  const part = quote < 0 ? view : view.subarray(0, quote);
  const backslash = part.indexOf(BACKSLASH);
  if (backslash >= 0) return near + backslash;
  return quote < 0 ? end : near + quote;
}
