import { closeSync, constants, fstatSync, openSync, readdirSync, readSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join, sep } from 'node:path';
import {
  parseSafetensorsHeader,
  SAFETENSORS_LIMITS,
  SafetensorsError,
  type SafetensorsHeader,
  type SafetensorsLimits,
} from './safetensors-header.ts';
import { parseStrictJson, StrictJsonError } from './strict-json.ts';
import type { RawTensor, StoredDtype } from './tensor.ts';

/** One tensor of an open checkpoint; its bytes stay on disk until `read`. */
export interface StoredTensor {
  readonly name: string;
  readonly dtype: StoredDtype;
  readonly shape: readonly number[];
  readonly byteLength: number;
  /** File that holds it, and where its first byte is. */
  readonly path: string;
  readonly offsetBytes: number;
  /** Reads all bytes into fresh, aligned memory. */
  read(): RawTensor;
  /** Reads `target.byteLength` bytes from `fromByte` of the tensor on: for converters that go through a tensor piece by piece. */
  readInto(target: Uint8Array, fromByte: number): void;
}

/** An open safetensors file, or the shards of an indexed folder seen as one. */
export interface SafetensorsStore {
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly metadata: Readonly<Record<string, string>>;
  /** Tensors that lie in a shard but that the index does not name; empty for single files. */
  readonly unindexed: readonly string[];
  close(): void;
}

const INDEX_NAME = 'model.safetensors.index.json';
const SINGLE_NAMES = ['model.safetensors', 'adapter_model.safetensors'] as const;

/**
 * Opens a `.safetensors` file, a `.safetensors.index.json`, or a folder that holds either under the names Hugging Face
 * writes (`model.safetensors`, `model.safetensors.index.json`, `adapter_model.safetensors`). Only headers are read.
 *
 * @throws SafetensorsError for anything that is not a well-formed safetensors checkpoint within the limits
 */
export function openSafetensors(path: string, limits: SafetensorsLimits = SAFETENSORS_LIMITS): SafetensorsStore {
  if (!isDirectory(path)) return path.endsWith('.json') ? openIndexed(path, limits) : openFile(path, limits);
  const [single, adapter] = SINGLE_NAMES;
  if (exists(path, single)) return openFile(within(path, single), limits);
  if (exists(path, INDEX_NAME)) return openIndexed(within(path, INDEX_NAME), limits);
  if (exists(path, adapter)) return openFile(within(path, adapter), limits);
  const pickle = readdirSync(path).find((name) => /\.(bin|pt|pth|ckpt|pkl)$/.test(name));
  throw new SafetensorsError(
    'not_found',
    `expected ${SINGLE_NAMES.join(', ')} or ${INDEX_NAME} in ${path}, found none of them` +
      (pickle === undefined
        ? ''
        : `; ${pickle} looks like a pickle, which can run code and is not read: ` +
          'load it in transformers where you trust it and save it with save_pretrained(…, safe_serialization=True)'),
  );
}

/** Reads every tensor of a file or folder into memory. For big checkpoints use `openSafetensors` and read one at a time. */
export function readSafetensors(path: string, limits: SafetensorsLimits = SAFETENSORS_LIMITS): Map<string, RawTensor> {
  const store = openSafetensors(path, limits);
  try {
    return new Map([...store.tensors].map(([name, tensor]) => [name, tensor.read()]));
  } finally {
    store.close();
  }
}

/** Opens without waiting: a named pipe would otherwise hold the process until somebody writes to it. */
function openRegular(path: string): { readonly descriptor: number; readonly size: number } {
  const descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const stat = fstatSync(descriptor);
  if (stat.isFile()) return { descriptor, size: stat.size };
  closeSync(descriptor);
  throw new SafetensorsError('not_a_file', `${path} is not a regular file`);
}

