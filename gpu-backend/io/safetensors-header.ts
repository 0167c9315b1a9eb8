import { parseStrictJson, StrictJsonError } from './strict-json.ts';
import { DTYPE_BYTES, type StoredDtype } from './tensor.ts';

/** Bounds on what a file may ask of its reader, checked before anything of that size is allocated. */
export interface SafetensorsLimits {
  /** Largest JSON header (and shard index), in bytes. */
  readonly maxHeaderBytes: number;
  readonly maxTensors: number;
  /** Largest number of dimensions of one tensor. */
  readonly maxRank: number;
  /** Shards of one index, and the bytes of all their headers together. `maxTensors` holds for all of them together too. */
  readonly maxShards: number;
  readonly maxTotalHeaderBytes: number;
}

/** 8 MiB and 65,536 tensors: the largest published model of the family has 770 tensors and an 80 kB header. */
export const SAFETENSORS_LIMITS: SafetensorsLimits = {
  maxHeaderBytes: 8 << 20,
  maxTensors: 65_536,
  maxRank: 8,
  maxShards: 1000,
  maxTotalHeaderBytes: 32 << 20,
};

export type SafetensorsErrorCode =
  | 'not_found'
  | 'not_a_file'
  | 'wrong_format'
  | 'truncated'
  | 'header_too_large'
  | 'too_many_tensors'
  | 'too_many_shards'
  | 'tensor_too_large'
  | 'outside_folder'
  | 'bad_header'
  | 'bad_tensor'
  | 'bad_offsets'
  | 'bad_index'
  | 'index_mismatch';

/** A file that is not a well-formed safetensors checkpoint, or not one within the limits. */
export class SafetensorsError extends Error {
  override readonly name = 'SafetensorsError';
  constructor(
    readonly code: SafetensorsErrorCode,
    message: string,
  ) {
    super(message);
  }
}

export interface HeaderEntry {
  readonly name: string;
  readonly dtype: StoredDtype;
  readonly shape: readonly number[];
  /** Byte range within the data section, end exclusive. */
  readonly start: number;
  readonly end: number;
}

export interface SafetensorsHeader {
  readonly entries: readonly HeaderEntry[];
  readonly metadata: Readonly<Record<string, string>>;
  /** Where the data section starts in the file. */
  readonly dataOffset: number;
}

/** Element type names of the format, and ours. */
export const DTYPE_OF_NAME: ReadonlyMap<string, StoredDtype> = new Map([
  ...(Object.keys(DTYPE_BYTES) as StoredDtype[]).map((dtype) => [dtype.toUpperCase(), dtype] as const),
]);

/** First bytes of formats people try to load instead; the pickle-based ones can run code, so they are never opened. */
const FOREIGN_MAGIC: readonly (readonly [string, string])[] = [
  ['PK\u0003\u0004', 'a zip archive (PyTorch .bin/.pt, pickle inside)'],
  ['PK\u0005\u0006', 'a zip archive'],
  ['(dp', 'a pickle'],
  ['(lp', 'a pickle'],
  ['ccopy_reg', 'a pickle'],
  ['c__builtin__', 'a pickle'],
  ['\u0080\u0001', 'a pickle'],
  ['\u0080\u0002', 'a pickle'],
  ['\u0080\u0003', 'a pickle'],
  ['\u0080\u0004', 'a pickle'],
  ['\u0080\u0005', 'a pickle'],
  ['\u001f\u008b', 'a gzip archive'],
  ['BZh', 'a bzip2 archive'],
  ['\u00fd7zXZ', 'an xz archive'],
  ['7z\u00bc\u00af', 'a 7z archive'],
  ['GGUF', 'a GGUF file'],
  ['\u0089HDF', 'an HDF5 file'],
  ['\u0093NUMPY', 'a NumPy array'],
  ['<!DOCTYPE', 'a web page (of a login or an error?)'],
  ['<!doctype', 'a web page (of a login or an error?)'],
  ['<html', 'a web page (of a login or an error?)'],
  ['version https://git-lfs', 'a git-lfs pointer, not the file itself: fetch the file with git lfs pull'],
];

/**
 * What a file is whose first bytes are not those of safetensors (or of JSON), undefined where nothing known is seen.
 * @param head the first 32 bytes, or all of a shorter file
 */
export function foreignFormat(head: Uint8Array): string | undefined {
  const magic = String.fromCharCode(...head.subarray(0, 32));
  // A header length can look like magic; then the brace of the header follows it.
  if (magic[8] === '{') return undefined;
  return FOREIGN_MAGIC.find(([start]) => magic.startsWith(start))?.[1];
}

/**
 * Reads and checks the header: an 8-byte little-endian length, then JSON that gives each tensor's type, shape and byte
 * range. Accepted only when the ranges, put in order, tile the rest of the file exactly, without hole or overlap.
 *
 * @param readAt reads exactly `length` bytes from `offset` of the file
 * @throws SafetensorsError
 */
