import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { readSafetensors } from '../io/safetensors.ts';
import { type RawTensor, toFloat32, toInt32 } from '../io/tensor.ts';
import { f32, ints, type Tensor } from '../runtime/session.ts';
import { type Adapter, loadAdapter } from './adapter.ts';
import { type Checkpoint, loadCheckpoint } from './load.ts';
import { type PictureCase, type ReferencePictures, referencePictures } from './verify-pictures.ts';
import { causalBias } from './vlm.ts';

/** Losses and global gradient norms of three AdamW steps. */
export interface TrainTrace {
  readonly loss: readonly number[];
  readonly grad_norm: readonly number[];
}

interface CaseFile extends PictureCase {
  readonly greedy_prompt_tokens?: number;
  readonly tolerance: { readonly logits_abs: number; readonly loss_rel?: number; readonly train_rel?: number };
  readonly train?: Readonly<Record<string, TrainTrace>>;
}

/** A reference folder: checkpoint, optional adapter (`DIR-lora`), one padded batch, and what the reference gave for it. */
export interface ReferenceCase {
  readonly name: string;
  readonly file: CaseFile;
  readonly checkpoint: Checkpoint;
  readonly adapter: Adapter | undefined;
  readonly rows: number;
  readonly length: number;
  readonly ids: Int32Array;
  readonly attended: Int32Array;
  readonly pictures: ReferencePictures;
  /** Flat positions that predict a supervised token, and those tokens; none where the case has no labels. */
  readonly supervised: { readonly rows: readonly number[]; readonly targets: readonly number[] };
  readonly expected: ReadonlyMap<string, RawTensor>;
}

function tensorOf(tensors: ReadonlyMap<string, RawTensor>, name: string, dir: string): RawTensor {
  const tensor = tensors.get(name);
  if (tensor === undefined)
    throw new Error(`${dir}: expected a tensor "${name}", the file has ${[...tensors.keys()].join(', ')}`);
  return tensor;
}

export function expectedFloats(reference: ReferenceCase, name: string): Float32Array {
  return toFloat32(tensorOf(reference.expected, name, reference.name));
}

/** Reads a reference folder (config.json, safetensors, inputs.safetensors, expected.safetensors, case.json). */
export function readReferenceCase(dir: string): ReferenceCase {
  const file = JSON.parse(readFileSync(join(dir, 'case.json'), 'utf8')) as CaseFile;
  const loaded = loadCheckpoint(dir);
  const inputs = readSafetensors(join(dir, 'inputs.safetensors'));
  const idTensor = tensorOf(inputs, 'input_ids', dir);
  const [rows = 0, length = 0] = idTensor.shape;
  const ids = toInt32(idTensor);
  const labels = inputs.has('labels')
    ? toInt32(tensorOf(inputs, 'labels', dir))
    : new Int32Array(ids.length).fill(-100);
  const supervised = { rows: [] as number[], targets: [] as number[] };
  for (let i = 0; i < rows * length; i++) {
    const next = labels[i + 1];
    if ((i + 1) % length === 0 || next === undefined || next === -100) continue;
    supervised.rows.push(i);
    supervised.targets.push(next);
  }
  const pictures = referencePictures(loaded.config, file, ids, (name) => tensorOf(inputs, name, dir));
  const checkpoint = { ...loaded, config: pictures.config };
  const adapterDir = `${dir.replace(/\/+$/, '')}-lora`;
  return {
    name: dir,
    file,
    checkpoint,
    adapter: existsSync(adapterDir) ? loadAdapter(adapterDir, checkpoint.config) : undefined,
    rows,
    length,
    ids,
    attended: toInt32(tensorOf(inputs, 'attention_mask', dir)),
    pictures,
    supervised,
    expected: readSafetensors(join(dir, 'expected.safetensors')),
  };
}

/** Feeds of the case's batch for a forward or training graph with pixels, a key bias and one causal block. */
export function batchFeeds(reference: ReferenceCase): Record<string, Tensor> {
  const { rows, length, ids, pictures } = reference;
  return {
    ids: ints(ids, [rows, length]),
    positions: ints(
      Array.from(ids, (_, i) => i % length),
      [rows, length],
    ),
    causal_bias: f32(causalBias(length, 1, pictures.config.text.slidingWindow), [length, length]),
    key_bias: f32(
      Float32Array.from(reference.attended, (seen) => (seen === 0 ? -1e9 : 0)),
      [rows, 1, 1, length],
    ),
    ...pictures.feeds,
    image_rows: ints(pictures.slotRows, [pictures.slotRows.length]),
  };
}

/** Feeds `rows`, `targets`, `weights` of the mean cross-entropy over the case's labels. */
export function supervisionFeeds(reference: ReferenceCase): Record<string, Tensor> {
  const { rows, targets } = reference.supervised;
  return {
    rows: ints(rows, [rows.length]),
    targets: ints(targets, [rows.length]),
    weights: f32(new Float32Array(rows.length).fill(1 / rows.length), [rows.length]),
  };
}

/** The weights a graph declares, by name. @throws when one is absent. */
export function weightFeeds(
  declared: ReadonlyMap<string, readonly number[]>,
  weights: ReadonlyMap<string, Tensor>,
): Record<string, Tensor> {
  return Object.fromEntries(
    [...declared.keys()].map((name) => {
      const tensor = weights.get(name);
      if (tensor === undefined) throw new Error(`the graph reads weight ${name}, which was not loaded`);
      return [name, tensor];
    }),
  );
}

export function maxAbsoluteDifference(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let max = 0;
  for (let i = 0; i < a.length; i++) {
    const d = Math.abs((a[i] ?? Number.NaN) - (b[i] ?? Number.NaN));
    if (!(d <= max)) max = d;
  }
  return max;
}

export function maxAbsolute(a: Float32Array): number {
  return a.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
}
