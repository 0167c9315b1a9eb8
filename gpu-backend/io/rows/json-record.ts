import { isUtf8 } from 'node:buffer';
import { LIMITS } from '../../../shared/contract/limits.ts';

/** Why a record cannot be read at all. */
export interface Fault {
  readonly code: string;
  readonly message: string;
}

/** A record as it stands in the file, or why it cannot be read; `line` is null where the file as a whole is at fault. */
export interface RawRecord {
  readonly line: number | null;
  readonly value?: unknown;
  readonly fault?: Fault;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** JSON text to its value; deep and bloated structures are refused before anything is built of them. */
export function parseRecord(line: number, bytes: Buffer): RawRecord {
  if (!isUtf8(bytes))
    return { line, fault: { code: 'invalid_json', message: 'expected UTF-8 text, received bytes that are not UTF-8' } };
  const shape = shapeFault(bytes);
  if (shape !== null) return { line, fault: { code: 'invalid_json', message: shape } };
  try {
    return { line, value: JSON.parse(bytes.toString('utf8')) as unknown };
  } catch (error) {
    // The engine's message ends with what stands there, which may be long.
    const reason = error instanceof Error ? error.message.slice(0, 160) : 'not parseable';
    return {
      line,
      fault: { code: 'invalid_json', message: `expected one JSON object, received text that is not JSON (${reason})` },
    };
  }
}

export function tooLong(line: number): RawRecord {
  const message = `expected records of at most ${LIMITS.dataset.maxLineBytes} bytes, received a longer one; put its pictures into files of their own`;
  return { line, fault: { code: 'invalid_training_file', message } };
}

/** Walks bytes that may not be JSON; nothing within the limits is counted short. @returns null where they are kept */
export function shapeFault(bytes: Buffer): string | null {
  const { maxJsonDepth, maxJsonValues } = LIMITS.request;
  let depth = 0;
  let values = 0;
  const length = bytes.length;
  for (let i = 0; i < length; i++) {
    const byte = bytes[i];
    if (byte === QUOTE) {
      i = endOfString(bytes, i + 1, length);
      if (i < 0) return null;
    } else if (byte === 0x7b || byte === 0x5b) {
      if (++depth > maxJsonDepth)
        return `expected objects and lists at most ${maxJsonDepth} deep, received deeper ones`;
      values++;
    } else if (byte === 0x7d || byte === 0x5d) depth--;
    else if (byte === 0x2c || byte === 0x3a) values++;
    if (values > maxJsonValues) return `expected at most ${maxJsonValues} fields and elements, received more`;
  }
  return null;
}

/** Position of the quote that ends a string which has begun before `from`, or −1. Long strings are jumped over. */
export function endOfString(bytes: Buffer, from: number, end: number): number {
  let quote = bytes.indexOf(QUOTE, from);
  let at = from;
  let backslash = bytes.indexOf(BACKSLASH, at);
  while (quote >= 0 && quote < end) {
    if (backslash < 0 || backslash > quote) return quote;
    at = backslash + 2;
    if (quote < at) quote = bytes.indexOf(QUOTE, at);
    backslash = bytes[at] === BACKSLASH ? at : bytes.indexOf(BACKSLASH, at);
  }
  return -1;
}