export function parseSafetensorsHeader(
  readAt: (offset: number, length: number) => Uint8Array,
  fileBytes: number,
  limits: SafetensorsLimits,
  path: string,
): SafetensorsHeader {
  const fail = (code: SafetensorsErrorCode, message: string): never => {
    throw new SafetensorsError(code, `${path}: ${message}`);
  };
  const foreign = foreignFormat(readAt(0, Math.min(fileBytes, 32)));
  if (foreign !== undefined) fail('wrong_format', `expected a safetensors file, found ${foreign}`);
  if (fileBytes < 10) fail('truncated', `expected at least 10 bytes, the file has ${fileBytes}`);
  const headerBytes = new DataView(readAt(0, 8).buffer).getBigUint64(0, true);
  if (headerBytes > BigInt(limits.maxHeaderBytes)) {
    fail('header_too_large', `the header claims ${headerBytes} bytes, the limit is ${limits.maxHeaderBytes}`);
  }
  const dataOffset = 8 + Number(headerBytes);
  if (dataOffset > fileBytes) fail('truncated', `the header claims ${headerBytes} bytes, the file has ${fileBytes}`);
  const bytes = readAt(8, Number(headerBytes));
  if (bytes[0] !== 0x7b) fail('bad_header', 'the header must start with "{"');
  let json: unknown;
  try {
    // The header, a tensor, its shape or offsets; two lists and an object a tensor, some to spare for a clear message.
    json = parseStrictJson(bytes, { maxDepth: 3, maxContainers: 4 * limits.maxTensors + 2 });
  } catch (error) {
    if (error instanceof StrictJsonError) fail('bad_header', error.message);
    throw error;
  }
  const { __metadata__: metadata, ...rest } = json as Record<string, unknown>;
  const names = Object.keys(rest);
  if (names.length > limits.maxTensors)
    fail('too_many_tensors', `${names.length} tensors, the limit is ${limits.maxTensors}`);
  const entries = names.map((name) => parseEntry(name, rest[name], limits, fail));
  checkTiling(entries, fileBytes - dataOffset, fail);
  return { entries, metadata: parseMetadata(metadata, fail), dataOffset };
}

type Fail = (code: SafetensorsErrorCode, message: string) => never;

function parseMetadata(value: unknown, fail: Fail): Record<string, string> {
  if (value === undefined) return {};
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return fail('bad_header', '__metadata__ must be an object');
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string')
      fail('bad_header', `__metadata__[${JSON.stringify(key.slice(0, 80))}] must be a string`);
  }
  return value as Record<string, string>;
}

function parseEntry(name: string, value: unknown, limits: SafetensorsLimits, fail: Fail): HeaderEntry {
  const label = `tensor ${JSON.stringify(name.slice(0, 120))}`;
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return fail('bad_tensor', `${label} must be an object`);
  const { dtype: dtypeName, shape, data_offsets: offsets, ...unknown } = value as Record<string, unknown>;
  const extra = Object.keys(unknown)[0];
  if (extra !== undefined) fail('bad_tensor', `${label} has the unknown field ${JSON.stringify(extra.slice(0, 80))}`);
  const dtype = typeof dtypeName === 'string' ? DTYPE_OF_NAME.get(dtypeName) : undefined;
  if (!dtype)
    return fail(
      'bad_tensor',
      `${label} has dtype ${JSON.stringify(dtypeName)?.slice(0, 40)}, expected one of ${[...DTYPE_OF_NAME.keys()].join(', ')}`,
    );
  if (!isNaturals(shape) || shape.length > limits.maxRank) {
    return fail('bad_tensor', `${label} needs a shape of at most ${limits.maxRank} non-negative integers`);
  }
  if (!isNaturals(offsets) || offsets.length !== 2)
    return fail('bad_offsets', `${label} needs data_offsets [start, end]`);
  const [start, end] = offsets as [number, number];
  // Multiplied as bigints: a shape made to overflow must not come out small.
  const expected = shape.reduce((product, dim) => product * BigInt(dim), BigInt(DTYPE_BYTES[dtype]));
  if (end < start || BigInt(end - start) !== expected) {
    fail(
      'bad_offsets',
      `${label}: ${dtypeName} [${shape.join(', ')}] takes ${expected} bytes, its offsets are [${start}, ${end}]`,
    );
  }
  return { name, dtype, shape, start, end };
}

function isNaturals(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}

function checkTiling(entries: readonly HeaderEntry[], dataBytes: number, fail: Fail): void {
  const inOrder = [...entries].sort((a, b) => a.start - b.start || a.end - b.end);
  let reached = 0;
  for (const { name, start, end } of inOrder) {
    if (start !== reached) {
      const what = start < reached ? 'overlaps the tensor before it' : 'leaves a hole before it';
      fail(
        'bad_offsets',
        `tensor ${JSON.stringify(name.slice(0, 120))} starts at ${start}, expected ${reached}: it ${what}`,
      );
    }
    reached = end;
  }
  if (reached > dataBytes)
    fail('truncated', `the header describes ${reached} bytes of data, the file has ${dataBytes}`);
  if (reached < dataBytes)
    fail('bad_offsets', `the header describes ${reached} bytes of data, the file has ${dataBytes}`);
}
