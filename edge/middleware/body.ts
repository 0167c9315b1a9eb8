import type { Context } from 'hono';
import { ApiError, describe, errorMessage, fieldPath, violation, violationsOf } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { randomText } from '../../shared/wire/ids.ts';
import type { AppEnv } from '../env.ts';
import { hoist, restore } from './hoist.ts';

/** The shape of a schema that is read here; both zod flavours have it. */
export type Schema<T> = {
  safeParse(value: unknown): { success: true; data: T } | { success: false; error: { issues: readonly unknown[] } };
};

/**
 * A client that is still sending when the answer comes sees a broken connection instead of it, so a body that is not far too large is read to its end,
 * without being kept.
 */
const DRAIN_FACTOR = 4;

/**
 * The whole body, refused with 413 above `maxBytes`: by `content-length` and by counting, since the header may lie or be missing.
 * @throws ApiError also for a body that breaks off
 */
export async function readBody(request: Request, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return await readWhole(request, maxBytes);
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw new ApiError(
      'invalid_request',
      errorMessage('body', { expected: 'as many bytes as content-length says', received: 'a body that broke off' }),
    );
  }
}

async function readWhole(request: Request, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const tooLarge = (received: string) =>
    new ApiError(
      'request_too_large',
      errorMessage('body', {
        expected: `at most ${maxBytes} bytes`,
        received,
        remedy: 'Upload large pictures by POST /v1/files and send their ids.',
      }),
    );
  const told = Number(request.headers.get('content-length') ?? Number.NaN);
  const maxDrainedBytes = DRAIN_FACTOR * maxBytes;
  if (told > maxDrainedBytes) throw tooLarge(`${told}`);
  if (request.body === null) return new Uint8Array(0);
  // The framing holds a body to its content-length, so the runtime may read it in one go.
  if (told <= maxBytes) return new Uint8Array(await request.arrayBuffer());
  const chunks: Uint8Array[] = [];
  let total = 0;
  for await (const chunk of largeChunks(request.body)) {
    total += chunk.byteLength;
    if (total <= maxBytes) chunks.push(chunk);
    else chunks.length = 0;
    if (total > maxDrainedBytes) throw tooLarge(`more than ${maxDrainedBytes}`);
  }
  if (total > maxBytes) throw tooLarge(`${total}`);
  const body = new Uint8Array(total);
  let at = 0;
  for (const chunk of chunks) {
    body.set(chunk, at);
    at += chunk.byteLength;
  }
  return body;
}

const CHUNK_BYTES = 256 * 1024;

/** The runtime's own chunks are 4 KiB, which makes reading slow; these are as large as asked for. */
export async function* largeChunks(body: ReadableStream): AsyncGenerator<Uint8Array, void, undefined> {
  const reader = body.getReader({ mode: 'byob' });
  let ended = false;
  try {
    while (!ended) {
      const { done, value } = await reader.readAtLeast(CHUNK_BYTES, new Uint8Array(CHUNK_BYTES));
      ended = done;
      if (value !== undefined && value.byteLength > 0) yield value;
    }
  } finally {
    if (!ended) await reader.cancel().catch(() => {});
  }
}

export type JsonOptions = {
  maxBytes?: number;
  /** Fields that exist elsewhere but not here: refused in those words instead of as unknown. */
  unsupported?: ReadonlySet<string>;
};

/** A JSON body that fits the schema, or a 400 with every violation. */
export async function readJson<T>(c: Context<AppEnv>, schema: Schema<T>, options: JsonOptions = {}): Promise<T> {
  return fitting(await readJsonValue(c, options), schema, options);
}

/**
 * A JSON body as it stands. Of a name that an object has twice the last value holds; a byte order mark is skipped; halves of surrogate pairs become
 * U+FFFD where text is encoded.
 * @throws ApiError for another type, character set or coding, for what is not JSON, and for JSON that is nested too deeply
 */
