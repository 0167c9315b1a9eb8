import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openSafetensors, type SafetensorsStore, type StoredTensor } from '../io/safetensors.ts';
import { replaceFile, writeSafetensors } from '../io/safetensors-write.ts';
import { fromFloat32, toFloat32 } from '../io/tensor.ts';
import { f32, type Tensor } from '../runtime/session.ts';
import { formatVlmConfig, parseVlmConfig, type VlmConfig } from './config.ts';
import { readManifest } from './manifest.ts';
import { canonicalName, isUnusedName, storedName } from './names.ts';
import { forwardGraph, visionGraph } from './vlm.ts';

/** Weights by canonical name, float32, in the on-disk layout [out, in]. */
export type WeightMap = Map<string, Tensor>;

export interface Checkpoint {
  readonly config: VlmConfig;
  readonly weights: WeightMap;
  /** Stored tensors that nothing reads (last vision layers, pooling head); kept so that saving loses nothing. */
  readonly unused: WeightMap;
}

/** Every weight that the model of a config reads: canonical name → shape. */
export function expectedWeights(config: VlmConfig): ReadonlyMap<string, readonly number[]> {
  return new Map([...visionGraph(config).weights, ...forwardGraph(config, { images: 'features' }).weights]);
}

/** Reads and parses `config.json` of a checkpoint folder. */
export function readConfig(dir: string): VlmConfig {
  const path = join(dir, 'config.json');
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new Error(`expected a checkpoint folder with a config.json, could not read ${path}`, { cause });
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new Error(`${path} is not valid JSON: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
  return parseVlmConfig(json);
}

function list(names: readonly string[]): string {
  const shown = names.slice(0, 8).join(', ');
  return names.length > 8 ? `${shown} and ${names.length - 8} more` : shown;
}

/** Stored tensors under canonical names. @throws when two stored names mean the same weight */
function canonicalTensors(store: SafetensorsStore): Map<string, StoredTensor> {
  const tensors = new Map<string, StoredTensor>();
  for (const [stored, tensor] of store.tensors) {
    const name = canonicalName(stored);
    const other = tensors.get(name);
    if (other !== undefined) throw new Error(`tensors ${other.name} and ${stored} both mean ${name}`);
    tensors.set(name, tensor);
  }
  return tensors;
}

/** A checkpoint folder whose tensors were checked against its config and are still on disk. */
export interface OpenCheckpoint {
  readonly config: VlmConfig;
  /** What the model reads, by canonical name. */
  readonly used: ReadonlyMap<string, StoredTensor>;
  /** What nothing reads, by canonical name: last vision layers, pooling head, the head of a model whose head is tied. */
  readonly unused: ReadonlyMap<string, StoredTensor>;
  close(): void;
}

/**
 * Opens a Hugging Face folder (`config.json` and safetensors, single or sharded) in either key layout, reading headers only.
 * @throws Error that lists missing, unexpected and wrongly shaped tensors by name.
 */
export function openCheckpoint(dir: string): OpenCheckpoint {
  if (readManifest(dir) !== null)
    throw new Error(
      `${dir} is an imported model, for serving only: use the checkpoint it was imported from, or make one with mantis export`,
    );
  const config = readConfig(dir);
  const expected = expectedWeights(config);
  const store = openSafetensors(dir);
  try {
    const stored = canonicalTensors(store);
    const missing = [...expected.keys()].filter((name) => !stored.has(name));
    const unexpected = [...stored.keys()].filter(
      (name) => !expected.has(name) && !isUnusedName(name, config) && !isTiedCopy(name, config),
    );
    const misshapen = [...expected].flatMap(([name, shape]) => {
      const got = stored.get(name)?.shape;
      return got === undefined || got.join() === shape.join()
        ? []
        : [`${name} is [${got}], config.json says [${shape}]`];
    });
    const problems = [
      ...(missing.length > 0 ? [`missing: ${list(missing)}`] : []),
      ...(unexpected.length > 0 ? [`unexpected: ${list(unexpected)}`] : []),
      ...(misshapen.length > 0 ? [`wrong shape: ${list(misshapen)}`] : []),
    ];
    if (problems.length > 0) throw new Error(`checkpoint ${dir} does not fit its config.json; ${problems.join('; ')}`);
    const all = [...stored];
    return {
      config,
      used: new Map(all.filter(([name]) => expected.has(name))),
      unused: new Map(all.filter(([name]) => !expected.has(name))),
      close: () => store.close(),
    };
  } catch (error) {
    store.close();
    throw error;
  }
}

function isTiedCopy(name: string, config: VlmConfig): boolean {
  return config.text.tiedHead && name === 'language_model.lm_head.weight';
}

/**
 * Loads a checkpoint folder as `openCheckpoint` takes it, as f32 in memory.
 * @param isOnDisk weights whose `data` are read from the file each time they are looked at, so that a model that is used in fewer bits
 *   never lies in memory as f32; the file then stays open as long as the process lives
 */
export function loadCheckpoint(dir: string, isOnDisk: (name: string) => boolean = () => false): Checkpoint {
  const checkpoint = openCheckpoint(dir);
  let staysOpen = false;
  try {
    const { config, used, unused } = checkpoint;
    const read = ([name, tensor]: readonly [string, StoredTensor]) =>
      [name, f32(toFloat32(tensor.read()), tensor.shape)] as const;
    const weights: WeightMap = new Map();
    // In the order of the graphs, which runs and saved files follow.
    for (const name of expectedWeights(config).keys()) {
      const tensor = used.get(name);
      if (tensor === undefined) continue;
      if (isOnDisk(name)) {
        staysOpen = true;
        weights.set(name, onDisk(tensor));
      } else weights.set(...read([name, tensor]));
    }
    const kept = [...unused].filter(([name, { dtype }]) => !isTiedCopy(name, config) && dtype !== 'i64');
    return { config, weights, unused: new Map(kept.map(read)) };
  } finally {
    if (!staysOpen) checkpoint.close();
  }
}

function onDisk(tensor: StoredTensor): Tensor {
  return {
    dtype: 'f32',
    shape: tensor.shape,
    get data() {
      return toFloat32(tensor.read());
    },
  };
}

function floats(name: string, tensor: Tensor): Float32Array {
  if (!(tensor.data instanceof Float32Array)) throw new Error(`weight ${name} must be f32, got ${tensor.dtype}`);
  return tensor.data;
}

/**
 * Writes `config.json` and `model.safetensors` in the layout of the published checkpoints.
 * @param dtype storage type; computation is always float32 after loading
 */
export async function writeCheckpoint(
  dir: string,
  checkpoint: {
    readonly config: VlmConfig;
    readonly weights: ReadonlyMap<string, Tensor>;
    readonly unused?: ReadonlyMap<string, Tensor>;
  },
  dtype: 'f32' | 'f16' | 'bf16' = 'f32',
): Promise<void> {
  mkdirSync(dir, { recursive: true });
  const torchDtype = { f32: 'float32', f16: 'float16', bf16: 'bfloat16' }[dtype];
  const config = { ...formatVlmConfig(checkpoint.config), torch_dtype: torchDtype };
  await replaceFile(join(dir, 'config.json'), async (file) => {
    await file.writeFile(`${JSON.stringify(config, null, 2)}\n`);
  });
  const all = [...checkpoint.weights, ...(checkpoint.unused ?? [])];
  await writeSafetensors(
    join(dir, 'model.safetensors'),
    all.map(
      ([name, tensor]) =>
        [storedName(name, checkpoint.config.family), fromFloat32(floats(name, tensor), tensor.shape, dtype)] as const,
    ),
    { format: 'pt' },
  );
}
