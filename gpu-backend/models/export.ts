import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type BlockFormat, dequantizeRow } from '../io/quantize.ts';
import { openSafetensors, type StoredTensor } from '../io/safetensors.ts';
import { SafetensorsStream } from '../io/safetensors-stream.ts';
import { replaceFile } from '../io/safetensors-write.ts';
import { bytesOf, convertFloats, DTYPE_BYTES } from '../io/tensor.ts';
import type { VlmConfig } from './config.ts';
import { familyOf } from './family.ts';
import { copyCompanions } from './import.ts';
import { expectedWeights, openCheckpoint, readConfig } from './load.ts';
import { readManifest, WEIGHTS_NAME } from './manifest.ts';
import { storedName } from './names.ts';
import { PACKED_SUFFIX, partOf, SCALE_SUFFIX } from './storage.ts';

export type ExportDtype = 'f32' | 'f16' | 'bf16';

export interface ExportOptions {
  /** An imported model folder or a checkpoint folder. */
  readonly from: string;
  /** Must not exist or be empty. */
  readonly out: string;
  readonly dtype: ExportDtype;
  readonly onProgress?: (doneBytes: number, totalBytes: number, tensor: string) => void;
}

export interface ExportResult {
  readonly tensors: number;
  readonly bytes: number;
  /** Weights that were quantised and are now the values the quantised ones stand for. */
  readonly dequantized: number;
  /** Tensors of published checkpoints that nothing reads and that the import left out; loaders may miss them. */
  readonly leftOut: number;
}

/** One tensor of the new file. */
interface ExportStep {
  /** As the family's checkpoints call it. */
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: StoredTensor;
  /** Of quantised `values`. */
  readonly blocks?: { readonly format: BlockFormat; readonly scales: StoredTensor };
}

/** Weights are read in pieces of at most this much. */
const PIECE_BYTES = 8 << 20;
const TORCH_DTYPE = { f32: 'float32', f16: 'float16', bf16: 'bfloat16' } as const;

/**
 * Writes a Hugging Face checkpoint folder (`config.json`, one `model.safetensors` under the published names, tokenizer and
 * settings), piece by piece. Quantised weights become the values they stand for.
 * @throws Error when a value does not fit f16, or `out` holds something
 */
export async function exportCheckpoint({ from, out: target, dtype, onProgress }: ExportOptions): Promise<ExportResult> {
  const out = resolve(target);
  if (existsSync(out)) {
    if (readdirSync(out).length > 0) throw new Error(`${out} is not empty: remove it or choose another folder`);
    rmSync(out, { recursive: true });
  }
  const { steps, leftOut, close } = openSteps(from);
  try {
    const partial = `${out}.partial`;
    rmSync(partial, { recursive: true, force: true });
    mkdirSync(partial, { recursive: true });
    await copyCompanions(from, partial);
    await writeConfig(from, partial, dtype);
    const slots = steps.map(({ name, shape }) => [name, { dtype, shape }] as const);
    const stream = SafetensorsStream.open(join(partial, WEIGHTS_NAME), slots, { format: 'pt' });
    const totalBytes = steps.reduce((sum, { values }) => sum + values.byteLength, 0);
    let doneBytes = 0;
    for (const step of steps) {
      stream.expectAt(step.name);
      for (const [bytes, read] of step.blocks === undefined ? pieces(step, dtype) : dequantizedPieces(step, dtype)) {
        stream.write(bytes);
        doneBytes += read;
        onProgress?.(doneBytes, totalBytes, step.name);
        await new Promise(setImmediate);
      }
    }
    const { bytes } = await stream.finish();
    renameSync(partial, out);
    const dequantized = steps.filter(({ blocks }) => blocks !== undefined).length;
    return { tensors: steps.length, bytes, dequantized, leftOut };
  } finally {
    close();
  }
}

function openSteps(from: string): { steps: ExportStep[]; leftOut: number; close: () => void } {
  const manifest = readManifest(from);
  if (manifest !== null) {
    const config = readConfig(from);
    const store = openSafetensors(join(from, WEIGHTS_NAME));
    return {
      steps: importedSteps(config, store.tensors, manifest.storage.blockSize),
      leftOut: familyOf(config).unusedWeights(config).size,
      close: () => store.close(),
    };
  }
  const { config, used, unused, close } = openCheckpoint(from);
  const steps = [...used, ...unused].flatMap(([name, values]) =>
    values.dtype === 'i64' ? [] : [{ name: storedName(name, config.family), shape: values.shape, values }],
  );
  return { steps, leftOut: 0, close };
}

