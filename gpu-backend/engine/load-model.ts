import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { openSafetensors } from '../io/safetensors.ts';
import { toFloat32 } from '../io/tensor.ts';
import { type Adapter, loadAdapter, mergeAdapter } from '../models/adapter.ts';
import type { VlmConfig } from '../models/config.ts';
import type { KvFormat } from '../models/decode.ts';
import { type Checkpoint, loadCheckpoint, readConfig, type WeightMap } from '../models/load.ts';
import { readManifest } from '../models/manifest.ts';
import { canonicalName } from '../models/names.ts';
import { partOf, type Storage } from '../models/storage.ts';
import type { Placement } from '../runtime/device.ts';
import { f32 } from '../runtime/session.ts';
import type { AdapterMode } from './adapter-mode.ts';
import { OnnxRunner } from './onnx-runner.ts';

/** How a checkpoint is compiled. */
export interface CompileOptions {
  readonly threads: number;
  /** Weights; absent = f32. An imported model has its own. */
  readonly storage?: Storage;
  /** Keys and values. */
  readonly kv: KvFormat;
  /** Default: the processor, where imported models always run. */
  readonly placement?: Placement;
}

/** A model that can answer: a runner, and the adapter on it if the model is one. */
export interface Loaded {
  readonly runner: OnnxRunner;
  readonly adapter: string | null;
}

/** Loads models for the engine thread. A base is compiled once; adapters are loaded on it and share everything with it. */
export class ModelLoader {
  readonly #bases = new Map<string, Promise<OnnxRunner>>();

  /**
   * @param overlayDir folder of a fine-tune: a PEFT adapter, safetensors files with changed tensors, or both
   * @throws Error when folder and config do not fit each other, naming the tensors, or the base is an imported model
   */
  async load(
    dir: string,
    overlayDir: string | null,
    options: CompileOptions,
    adapters: AdapterMode = 'auto',
  ): Promise<Loaded> {
    if (overlayDir === null) return { runner: await this.#base(dir, options), adapter: null };
    if (readManifest(dir) !== null)
      throw new Error(`${dir} is an imported model, which takes no fine-tunes: ${SERVE_ORIGINAL}`);
    const checkpoint = loadCheckpoint(dir);
    const { weights, changed, adapter } = readOverlay(checkpoint, overlayDir);
    const own = async (all: WeightMap): Promise<Loaded> => ({
      runner: await OnnxRunner.create(checkpoint.config, all, options),
      adapter: null,
    });
    if (adapter === null) return await own(weights);
    const isMerged = adapters === 'merged' || (adapters === 'auto' && adapter.lora.dora === true);
    if (isMerged || adapter.lora.dora === true || changed.some((name) => !isSeenBy(name)))
      return await own(mergeAdapter(weights, adapter));
    const runner = await this.#base(dir, options);
    const changesVision = changed.length > 0 || [...adapter.weights.keys()].some(isSeenBy);
    await runner.addAdapter(overlayDir, adapter, changesVision ? weights : null);
    return { runner, adapter: overlayDir };
  }

  /** Takes a model out of memory, unless it is a base that others are laid over. */
  async unload({ runner, adapter }: Loaded): Promise<void> {
    if (adapter !== null) await runner.removeAdapter(adapter);
    else if (!(await this.#isBase(runner))) await runner.dispose();
  }

  async #base(dir: string, options: CompileOptions): Promise<OnnxRunner> {
    const key = JSON.stringify([dir, options]);
    let base = this.#bases.get(key);
    if (base === undefined) {
      base = loadBase(dir, options);
      this.#bases.set(key, base);
      base.catch(() => this.#bases.delete(key));
    }
    return await base;
  }

  async #isBase(runner: OnnxRunner): Promise<boolean> {
    const bases = await Promise.all(this.#bases.values());
    return bases.includes(runner);
  }
}

const SERVE_ORIGINAL = 'serve the checkpoint it was imported from';

/** Whether a weight is part of what pictures go through before they reach the decoder. */
function isSeenBy(name: string): boolean {
  const part = partOf(name);
  return part === 'vision' || part === 'projector';
}

async function loadBase(dir: string, options: CompileOptions): Promise<OnnxRunner> {
  if (readManifest(dir) !== null) return await OnnxRunner.open(dir, readConfig(dir), options.threads);
  const { config, weights } = loadCheckpoint(dir);
  return await OnnxRunner.create(config, weights, options);
}

/** Base weights with a fine-tune laid over them: whole tensors are replaced, an adapter's update is folded in. */
export function overlay(
  checkpoint: { readonly config: VlmConfig; readonly weights: WeightMap },
  dir: string,
): WeightMap {
  const { weights, adapter } = readOverlay(checkpoint, dir);
  return adapter === null ? weights : mergeAdapter(weights, adapter);
}

/** What a fine-tune's folder holds: the weights with its whole tensors in their places, and its adapter if it has one. */
function readOverlay(
  { config, weights }: Pick<Checkpoint, 'config' | 'weights'>,
  dir: string,
): { readonly weights: WeightMap; readonly changed: readonly string[]; readonly adapter: Adapter | null } {
  const tuned: WeightMap = new Map(weights);
  const changed: string[] = [];
  const files = readdirSync(dir).filter(
    (name) => name.endsWith('.safetensors') && name !== 'adapter_model.safetensors',
  );
  const hasAdapter = existsSync(join(dir, 'adapter_config.json'));
  if (files.length === 0 && !hasAdapter)
    throw new Error(
      `expected an adapter or safetensors files in ${dir}, found ${readdirSync(dir).join(', ') || 'nothing'}`,
    );
  for (const file of files) {
    const store = openSafetensors(join(dir, file));
    try {
      for (const [stored, tensor] of store.tensors) {
        const name = canonicalName(stored);
        const known = weights.get(name);
        if (known === undefined) continue; // stored for completeness, read by nothing (models/load.ts keeps such tensors too)
        if (known.shape.join() !== tensor.shape.join())
          throw new Error(`${file}: ${stored} is [${tensor.shape}], the base model has [${known.shape}]`);
        tuned.set(name, f32(toFloat32(tensor.read()), tensor.shape));
        changed.push(name);
      }
    } finally {
      store.close();
    }
  }
  return { weights: tuned, changed, adapter: hasAdapter ? loadAdapter(dir, config) : null };
}
