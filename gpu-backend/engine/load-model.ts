import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { openSafetensors } from '../io/safetensors.ts';
import { toFloat32 } from '../io/tensor.ts';
import { type Adapter, loadAdapter, mergeAdapter } from '../models/adapter.ts';
import { type Checkpoint, loadCheckpoint, readConfig, type WeightMap } from '../models/load.ts';
import { readManifest } from '../models/manifest.ts';
import { canonicalName } from '../models/names.ts';
import type { LoraSpec } from '../models/weights.ts';
import { f32 } from '../runtime/session.ts';
import type { AdapterMode } from './adapter-mode.ts';
import { OnnxRunner, RunnerSessions } from './onnx-runner.ts';

interface Base {
  /** `null`: an imported model, whose weights are part of its sessions. */
  readonly checkpoint: Checkpoint | null;
  readonly sessions: RunnerSessions;
  /** Sessions whose layers have an adapter beside them, by its rank, scale and targets. */
  readonly adapted: Map<string, Promise<RunnerSessions>>;
}

/** Loads models for the engine thread. A base is read and compiled once; its fine-tunes share sessions and unchanged weights. */
export class ModelLoader {
  readonly #bases = new Map<string, Promise<Base>>();

  /**
   * @param overlayDir folder of a fine-tune: a PEFT adapter, safetensors files with changed tensors, or both
   * @throws Error when folder and config do not fit each other, naming the tensors, or the base is an imported model
   */
  async load(
    dir: string,
    overlayDir: string | null,
    threads: number,
    adapters: AdapterMode = 'auto',
  ): Promise<OnnxRunner> {
    const key = `${dir} ${threads}`;
    let base = this.#bases.get(key);
    if (base === undefined) {
      base = loadBase(dir, threads);
      this.#bases.set(key, base);
      base.catch(() => this.#bases.delete(key));
    }
    const { checkpoint, sessions, adapted } = await base;
    if (checkpoint === null) {
      if (overlayDir !== null)
        throw new Error(`${dir} is an imported model, which takes no fine-tunes: ${SERVE_ORIGINAL}`);
      return new OnnxRunner(sessions, new Map());
    }
    if (overlayDir === null) return new OnnxRunner(sessions, checkpoint.weights);
    const { weights, adapter } = readOverlay(checkpoint, overlayDir);
    if (adapter === null) return new OnnxRunner(sessions, weights);
    if (adapters === 'merged' || (adapters === 'auto' && adapter.lora.dora === true))
      return new OnnxRunner(sessions, mergeAdapter(weights, adapter));
    const beside = await adaptedSessions(adapted, checkpoint, adapter.lora, threads);
    return new OnnxRunner(beside, new Map([...weights, ...adapter.weights]));
  }
}

/** Compiled once for all adapters of one shape. */
async function adaptedSessions(
  adapted: Base['adapted'],
  { config }: Checkpoint,
  lora: LoraSpec,
  threads: number,
): Promise<RunnerSessions> {
  const key = JSON.stringify([lora.r, lora.alpha, lora.targets, lora.projector === true, lora.dora === true]);
  let sessions = adapted.get(key);
  if (sessions === undefined) {
    sessions = RunnerSessions.create(config, threads, lora);
    adapted.set(key, sessions);
    sessions.catch(() => adapted.delete(key));
  }
  return await sessions;
}

const SERVE_ORIGINAL = 'serve the checkpoint it was imported from';

async function loadBase(dir: string, threads: number): Promise<Base> {
  if (readManifest(dir) !== null)
    return { checkpoint: null, sessions: await RunnerSessions.open(dir, readConfig(dir), threads), adapted: new Map() };
  const checkpoint = loadCheckpoint(dir);
  return { checkpoint, sessions: await RunnerSessions.create(checkpoint.config, threads), adapted: new Map() };
}

/** Base weights with a fine-tune laid over them: whole tensors are replaced, an adapter's update is folded in. */
export function overlay(checkpoint: Checkpoint, dir: string): WeightMap {
  const { weights, adapter } = readOverlay(checkpoint, dir);
  return adapter === null ? weights : mergeAdapter(weights, adapter);
}

/** What a fine-tune's folder holds: the weights with its whole tensors in their places, and its adapter if it has one. */
function readOverlay(
  { config, weights }: Checkpoint,
  dir: string,
): { readonly weights: WeightMap; readonly adapter: Adapter | null } {
  const tuned: WeightMap = new Map(weights);
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
      }
    } finally {
      store.close();
    }
  }
  return { weights: tuned, adapter: hasAdapter ? loadAdapter(dir, config) : null };
}
