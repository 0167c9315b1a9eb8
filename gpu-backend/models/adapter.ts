import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openSafetensors } from '../io/safetensors.ts';
import { replaceFile, writeSafetensors } from '../io/safetensors-write.ts';
import { fromFloat32, toFloat32 } from '../io/tensor.ts';
import { f32, type Tensor } from '../runtime/session.ts';
import type { VlmConfig } from './config.ts';
import { familyOf } from './family.ts';
import type { WeightMap } from './load.ts';
import { canonicalName, peftName } from './names.ts';
import { forwardGraph, visionGraph } from './vlm.ts';
import type { LoraSpec } from './weights.ts';

export interface Adapter {
  readonly lora: LoraSpec;
  /**
   * `<module>.lora_A.weight` [r, in], `<module>.lora_B.weight` [out, r] and, with DoRA, `<module>.lora_magnitude_vector` [out],
   * by canonical name.
   */
  readonly weights: WeightMap;
}

const ADAPTER_TENSOR = /\.(lora_[AB]\.weight|lora_magnitude_vector)$/;

/** Adapter weights that a model with this LoRA reads: canonical name → shape. */
export function expectedAdapterWeights(config: VlmConfig, lora: LoraSpec): ReadonlyMap<string, readonly number[]> {
  const graphs = [visionGraph(config, lora), forwardGraph(config, { images: 'features', lora })];
  return new Map(graphs.flatMap(({ weights }) => [...weights].filter(([name]) => ADAPTER_TENSOR.test(name))));
}

/**
 * PEFT's `target_modules` → the linear layers it names. A list holds suffixes; a string is a Python regular expression over
 * whole module names, tried against every linear of a block of the language model.
 */
function parseTargets(value: unknown, linears: readonly string[]): string[] {
  if (Array.isArray(value)) {
    const unknown = value.filter((v) => !linears.some((l) => l === v));
    if (unknown.length > 0)
      throw new Error(
        `adapter_config.json: target_modules names ${JSON.stringify(unknown)}; supported are ${linears.join(', ')}`,
      );
    return linears.filter((l) => value.includes(l));
  }
  if (typeof value !== 'string')
    throw new Error(`adapter_config.json: target_modules must be a list or a string, got ${JSON.stringify(value)}`);
  if (value === 'all-linear') return [...linears];
  if (value.length > 500) throw new Error('adapter_config.json: target_modules is longer than 500 characters');
  // No evaluation of a stranger's expression: a layer is a target when its name stands in it.
  const named = linears.filter((l) => new RegExp(`(^|[^a-z_0-9])${l}([^a-z_0-9]|$)`).test(value));
  if (named.length === 0)
    throw new Error(`adapter_config.json: target_modules ${JSON.stringify(value)} names none of ${linears.join(', ')}`);
  return named;
}

type Json = Readonly<Record<string, unknown>>;

/** @throws Error for options that change the computation and are not supported */
function parseAdapterConfig(json: Json, config: VlmConfig): LoraSpec {
  if (json.peft_type !== 'LORA')
    throw new Error(`adapter_config.json: peft_type must be LORA, got ${JSON.stringify(json.peft_type)}`);
  for (const flag of ['fan_in_fan_out', 'lora_bias', 'use_qalora', 'use_bdlora'])
    if (json[flag] === true) throw new Error(`adapter_config.json: ${flag} is not supported`);
  for (const key of ['rank_pattern', 'alpha_pattern'])
    if (Object.keys((json[key] as object | null | undefined) ?? {}).length > 0)
      throw new Error(`adapter_config.json: ${key} is not supported`);
  for (const key of ['modules_to_save', 'layers_to_transform', 'layer_replication'])
    if (json[key] !== undefined && json[key] !== null) throw new Error(`adapter_config.json: ${key} is not supported`);
  const { r, lora_alpha: alpha } = json;
  if (typeof r !== 'number' || !Number.isInteger(r) || r < 1)
    throw new Error(`adapter_config.json: r must be a positive integer, got ${JSON.stringify(r)}`);
  if (typeof alpha !== 'number')
    throw new Error(`adapter_config.json: lora_alpha must be a number, got ${JSON.stringify(alpha)}`);
  const { decoderLinears, projectorLinears } = familyOf(config);
  return {
    r,
    // rsLoRA scales by alpha / sqrt(r); folded into alpha so that alpha / r is right.
    alpha: json.use_rslora === true ? alpha * Math.sqrt(r) : alpha,
    targets: parseTargets(json.target_modules, [...new Set([...decoderLinears, ...projectorLinears])]),
    ...(json.use_dora === true ? { dora: true } : {}),
  };
}

/** Why an adapter tensor has another shape than the model needs. */
function explainShape(name: string, got: readonly number[], want: readonly number[], base: unknown): string {
  const rankAxis = name.endsWith('.lora_A.weight') ? 0 : 1;
  const isRank = !name.endsWith('.lora_magnitude_vector') && got[1 - rankAxis] === want[1 - rankAxis];
  return isRank
    ? 'its rank is not the r of adapter_config.json'
    : `it was made for another base model${typeof base === 'string' ? ` (${base})` : ''}`;
}

/**
 * Loads a PEFT LoRA or DoRA folder (`adapter_config.json`, `adapter_model.safetensors`).
 * @throws Error when the adapter uses an option that changes the computation and is not supported, or does not fit the model.
 */