function openFile(path: string, limits: SafetensorsLimits): SafetensorsStore & { readonly headerBytes: number } {
  const { descriptor, size } = openRegular(path);
  let header: SafetensorsHeader;
  try {
    header = parseSafetensorsHeader(
      (offset, length) => readExactly(descriptor, offset, length, path),
      size,
      limits,
      path,
    );
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
  let isOpen = true;
  const tensors = new Map<string, StoredTensor>();
  for (const { name, dtype, shape, start, end } of header.entries) {
    const readInto = (target: Uint8Array, fromByte: number): void => {
      if (!isOpen) throw new Error(`${path} was closed before tensor ${name} was read`);
      if (fromByte < 0 || fromByte + target.byteLength > end - start) {
        throw new Error(
          `expected a range within the ${end - start} bytes of ${name}, got ${fromByte}+${target.byteLength}`,
        );
      }
      fillFrom(descriptor, target, header.dataOffset + start + fromByte, path);
    };
    tensors.set(name, {
      name,
      dtype,
      shape,
      byteLength: end - start,
      path,
      offsetBytes: header.dataOffset + start,
      readInto,
      read: () => {
        const data = allocate(end - start, name, path);
        readInto(data, 0);
        return { dtype, shape, data };
      },
    });
  }
  const close = (): void => {
    if (isOpen) closeSync(descriptor);
    isOpen = false;
  };
  return { tensors, metadata: header.metadata, unindexed: [], headerBytes: header.dataOffset, close };
}

/** A sparse file may claim a tensor larger than any memory, at no cost to whoever made it. */
function allocate(bytes: number, name: string, path: string): Uint8Array {
  try {
    return new Uint8Array(bytes);
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw new SafetensorsError(
      'tensor_too_large',
      `${path}: ${name.slice(0, 120)} has ${bytes} bytes, more than can be held at once: read it in pieces`,
    );
  }
}

/** Shard names come from a file that a stranger may have written: a plain name in the same folder is all that is accepted. */
const SHARD_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors$/;

function openIndexed(path: string, limits: SafetensorsLimits): SafetensorsStore {
  const weightMap = readWeightMap(path, limits);
  const shardNames = new Set(weightMap.values());
  if (shardNames.size > limits.maxShards)
    throw new SafetensorsError(
      'too_many_shards',
      `${path} names ${shardNames.size} shards, the limit is ${limits.maxShards}`,
    );
  const shards = new Map<string, SafetensorsStore>();
  let headerBytes = 0;
  let tensorCount = 0;
  const close = (): void => {
    for (const shard of shards.values()) shard.close();
  };
  try {
    for (const shardName of shardNames) {
      const shard = openFile(within(dirname(path), shardName), limits);
      shards.set(shardName, shard);
      headerBytes += shard.headerBytes;
      tensorCount += shard.tensors.size;
      if (headerBytes > limits.maxTotalHeaderBytes)
        throw new SafetensorsError(
          'header_too_large',
          `the headers up to ${shardName} take ${headerBytes} bytes, the limit for all shards is ${limits.maxTotalHeaderBytes}`,
        );
      if (tensorCount > limits.maxTensors)
        throw new SafetensorsError(
          'too_many_tensors',
          `the shards up to ${shardName} hold ${tensorCount} tensors, the limit for all is ${limits.maxTensors}`,
        );
    }
    const tensors = new Map<string, StoredTensor>();
    for (const [name, shardName] of weightMap) {
      const tensor = shards.get(shardName)?.tensors.get(name);
      if (!tensor)
        throw new SafetensorsError(
          'index_mismatch',
          `${basename(path)} says that ${name.slice(0, 120)} is in ${shardName}, but it is not`,
        );
      tensors.set(name, tensor);
    }
    const unindexed = [...shards.values()].flatMap((shard) =>
      [...shard.tensors.keys()].filter((name) => !tensors.has(name)),
    );
    return {
      tensors,
      metadata: Object.assign({}, ...[...shards.values()].map((shard) => shard.metadata)),
      unindexed,
      close,
    };
  } catch (error) {
    close();
    throw error;
  }
}

function readWeightMap(path: string, limits: SafetensorsLimits): Map<string, string> {
  const { descriptor, size } = openRegular(path);
  let bytes: Uint8Array;
  try {
    if (size > limits.maxHeaderBytes)
      throw new SafetensorsError(
        'header_too_large',
        `${path} has ${size} bytes, the limit for an index is ${limits.maxHeaderBytes}`,
      );
    bytes = readExactly(descriptor, 0, size, path);
  } finally {
    closeSync(descriptor);
  }
  let index: unknown;
  try {
    index = parseStrictJson(bytes, { maxDepth: 8, maxContainers: 10_000 });
  } catch (error) {
    if (error instanceof StrictJsonError) throw new SafetensorsError('bad_index', `${path}: ${error.message}`);
    throw error;
  }
  const weightMap = isObject(index) ? index.weight_map : undefined;
  if (!isObject(weightMap)) throw new SafetensorsError('bad_index', `${path}: expected an object under "weight_map"`);
  const result = new Map<string, string>();
  for (const [name, shard] of Object.entries(weightMap)) {
    if (typeof shard !== 'string' || !SHARD_NAME.test(shard)) {
      throw new SafetensorsError(
        'bad_index',
        `${path}: weight_map[${JSON.stringify(name.slice(0, 120))}] must be the plain name of a .safetensors file beside the index, got ${JSON.stringify(shard)?.slice(0, 120)}`,
      );
    }
    result.set(name, shard);
  }
  if (result.size > limits.maxTensors) {
    throw new SafetensorsError(
      'too_many_tensors',
      `${path} names ${result.size} tensors, the limit is ${limits.maxTensors}`,
    );
  }
  return result;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

function exists(folder: string, name: string): boolean {
  return statSync(join(folder, name), { throwIfNoEntry: false }) !== undefined;
}

/**
 * Path of a file of a folder, links followed. A folder from elsewhere may hold links, and a link can make any file of this
 * machine a part of the model: they must stay in the folder, or lead to the blobs of a Hugging Face cache
 * (`<repository>/snapshots/<commit>` → `<repository>/blobs`), which is made of such links.
 */
function within(folder: string, name: string): string {
  const path = join(folder, name);
  let real: string;
  try {
    real = realpathSync(path);
  } catch {
    throw new SafetensorsError('not_found', `expected ${name} in ${folder}, it is not there`);
  }
  const home = realpathSync(folder);
  const snapshots = dirname(home);
  const roots = basename(snapshots) === 'snapshots' ? [home, join(dirname(snapshots), 'blobs')] : [home];
  if (roots.some((root) => real.startsWith(root.endsWith(sep) ? root : root + sep))) return path;
  throw new SafetensorsError(
    'outside_folder',
    `${path} is a link to a file outside the folder: copy that file into the folder if it is meant`,
  );
}

function readExactly(descriptor: number, offset: number, length: number, path: string): Uint8Array {
  const target = new Uint8Array(length);
  fillFrom(descriptor, target, offset, path);
  return target;
}

/** One read call moves at most this much: the system refuses more than 2 GiB at once. */
const MAX_READ_BYTES = 1 << 30;

function fillFrom(descriptor: number, target: Uint8Array, offset: number, path: string): void {
  for (let done = 0; done < target.byteLength; ) {
    const read = readSync(descriptor, target, done, Math.min(MAX_READ_BYTES, target.byteLength - done), offset + done);
    if (read === 0) throw new SafetensorsError('truncated', `${path} ended ${target.byteLength - done} bytes early`);
    done += read;
  }
}