export async function readJsonValue(
  c: Context<AppEnv>,
  { maxBytes }: Pick<JsonOptions, 'maxBytes'> = {},
): Promise<unknown> {
  checkCoding(c.req.raw.headers);
  return parseValue(await readBody(c.req.raw, maxBytes ?? LIMITS.request.maxJsonBytes));
}

function checkCoding(headers: Headers): void {
  const [type = '', ...parameters] = (headers.get('content-type') ?? '')
    .split(';')
    .map((part) => part.trim().toLowerCase());
  const refuse = (subject: string, expected: string, received: string) =>
    new ApiError('unsupported_media_type', errorMessage(subject, { expected, received }), { param: subject });
  if (type !== 'application/json') throw refuse('content-type', 'application/json', describe(type));
  const charset = parameters
    .find((parameter) => parameter.startsWith('charset='))
    ?.slice(8)
    .replaceAll('"', '');
  if (charset !== undefined && charset !== 'utf-8' && charset !== 'utf8')
    throw refuse('content-type', 'charset=utf-8, or none', describe(charset));
  const coding = (headers.get('content-encoding') ?? 'identity').trim().toLowerCase();
  if (coding !== 'identity' && coding !== '') throw refuse('content-encoding', 'a body as it is', describe(coding));
}

export function parseJson<T>(bytes: Uint8Array, schema: Schema<T>, options: JsonOptions = {}): T {
  return fitting(parseValue(bytes), schema, options);
}

function fitting<T>(value: unknown, schema: Schema<T>, { unsupported = new Set() }: JsonOptions): T {
  const parsed = parsedBy(schema, value);
  if (parsed.success) return parsed.data;
  throw ApiError.from(
    violationsOf(parsed.error.issues, value).map((problem) =>
      problem.code === 'unknown_parameter' && unsupported.has(problem.param ?? '')
        ? violation('unsupported_parameter', problem.param, {
            expected: 'no such field',
            remedy: 'It is not supported yet; leave it out.',
          })
        : problem,
    ),
  );
}

/** Where a list has a hundred thousand wrong elements, the schema library itself gives up. */
function parsedBy<T>(schema: Schema<T>, value: unknown): ReturnType<Schema<T>['safeParse']> {
  try {
    return schema.safeParse(value);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new ApiError(
      'invalid_request',
      errorMessage('body', { expected: 'the fields that /openapi.json lists', received: 'far too many others' }),
    );
  }
}

// An isolate may not draw random numbers before its first request.
let mark: string | null = null;

/** Large bodies are pictures nearly all of which is base64: see `hoist`. */
function parseValue(bytes: Uint8Array): unknown {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes);
  } catch {
    throw notJson(unreadable(bytes, ' UTF-8'));
  }
  mark ??= `${randomText(24)}:`;
  const hoisted = hoist(text, mark);
  if (hoisted === null) return parseText(text, bytes);
  try {
    return restore(parseText(hoisted.skeleton, new TextEncoder().encode(hoisted.skeleton)), hoisted.strings);
  } catch (error) {
    // Places and sizes are to be those of what was sent. Too much of anything is the same with and without the strings.
    if (error instanceof ApiError && error.code !== 'invalid_json') throw error;
    return parseText(text, bytes);
  }
}

/** What came instead of JSON. @param fault where reading stopped, or nothing */
function unreadable(bytes: Uint8Array, fault: string): string {
  return bytes.byteLength === 0 ? 'an empty body' : `${bytes.byteLength} bytes that are not${fault}`;
}

function notJson(received: string, expected = 'valid JSON in UTF-8'): ApiError {
  return new ApiError('invalid_json', errorMessage('body', { expected, received }));
}

