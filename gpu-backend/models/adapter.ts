import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openSafetensors } from '../io/safetensors.ts';
import { replaceFile, writeSafetensors } from '../io/safetensors-write.ts';
import { fromFloat32, toFloat32 } from '../io/tensor.ts';
import { f32, type Tensor } from '../runtime/session.ts';
import type { VlmConfig } from './config.ts';
import type { WeightMap } from './load.ts';
import { canonicalName, peftName } from './names.ts';
import { forwardGraph } from './vlm.ts';
import { LLAMA_LINEARS, type LoraSpec } from './weights.ts';

export interface Adapter {
  readonly lora: LoraSpec;
  /** `<module>.lora_A.weight` [r, in] and `<module>.lora_B.weight` [out, r] by canonical name. */
  readonly weights: WeightMap;
}

/** Adapter weights that a model with this LoRA reads: canonical name → shape. */
export function expectedAdapterWeights(config: VlmConfig, lora: LoraSpec): ReadonlyMap<string, readonly number[]> {
  const all = forwardGraph(config, { images: 'features', lora }).weights;
  return new Map([...all].filter(([name]) => /\.lora_[AB]\.weight$/.test(name)));
}

/**
 * PEFT's `target_modules` → the linear layers it names. A list holds suffixes; a string is a Python regular expression over
 * whole module names, tried against every linear of a block of the language model.
 */
function parseTargets(value: unknown): string[] {
  if (Array.isArray(value)) {
    const unknown = value.filter((v) => !LLAMA_LINEARS.some((l) => l === v));
    if (unknown.length > 0)
      throw new Error(
        `adapter_config.json: target_modules names ${JSON.stringify(unknown)}; supported are ${LLAMA_LINEARS.join(', ')}`,
      );
    return LLAMA_LINEARS.filter((l) => value.includes(l));
  }
  if (typeof value !== 'string')
    throw new Error(`adapter_config.json: target_modules must be a list or a string, got ${JSON.stringify(value)}`);
  if (value === 'all-linear') return [...LLAMA_LINEARS];
  if (value.length > 500) throw new Error('adapter_config.json: target_modules is longer than 500 characters');
  // No evaluation of a stranger's expression: a layer is a target when its name stands in it.
  const named = LLAMA_LINEARS.filter((l) => new RegExp(`(^|[^a-z_])${l}([^a-z_]|$)`).test(value));
  if (named.length === 0)
    throw new Error(
      `adapter_config.json: target_modules ${JSON.stringify(value)} names none of ${LLAMA_LINEARS.join(', ')}`,
    );
  return named;
}

/**
 * Loads a PEFT LoRA folder (`adapter_config.json`, `adapter_model.safetensors`).
 * @throws Error when the adapter uses an option that changes the computation and is not supported, or does not fit the model.
 */
export function loadAdapter(dir: string, config: VlmConfig): Adapter {
  const json = JSON.parse(readFileSync(join(dir, 'adapter_config.json'), 'utf8')) as Record<string, unknown>;
  if (json.peft_type !== 'LORA')
    throw new Error(`adapter_config.json: peft_type must be LORA, got ${JSON.stringify(json.peft_type)}`);
  for (const flag of ['use_dora', 'fan_in_fan_out', 'lora_bias', 'use_qalora', 'use_bdlora'])
    if (json[flag] === true) throw new Error(`adapter_config.json: ${flag} is not supported`);
  for (const key of ['rank_pattern', 'alpha_pattern'])
    if (Object.keys((json[key] as object | null | undefined) ?? {}).length > 0)
      throw new Error(`adapter_config.json: ${key} is not supported`);
  if (json.modules_to_save !== undefined && json.modules_to_save !== null) {
    throw new Error('adapter_config.json: modules_to_save is not supported');
  }
  const { r, lora_alpha: alpha } = json;
  if (typeof r !== 'number' || !Number.isInteger(r) || r < 1)
    throw new Error(`adapter_config.json: r must be a positive integer, got ${JSON.stringify(r)}`);
  if (typeof alpha !== 'number')
    throw new Error(`adapter_config.json: lora_alpha must be a number, got ${JSON.stringify(alpha)}`);
  // rsLoRA scales by alpha / sqrt(r); folded into alpha so that alpha / r is right.
  const lora: LoraSpec = {
    r,
    alpha: json.use_rslora === true ? alpha * Math.sqrt(r) : alpha,
    targets: parseTargets(json.target_modules),
  };
  const expected = expectedAdapterWeights(config, lora);
  const store = openSafetensors(dir);
  try {
    const weights: WeightMap = new Map();
    const unexpected: string[] = [];
    for (const [stored, tensor] of store.tensors) {
      const name = canonicalName(stored);
      const shape = expected.get(name);
      if (shape === undefined) unexpected.push(stored);
      else if (shape.join() !== tensor.shape.join())
        throw new Error(`adapter tensor ${stored} is [${tensor.shape}], the model needs [${shape}]`);
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

/** Writes a folder that PEFT can load onto the same base model. */
export async function writeAdapter(dir: string, adapter: Adapter, baseModel: string | null = null): Promise<void> {
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
    target_modules: `.*language_model.*\\.(${adapter.lora.targets.join('|')})`,
  };
  await replaceFile(join(dir, 'adapter_config.json'), async (file) => {
    await file.writeFile(`${JSON.stringify(config, null, 2)}\n`);
  });
  await writeSafetensors(
    join(dir, 'adapter_model.safetensors'),
    [...adapter.weights].map(
      ([name, tensor]) => [peftName(name), fromFloat32(tensor.data as Float32Array, tensor.shape)] as const,
    ),
    { format: 'pt' },
  );
}

/**
 * Base weights with the adapter's update folded in, W + (alpha / r) · B A, so that serving needs no extra products.
 * Tensors without an adapter are shared with `base`.
 */
export function mergeAdapter(base: ReadonlyMap<string, Tensor>, adapter: Adapter): WeightMap {
  const merged: WeightMap = new Map(base);
  const { r, alpha } = adapter.lora;
  for (const [name, a] of adapter.weights) {
    if (!name.endsWith('.lora_A.weight')) continue;
    const module = name.slice(0, -'.lora_A.weight'.length);
    const b = adapter.weights.get(`${module}.lora_B.weight`);
    const weight = base.get(`${module}.weight`);
    if (b === undefined || weight === undefined)
      throw new Error(`adapter tensor ${name} has no partner or no base weight`);
    const [out, width] = weight.shape as [number, number];
    const [A, B] = [a.data as Float32Array, b.data as Float32Array];
    const W = Float32Array.from(weight.data as Float32Array);
    for (let o = 0; o < out; o++)
      for (let k = 0; k < r; k++) {
        const factor = ((B[o * r + k] ?? 0) * alpha) / r;
        for (let i = 0; i < width; i++) W[o * width + i] = (W[o * width + i] ?? 0) + factor * (A[k * width + i] ?? 0);
      }
    merged.set(`${module}.weight`, f32(W, weight.shape));
  }
  return merged;
}
