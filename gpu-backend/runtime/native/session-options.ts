import type { InferenceSession } from 'onnxruntime-node';
import { DEFAULT_MEMORY, type Library, OutPointer } from './library.ts';

/** GraphOptimizationLevel of onnxruntime_c_api.h. */
const OPTIMIZATION_LEVEL: Readonly<Record<string, number>> = { disabled: 0, basic: 1, extended: 2, layout: 3, all: 99 };

const out = new OutPointer();

/** `{ session: { intra_op: { allow_spinning: '0' } } }` → `['session.intra_op.allow_spinning', '0']` */
function configEntries(extra: Readonly<Record<string, unknown>>, prefix = ''): [key: string, value: string][] {
  return Object.entries(extra).flatMap(([key, value]): [string, string][] =>
    typeof value === 'object' && value !== null
      ? configEntries(value as Record<string, unknown>, `${prefix}${key}.`)
      : [[`${prefix}${key}`, String(value)]],
  );
}

/** NULL-terminated strings and the array of their addresses; valid as long as the object lives. */
function textList(texts: readonly string[]): (string | null)[] {
  return [...texts, null];
}

/**
 * OrtSessionOptions* with what onnxruntime-node's options say. The caller releases it.
 * @throws Error for a provider that the library does not have, with its message
 */
export function createSessionOptions(library: Library, options: InferenceSession.SessionOptions): bigint {
  const { api } = library;
  const handle = out.handle((target) => api.createSessionOptions(target));
  try {
    if (options.intraOpNumThreads !== undefined) api.setIntraOpNumThreads(handle, options.intraOpNumThreads);
    if (options.interOpNumThreads !== undefined) api.setInterOpNumThreads(handle, options.interOpNumThreads);
    if (options.executionMode !== undefined)
      api.setSessionExecutionMode(handle, options.executionMode === 'parallel' ? 1 : 0);
    if (options.enableMemPattern === false) api.disableMemPattern(handle);
    if (options.enableCpuMemArena === false) api.disableCpuMemArena(handle);
    if (options.graphOptimizationLevel !== undefined) {
      const level = OPTIMIZATION_LEVEL[options.graphOptimizationLevel];
      if (level === undefined) throw new Error(`unknown optimisation level ${options.graphOptimizationLevel}`);
      api.setSessionGraphOptimizationLevel(handle, level);
    }
    if (options.logSeverityLevel !== undefined) api.setSessionLogSeverityLevel(handle, options.logSeverityLevel);
    if (options.enableProfiling === true) api.enableProfiling(handle, options.profileFilePrefix ?? 'profile');
    // Kernel threads of the library; the calling one is seen to by denormals.ts.
    api.addSessionConfigEntry(handle, 'session.set_denormal_as_zero', '1');
    for (const [key, value] of configEntries(options.extra ?? {})) api.addSessionConfigEntry(handle, key, value);
    for (const provider of options.executionProviders ?? []) {
      const { name, ...settings } = typeof provider === 'string' ? { name: provider } : provider;
      appendProvider(library, handle, name, settings);
    }
    return handle;
  } catch (error) {
    api.releaseSessionOptions(handle);
    throw error;
  }
}

function appendProvider({ api }: Library, options: bigint, name: string, settings: Readonly<Record<string, unknown>>) {
  if (name === 'cpu') return; // Always there, after all others.
  const entries = Object.entries(settings).map(([key, value]): [string, string] => [
    // onnxruntime-node calls it deviceId, the C API device_id.
    key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    String(value),
  ]);
  const keys = textList(entries.map(([key]) => key));
  const values = textList(entries.map(([, value]) => value));
  if (name !== 'cuda') {
    const nativeName: Readonly<Record<string, string>> = { webgpu: 'WebGPU', coreml: 'CoreML', xnnpack: 'XNNPACK' };
    api.appendExecutionProvider(options, nativeName[name] ?? name, keys, values, entries.length);
    return;
  }
  const cuda = out.handle((target) => api.createCudaProviderOptions(target));
  try {
    api.updateCudaProviderOptions(cuda, keys, values, entries.length);
    api.appendExecutionProviderCuda(options, cuda);
  } finally {
    api.releaseCudaProviderOptions(cuda);
  }
}

/** OrtDeviceAllocator of OrtAllocatorType. */
const DEVICE_ALLOCATOR = 0;

/** OrtMemoryInfo* of the device that nodes are placed on first; of main memory where that is the processor. */
export function deviceMemory({ api, cpuMemory }: Library, options: InferenceSession.SessionOptions): bigint {
  for (const provider of options.executionProviders ?? []) {
    const { name, deviceId = 0 } = typeof provider === 'string' ? { name: provider } : { deviceId: 0, ...provider };
    if (name === 'cuda')
      return out.handle((info) =>
        api.createMemoryInfo('Cuda', DEVICE_ALLOCATOR, Number(deviceId), DEFAULT_MEMORY, info),
      );
  }
  return cpuMemory;
}