/** @param bytes the same text */
function parseText(text: string, bytes: Uint8Array): unknown {
  const { maxJsonDepth, maxJsonValues } = LIMITS.request;
  const excess = jsonExcess(bytes, maxJsonDepth, maxJsonValues);
  if (excess === 'depth') throw notJson('deeper nesting', `JSON of at most ${maxJsonDepth} levels`);
  if (excess === 'values') throw notJson('more', `JSON of at most ${maxJsonValues} fields and elements`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw notJson(unreadable(bytes, error instanceof SyntaxError ? placeOf(error) : ''));
  }
  // Written as it is, or with an escape for one of its letters.
  if (!text.includes('__proto__') && !text.includes('\\u00')) return value;
  const path = reservedName(value);
  if (path === null) return value;
  throw ApiError.from([
    violation('unknown_parameter', fieldPath(path), { expected: 'no field of this name', remedy: 'Remove it.' }),
  ]);
}

/** Where the parser stopped; its own words may hold pieces of the body. */
function placeOf({ message }: SyntaxError): string {
  const at = /at position (\d+)/.exec(message)?.[1];
  if (at !== undefined) return ` (at character ${at})`;
  return /end of JSON/.test(message) ? ' (they end too early)' : '';
}

const [QUOTE, BACKSLASH, COMMA, COLON] = [0x22, 0x5c, 0x2c, 0x3a] as const;
const [ARRAY, OBJECT, ARRAY_END, OBJECT_END] = [0x5b, 0x7b, 0x5d, 0x7d] as const;

/**
 * Whether JSON is nested too deeply, or has too many fields and elements. Parsing it to find out would cost seconds and hundreds of megabytes: 20 MiB of
 * brackets take 700 MB, an object with a million fields a second each time its names are listed. Most bodies have fewer brackets, commas and colons than
 * that, strings included, which is seen at the speed of `indexOf`.
 */
function jsonExcess(bytes: Uint8Array, maxDepth: number, maxValues: number): 'depth' | 'values' | null {
  const isShallow = !hasMore(bytes, [ARRAY, OBJECT], maxDepth);
  if (isShallow && !hasMore(bytes, [COMMA, COLON], maxValues)) return null;
  let depth = 0;
  let values = 0;
  for (let i = 0; i < bytes.length; i++) {
    switch (bytes[i]) {
      case QUOTE:
        i = stringEnd(bytes, i);
        if (i < 0) return null;
        break;
      case ARRAY:
      case OBJECT:
        if (++depth > maxDepth) return 'depth';
        break;
      case ARRAY_END:
      case OBJECT_END:
        depth--;
        break;
      case COMMA:
      case COLON:
        if (++values > maxValues) return 'values';
    }
  }
  return null;
}

function hasMore(bytes: Uint8Array, wanted: readonly number[], max: number): boolean {
  let count = 0;
  for (const byte of wanted)
    for (let at = bytes.indexOf(byte); at >= 0; at = bytes.indexOf(byte, at + 1)) if (++count > max) return true;
  return false;
}

/** Where the string that begins at `from` ends, at a quote with an even number of backslashes before it; -1 if it does not. */
function stringEnd(bytes: Uint8Array, from: number): number {
  for (let at = bytes.indexOf(QUOTE, from + 1); at >= 0; at = bytes.indexOf(QUOTE, at + 1)) {
    let escapes = 0;
    while (bytes[at - 1 - escapes] === BACKSLASH) escapes++;
    if (escapes % 2 === 0) return at;
  }
  return -1;
}

/**
 * Path of a field named `__proto__`, which is a field like any other in JSON and something else wherever objects are copied by assignment.
 * Depth is bounded by now.
 */
function reservedName(value: unknown): PropertyKey[] | null {
  if (typeof value !== 'object' || value === null) return null;
  if (Object.hasOwn(value, '__proto__')) return ['__proto__'];
  const isArray = Array.isArray(value);
  for (const key of isArray ? value.keys() : Object.keys(value)) {
    const child = (value as Record<PropertyKey, unknown>)[key];
    const path = typeof child === 'object' ? reservedName(child) : null;
    if (path !== null) return [key, ...path];
  }
  return null;
}