export function loadAdapter(dir: string, config: VlmConfig): Adapter {
  const path = join(dir, 'adapter_config.json');
  let json: Json;
  try {
    json = JSON.parse(readFileSync(path, 'utf8')) as Json;
  } catch (cause) {
    throw new Error(`expected an adapter folder with a readable adapter_config.json, could not read ${path}`, {
      cause,
    });
  }
  const parsed = parseAdapterConfig(json, config);
  const store = openSafetensors(join(dir, 'adapter_model.safetensors'));
  try {
    const stored = new Map([...store.tensors].map(([name, tensor]) => [canonicalName(name), tensor] as const));
    const onTower = [...stored.keys()].filter((name) => name.startsWith('vision_tower.'));
    if (onTower.length > 0)
      throw new Error(
        `adapter ${dir} adapts the vision tower (${onTower.length} tensors, first ${onTower[0]}), which is not supported: target the language model only`,
      );
    const usesProjector =
      familyOf(config).projectorLinears.length > 0 &&
      [...stored.keys()].some((name) => name.startsWith('multi_modal_projector.'));
    const lora: LoraSpec = { ...parsed, ...(usesProjector ? { projector: true } : {}) };
    const expected = expectedAdapterWeights(config, lora);
    const weights: WeightMap = new Map();
    const unexpected: string[] = [];
    for (const [name, tensor] of stored) {
      const shape = expected.get(name);
      if (shape === undefined) unexpected.push(tensor.name);
      else if (shape.join() !== tensor.shape.join())
        throw new Error(
          `adapter tensor ${tensor.name} is [${tensor.shape}], the model needs [${shape}]: ${explainShape(name, tensor.shape, shape, json.base_model_name_or_path)}`,
        );
      else weights.set(name, f32(toFloat32(tensor.read()), tensor.shape));
    }
    const missing = [...expected.keys()].filter((name) => !weights.has(name));
    if (unexpected.length + missing.length > 0) {
      throw new Error(
        `adapter ${dir} does not fit the model; unexpected: ${unexpected.slice(0, 4).join(', ') || 'none'}; missing: ${missing.slice(0, 4).join(', ') || 'none'}`,
      );
    }
    return { lora, weights };
  } finally {
    store.close();
  }
}

export interface WriteAdapterOptions {
  /** Written as `base_model_name_or_path`. Default null. */
  readonly baseModel?: string | null;
  /** Of the base model; PEFT names modules as it does. Default `llava`. */
  readonly family?: VlmConfig['family'];
}

/** Python regular expression over the family's module names that matches what the adapter adapts, for PEFT. */
function formatTargets(lora: LoraSpec, family: VlmConfig['family']): string {
  const part = (canonical: string): string =>
    peftName(canonical, family)
      .replace(/^base_model\.model\.(model\.)?/, '')
      .replace(/\..*$/, '');
  const parts = [
    part('language_model.model.layers.'),
    ...(lora.projector === true ? [part('multi_modal_projector.x')] : []),
  ];
  return `.*(${parts.join('|')}).*\\.(${lora.targets.join('|')})`;
}

/** Writes a folder that PEFT can load onto the same base model. */
export async function writeAdapter(dir: string, adapter: Adapter, options: WriteAdapterOptions = {}): Promise<void> {
  const { baseModel = null, family = 'llava' } = options;
  mkdirSync(dir, { recursive: true });
  const config = {
    peft_type: 'LORA',
    base_model_name_or_path: baseModel,
    task_type: null,
    inference_mode: true,
    r: adapter.lora.r,
    lora_alpha: adapter.lora.alpha,
    lora_dropout: 0,
    bias: 'none',
    fan_in_fan_out: false,
    use_dora: adapter.lora.dora === true,
    target_modules: formatTargets(adapter.lora, family),
  };
  await replaceFile(join(dir, 'adapter_config.json'), async (file) => {
    await file.writeFile(`${JSON.stringify(config, null, 2)}\n`);
  });
  await writeSafetensors(
    join(dir, 'adapter_model.safetensors'),
    [...adapter.weights].map(
      ([name, tensor]) => [peftName(name, family), fromFloat32(tensor.data as Float32Array, tensor.shape)] as const,
    ),
    { format: 'pt' },
  );
}

/**
 * Base weights with the adapter's update folded in, W + (alpha / r) · B A, with DoRA each row then scaled to its learned length,
 * so that serving needs no extra products. Tensors without an adapter are shared with `base`.
 */
export function mergeAdapter(base: ReadonlyMap<string, Tensor>, adapter: Adapter): WeightMap {
  const merged: WeightMap = new Map(base);
  const { r, alpha, dora } = adapter.lora;
  for (const [name, a] of adapter.weights) {
    if (!name.endsWith('.lora_A.weight')) continue;
    const module = name.slice(0, -'.lora_A.weight'.length);
    const b = adapter.weights.get(`${module}.lora_B.weight`);
    const magnitude = adapter.weights.get(`${module}.lora_magnitude_vector`);
    const weight = base.get(`${module}.weight`);
    if (b === undefined || weight === undefined || (dora === true && magnitude === undefined))
      throw new Error(`adapter tensor ${name} has no partner or no base weight`);
    const [out, width] = weight.shape as [number, number];
    const [A, B] = [a.data as Float32Array, b.data as Float32Array];
    const W = Float32Array.from(weight.data as Float32Array);
    for (let o = 0; o < out; o++) {
      const row = W.subarray(o * width, (o + 1) * width);
      for (let k = 0; k < r; k++) {
        const factor = ((B[o * r + k] ?? 0) * alpha) / r;
        for (let i = 0; i < width; i++) row[i] = (row[i] ?? 0) + factor * (A[k * width + i] ?? 0);
      }
      if (magnitude === undefined) continue;
      const length = Math.sqrt(row.reduce((sum, v) => sum + v * v, 0));
      const factor = Number((magnitude.data as Float32Array)[o]) / length;
      for (let i = 0; i < width; i++) row[i] = (row[i] ?? 0) * factor;
    }
    merged.set(`${module}.weight`, f32(W, weight.shape));
  }
  return merged;
}
