import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import koffi from 'koffi';
import { type OrtApi, readApi } from './api.ts';

/** Version of the library whose C API `api.ts` describes; onnxruntime-node is pinned to it. */
export const LIBRARY_VERSION = '1.30.0';
const API_VERSION = 30;

const LIBRARY_NAME: Readonly<Record<string, string>> = {
  linux: 'libonnxruntime.so.1',
  darwin: 'libonnxruntime.1.dylib',
  win32: 'onnxruntime.dll',
};

/**
 * koffi runs native code on a stack of its own, whose default (2 MiB, for asynchronous calls 128 KiB) is less than what the
 * main thread of a process has and ONNX Runtime is written for.
 */
const STACK_BYTES = 8 * 2 ** 20;

/** ORT_LOGGING_LEVEL_ERROR */
const LOG_ERRORS = 3;
/** OrtArenaAllocator of OrtAllocatorType. */
const ARENA_ALLOCATOR = 1;
/** OrtMemTypeDefault of OrtMemType. */
export const DEFAULT_MEMORY = 0;

/** The library, opened once in each thread. */
export interface Library {
  readonly api: OrtApi;
  readonly path: string;
  /** OrtEnv*, one a process: the library counts references. */
  readonly env: bigint;
  /** OrtMemoryInfo* of main memory. */
  readonly cpuMemory: bigint;
  /** OrtAllocator* of strings and lists that the API hands out. Not to be released. */
  readonly allocator: bigint;
}

/** Where onnxruntime-node keeps the shared library of this platform. */
export function libraryPath(): string {
  const name = LIBRARY_NAME[process.platform];
  if (name === undefined) throw new Error(`onnxruntime-node has no library for ${process.platform}`);
  const packageFolder = dirname(dirname(createRequire(import.meta.url).resolve('onnxruntime-node')));
  return join(packageFolder, 'bin', 'napi-v6', process.platform, process.arch, name);
}

/** Memory for one out parameter. An ArrayBuffer made by size lies outside of V8's heap and never moves. */
export class OutPointer {
  readonly memory = new BigUint64Array(new ArrayBuffer(128), 0, 1);
  /** @throws Error when the call left NULL */
  take(): bigint {
    const value = this.memory[0];
    if (value === undefined || value === 0n) throw new Error('ONNX Runtime gave no handle');
    return value;
  }
  /** A size_t or an int that the call left. */
  number(): number {
    return Number(this.memory[0]);
  }
  /** Makes `call` leave a handle here, and returns it. */
  handle(call: (out: BigUint64Array) => void): bigint {
    this.memory[0] = 0n;
    call(this.memory);
    return this.take();
  }
  /** Makes `call` leave a number here, and returns it. */
  count(call: (out: BigUint64Array) => void): number {
    this.memory[0] = 0n;
    call(this.memory);
    return this.number();
  }
}

let opened: Library | undefined;

/**
 * Opens the library that onnxruntime-node ships; both bindings then share one copy of it.
 * @throws Error that says why it cannot be called: no library for the platform, another version, a failed load
 */
export function openLibrary(): Library {
  if (opened !== undefined) return opened;
  const path = libraryPath();
  if (!existsSync(path)) throw new Error(`ONNX Runtime's library is not at ${path}`);
  koffi.config({ ...koffi.config(), sync_stack_size: STACK_BYTES, async_stack_size: STACK_BYTES });
  const base: bigint | null = koffi.load(path).func('OrtGetApiBase', 'void *', [])();
  if (base === null) throw new Error(`${path} has no API`);
  const [getApi, getVersion] = new BigUint64Array(koffi.view(base, 16));
  const version: string = koffi.decode(getVersion, koffi.proto('str', []))();
  if (version !== LIBRARY_VERSION)
    throw new Error(`expected ONNX Runtime ${LIBRARY_VERSION}, found ${version} at ${path}`);
  const address: bigint | null = koffi.decode(getApi, koffi.proto('void *', ['uint32_t']))(API_VERSION);
  if (address === null) throw new Error(`${path} has no API of version ${API_VERSION}`);
  const api = readApi(address);
  const out = new OutPointer();
  opened = {
    api,
    path,
    env: out.handle((env) => api.createEnv(LOG_ERRORS, 'mantis', env)),
    cpuMemory: out.handle((info) => api.createCpuMemoryInfo(ARENA_ALLOCATOR, DEFAULT_MEMORY, info)),
    allocator: out.handle((allocator) => api.getAllocatorWithDefaultOptions(allocator)),
  };
  return opened;
}
