import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { openSafetensors } from '../io/safetensors.ts';
import { writeSafetensors } from '../io/safetensors-write.ts';
import { fromFloat32, toFloat32 } from '../io/tensor.ts';
import { mergeAdapter, writeAdapter } from '../models/adapter.ts';
import { f32, type Tensor } from '../runtime/session.ts';
import type { BaseModel } from './base-model.ts';
import { modelPartOf, type StagePlan } from './stage-plan.ts';
import type { ParameterState } from './state.ts';

const CHANGED_FILE = 'model.safetensors';

export type Values = ReadonlyMap<string, Float32Array>;

/** The model that the next stage starts from: what this one trained is part of its weights, adapters folded in. */
export function afterStage(base: BaseModel, { lora }: StagePlan, state: ParameterState): BaseModel {
  const changed = new Map<string, Tensor>();
  const adapter = new Map<string, Tensor>();
  // Copies: the state's memory ends with the stage.
  for (const { name, value, shape } of state.parameters)
    (modelPartOf(name) === 'adapters' ? adapter : changed).set(name, f32(Float32Array.from(value), shape));
  let weights = new Map([...base.weights, ...changed]);
  if (lora !== undefined) weights = mergeAdapter(weights, { lora, weights: adapter });
  const carried = new Set(base.carried);
  for (const [name, tensor] of weights) if (base.weights.get(name) !== tensor) carried.add(name);
  return { ...base, weights, carried: [...carried] };
}

/**
 * Puts what earlier stages changed back into a base model, from a checkpoint of a later stage. What the checkpoint's own stage
 * trains is left as it is: that comes with the state.
 * @throws Error naming a tensor that does not fit
 */
export function withChanges(base: BaseModel, dir: string): BaseModel {
  const trained = new Set([...readTensors(join(dir, 'state.safetensors'))].map(([name]) => name));
  const weights = new Map(base.weights);
  const carried = new Set(base.carried);
  let hasChanged = false;
  for (const [name, tensor] of readTensors(join(dir, CHANGED_FILE))) {
    if (trained.has(`value.${name}`)) continue;
    const known = base.weights.get(name);
    if (known === undefined || known.shape.join() !== tensor.shape.join())
      throw new Error(`${dir}: ${name} is [${tensor.shape}], the base model has [${known?.shape ?? 'no such weight'}]`);
    weights.set(name, tensor);
    carried.add(name);
    hasChanged = true;
  }
  // The same model as before, which other jobs may be reading too.
  if (!hasChanged) return base;
  return { ...base, weights, carried: [...carried] };
}

/** Writes what serving needs: a PEFT adapter, or the changed tensors under canonical names, or both. */
export async function writeTuned(
  dir: string,
  base: BaseModel,
  { lora }: StagePlan,
  state: ParameterState,
): Promise<void> {
  const changed = new Map<string, Tensor>();
  for (const name of base.carried) {
    const tensor = base.weights.get(name);
    if (tensor !== undefined) changed.set(name, tensor);
  }
  const adapter = new Map<string, Tensor>();
  for (const { name, value, shape } of state.parameters)
    (modelPartOf(name) === 'adapters' ? adapter : changed).set(name, f32(value, shape));
  if (lora !== undefined) await writeAdapter(dir, { lora, weights: adapter }, { family: base.config.family });
  if (changed.size > 0) await writeTensors(join(dir, CHANGED_FILE), changed);
}

/** Values that are kept beside a checkpoint's own: `start`, with which the stage began, and `best`, of the best measurement so far. */
export type KeptValues = 'start' | 'best';

export async function writeValues(dir: string, kind: KeptValues, values: Values, state: ParameterState): Promise<void> {
  // With a prefix, so that nobody takes them for weights of the model.
  const tensors = [...values].map(([name, value]) => [`${kind}.${name}`, f32(value, state.get(name).shape)] as const);
  await writeTensors(join(dir, `${kind}.safetensors`), new Map(tensors));
}

export function readValues(dir: string, kind: KeptValues): Values | undefined {
  const path = join(dir, `${kind}.safetensors`);
  if (!existsSync(path)) return undefined;
  return new Map([...readTensors(path)].map(([name, { data }]) => [name.slice(kind.length + 1), data as Float32Array]));
}

function* readTensors(path: string): Generator<[string, Tensor]> {
  if (!existsSync(path)) return;
  const store = openSafetensors(path);
  try {
    for (const [name, tensor] of store.tensors) yield [name, f32(toFloat32(tensor.read()), tensor.shape)];
  } finally {
    store.close();
  }
}

async function writeTensors(path: string, tensors: ReadonlyMap<string, Tensor>): Promise<void> {
  await writeSafetensors(
    path,
    [...tensors].map(([name, t]) => [name, fromFloat32(t.data as Float32Array, t.shape)] as const),
    { format: 'pt' },
  );
}