function importedSteps(config: VlmConfig, tensors: ReadonlyMap<string, StoredTensor>, blockSize: number): ExportStep[] {
  const shapes = expectedWeights(config);
  return [...shapes].map(([canonical, shape]): ExportStep => {
    const name = storedName(canonical, config.family);
    const plain = tensors.get(canonical);
    if (plain !== undefined) return { name, shape, values: plain };
    const module = canonical.replace(/\.weight$/, '');
    const [values, scales] = [tensors.get(module + PACKED_SUFFIX), tensors.get(module + SCALE_SUFFIX)];
    if (values === undefined || scales === undefined)
      throw new Error(`the imported model has no ${canonical}, of its ${partOf(canonical)}`);
    const bits = ((values.shape[2] ?? 0) * 8) / blockSize;
    if (bits !== 4 && bits !== 8)
      throw new Error(`${values.name} has ${bits} bits a value in blocks of ${blockSize}, expected 4 or 8`);
    return { name, shape, values, blocks: { format: { bits, blockSize }, scales } };
  });
}

/** Bytes to write, and how many were read for them. */
type Piece = readonly [Uint8Array, number];

function* pieces({ values }: ExportStep, dtype: ExportDtype): Generator<Piece, void, undefined> {
  const size = DTYPE_BYTES[values.dtype];
  const memory = new Uint8Array(Math.min(values.byteLength, PIECE_BYTES));
  for (let at = 0; at < values.byteLength; at += memory.byteLength) {
    const data = memory.subarray(0, Math.min(memory.byteLength, values.byteLength - at));
    values.readInto(data, at);
    yield [converted(values, data, size, dtype), data.byteLength];
  }
}

function converted({ name, dtype: from }: StoredTensor, data: Uint8Array, size: number, to: ExportDtype): Uint8Array {
  try {
    return convertFloats({ dtype: from, shape: [data.byteLength / size], data }, to);
  } catch (cause) {
    throw new Error(`${name}: ${cause instanceof Error ? cause.message : cause}: export as bf16 or f32`, { cause });
  }
}

function* dequantizedPieces(step: ExportStep, dtype: ExportDtype): Generator<Piece, void, undefined> {
  const { values, blocks, shape } = step;
  if (blocks === undefined) return;
  const { format, scales } = blocks;
  const [rows = 0, width = 0] = shape;
  const [packedBytes, scaleCount] = [values.byteLength / rows, scales.shape[1] ?? 0];
  const count = Math.min(rows, Math.max(1, Math.floor(PIECE_BYTES / (4 * width))));
  const [packed, scaleRows] = [new Uint8Array(count * packedBytes), new Float32Array(count * scaleCount)];
  const floats = new Float32Array(count * width);
  for (let first = 0; first < rows; first += count) {
    const some = Math.min(count, rows - first);
    values.readInto(packed.subarray(0, some * packedBytes), first * packedBytes);
    scales.readInto(bytesOf(scaleRows).subarray(0, some * scaleCount * 4), first * scaleCount * 4);
    for (let r = 0; r < some; r++)
      dequantizeRow(
        floats.subarray(r * width, (r + 1) * width),
        format,
        packed,
        r * packedBytes,
        scaleRows,
        r * scaleCount,
      );
    const data = bytesOf(floats).subarray(0, some * width * 4);
    yield [converted({ ...values, dtype: 'f32' }, data, 4, dtype), some * packedBytes];
  }
}

/** The model's own config.json, with the type of its weights. */
async function writeConfig(from: string, to: string, dtype: ExportDtype): Promise<void> {
  const config = JSON.parse(readFileSync(join(from, 'config.json'), 'utf8')) as Record<string, unknown>;
  const key = 'dtype' in config && !('torch_dtype' in config) ? 'dtype' : 'torch_dtype';
  await replaceFile(join(to, 'config.json'), async (file) => {
    await file.writeFile(`${JSON.stringify({ ...config, [key]: TORCH_DTYPE[dtype] }, null, 2)}\n`);
  });
}
