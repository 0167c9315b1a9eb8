/**
 * multipart/form-data (RFC 7578) as it arrives: what has been read is handed on at once, so that a file of any size passes through a few hundred
 * kilobytes of memory.
 */
import { ApiError, describe, errorMessage } from '../../shared/contract/errors.ts';

/** A part begins; some of its bytes; the part is whole. */
export type MultipartEvent =
  | { type: 'part'; name: string; filename: string | null; mime: string | null }
  | { type: 'data'; bytes: Uint8Array }
  | { type: 'end' };

const CR = 0x0d;
const LF = 0x0a;
const DASH = 0x2d;
const MAX_HEADER_BYTES = 8_192;
const MAX_PREAMBLE_BYTES = 8_192;

/** @returns the boundary of a `content-type`. @throws ApiError 415 where the type is another one, 400 where the boundary is none */
export function boundaryOf(contentType: string): string {
  if (!/^multipart\/form-data\s*(;|$)/i.test(contentType)) {
    throw new ApiError(
      'unsupported_media_type',
      errorMessage('content-type', {
        expected: 'multipart/form-data with a boundary',
        received: describe(contentType),
      }),
    );
  }
  const [, quoted, plain] = /;\s*boundary=(?:"([^"]*)"|([^\s;]+))/i.exec(contentType) ?? [];
  const boundary = quoted ?? plain ?? '';
  // RFC 2046: 1 to 70 characters, no space at the end.
  if (!/^[\w'()+,\-./:=? ]{0,69}[\w'()+,\-./:=?]$/.test(boundary)) {
    throw malformed(`the boundary ${describe(boundary)} in content-type`);
  }
  return boundary;
}

export class MultipartParser {
  readonly #delimiter: Uint8Array;
  /** Boyer–Moore–Horspool: how far the window may move by the byte under its end. */
  readonly #skip: Uint8Array;
  /** What was read and not yet understood; begins as a line end, which the first delimiter may then lack. */
  #held: Uint8Array = new Uint8Array([CR, LF]);
  #at: 'preamble' | 'delimiter' | 'headers' | 'body' | 'done' = 'preamble';
  #preambleBytes = 0;
  /** Whether nothing of this body has been passed on yet. */
  #fresh = false;

  /** @param boundary without the two dashes before it */
  constructor(boundary: string) {
    this.#delimiter = new TextEncoder().encode(`\r\n--${boundary}`);
    const { length } = this.#delimiter;
    this.#skip = new Uint8Array(256).fill(length);
    for (let i = 0; i < length - 1; i++) this.#skip[this.#delimiter[i] ?? 0] = length - 1 - i;
  }

  /** Takes the next bytes. @returns what they complete; `data` may point into `chunk`. @throws ApiError 400 where this is no multipart body */
  push(chunk: Uint8Array): MultipartEvent[] {
    const events: MultipartEvent[] = [];
    let rest = this.#held.byteLength === 0 ? chunk : concat(this.#held, chunk);
    for (;;) {
      const left = this.#step(rest, events);
      if (left === null) break;
      rest = left;
    }
    return events;
  }

  /** The body is over. @throws ApiError 400 where it broke off */
  finish(): void {
    if (this.#at !== 'done') throw malformed('a body that ends before its last boundary');
  }

  /** One step. @returns what is left for the next one, or null where more bytes are needed, which are then held. */
  #step(bytes: Uint8Array, events: MultipartEvent[]): Uint8Array | null {
    switch (this.#at) {
      case 'preamble':
      case 'body':
        return this.#until(bytes, events);
      case 'delimiter': {
        // After the boundary: two dashes end it all, blanks and a line end begin a part.
        const end = bytes.indexOf(LF);
        if (bytes[0] === DASH && bytes[1] === DASH) return this.#go('done', bytes.subarray(2));
        if (end < 0) {
          if (bytes.byteLength > MAX_HEADER_BYTES) throw malformed('no line end after a boundary');
          return this.#hold(bytes);
        }
        if (!/^[ \t]*\r$/.test(latin1(bytes.subarray(0, end)))) throw malformed('text after a boundary');
        return this.#go('headers', bytes.subarray(end + 1));
      }
      case 'headers': {
        const end = bytes[0] === CR && bytes[1] === LF ? 0 : blankLine(bytes);
        if (end < 0) {
          if (bytes.byteLength > MAX_HEADER_BYTES)
            throw malformed(`a part with more than ${MAX_HEADER_BYTES} bytes of headers`);
          return this.#hold(bytes);
        }
        if (end > MAX_HEADER_BYTES) throw malformed(`a part with more than ${MAX_HEADER_BYTES} bytes of headers`);
        events.push(readHeaders(new TextDecoder().decode(bytes.subarray(0, end))));
        // The line end before a delimiter belongs to it, also where the part is empty: keep the one that ends the headers.
        return this.#go('body', bytes.subarray(end + 2));
      }
      case 'done':
        this.#held = new Uint8Array(0);
        return null;
    }
  }

  /** Passes on (or over) everything before the next delimiter. */
  #until(bytes: Uint8Array, events: MultipartEvent[]): Uint8Array | null {
    const found = this.#find(bytes);
    // The headers' own line end stands before a body's first byte and is not part of it.
    const from = this.#at === 'body' && this.#fresh ? 2 : 0;
    const upTo = found >= 0 ? found : bytes.byteLength - this.#delimiter.byteLength + 1;
    if (upTo > from || found >= 0) this.#pass(bytes.subarray(from, Math.max(from, upTo)), events);
    if (found < 0) return this.#hold(upTo > from ? bytes.subarray(upTo) : bytes);
    if (this.#at === 'body') events.push({ type: 'end' });
    return this.#go('delimiter', bytes.subarray(found + this.#delimiter.byteLength));
  }

  #pass(bytes: Uint8Array, events: MultipartEvent[]): void {
    if (this.#at === 'body') {
      this.#fresh = false;
      if (bytes.byteLength > 0) events.push({ type: 'data', bytes });
      return;
    }
    this.#preambleBytes += bytes.byteLength;
    if (this.#preambleBytes > MAX_PREAMBLE_BYTES) throw malformed('a body that does not begin with its boundary');
  }

  #go(to: 'delimiter' | 'headers' | 'body' | 'done', rest: Uint8Array): Uint8Array {
    this.#at = to;
    this.#fresh = to === 'body';
    this.#held = new Uint8Array(0);
    return rest;
  }

  #hold(bytes: Uint8Array): null {
    // A copy, so that a few bytes do not keep a whole chunk alive.
    this.#held = bytes.slice();
    return null;
  }

  #find(bytes: Uint8Array): number {
    const delimiter = this.#delimiter;
    const last = delimiter.byteLength - 1;
    const lastByte = delimiter[last];
    for (let end = last; end < bytes.byteLength; ) {
      const byte = bytes[end] ?? 0;
      if (byte === lastByte) {
        let i = 0;
        while (i < last && bytes[end - last + i] === delimiter[i]) i++;
        if (i === last) return end - last;
      }
      end += this.#skip[byte] ?? 1;
    }
    return -1;
  }
}

/** Index of the line end before the blank line that ends headers. */
function blankLine(bytes: Uint8Array): number {
  for (let at = bytes.indexOf(CR); at >= 0 && at + 3 < bytes.byteLength; at = bytes.indexOf(CR, at + 1)) {
    if (bytes[at + 1] === LF && bytes[at + 2] === CR && bytes[at + 3] === LF) return at;
  }
  return -1;
}

function readHeaders(text: string): MultipartEvent {
  const headers = new Map<string, string>();
  for (const line of text.split('\r\n')) {
    const colon = line.indexOf(':');
    if (colon > 0) headers.set(line.slice(0, colon).trim().toLowerCase(), line.slice(colon + 1).trim());
  }
  const disposition = headers.get('content-disposition') ?? '';
  const name = parameter(disposition, 'name');
  if (!/^form-data\s*(;|$)/i.test(disposition) || name === null) {
    throw malformed('a part without content-disposition: form-data; name="…"');
  }
  return {
    type: 'part',
    name,
    filename: encodedParameter(disposition, 'filename') ?? parameter(disposition, 'filename'),
    mime: headers.get('content-type') ?? null,
  };
}

/** A quoted or plain parameter. Browsers write quotes and line ends as %22, %0D, %0A; others put a backslash before quotes. */
function parameter(header: string, name: string): string | null {
  const [, quoted, plain] = new RegExp(`;\\s*${name}=(?:"((?:[^"\\\\]|\\\\.)*)"|([^\\s;"]+))`, 'i').exec(header) ?? [];
  if (quoted === undefined) return plain ?? null;
  return quoted
    .replace(/\\(["\\])/g, '$1')
    .replace(/%(22|0D|0A)/gi, (_, code: string) => String.fromCharCode(Number.parseInt(code, 16)));
}

/** `filename*=UTF-8''…` of RFC 5987, which RFC 7578 forbids and clients send. */
function encodedParameter(header: string, name: string): string | null {
  const value = new RegExp(`;\\s*${name}\\*=utf-8'[^']*'([^\\s;]+)`, 'i').exec(header)?.[1];
  if (value === undefined) return null;
  try {
    return decodeURIComponent(value);
  } catch {
    return null;
  }
}

function latin1(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes.subarray(0, 256));
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.byteLength + b.byteLength);
  both.set(a);
  both.set(b, a.byteLength);
  return both;
}

function malformed(received: string): ApiError {
  return new ApiError(
    'invalid_request',
    errorMessage('body', { expected: 'well-formed multipart/form-data', received }),
  );
}
