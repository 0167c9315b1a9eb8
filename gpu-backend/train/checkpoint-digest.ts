import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { digestTensors, sha256Hex } from '../io/digest.ts';
import { readSafetensors } from '../io/safetensors.ts';
import { type Progress, STATE_FILE, verifyCheckpoint } from './checkpoint.ts';
import type { ParameterState } from './state.ts';

/** Digests of a checkpoint on disk. Two are equal exactly when names, shapes and every bit of the numbers are. */
export interface CheckpointDigest {
  readonly progress: Progress;
  /** Of all trained parameters. */
  readonly weights: string;
  /** Of both moments of every parameter, moving averages where there are any, and the count of updates. */
  readonly optimizer: string;
  readonly parameters: number;
}

/** @throws CheckpointError when it is not whole */
export async function digestCheckpoint(path: string): Promise<CheckpointDigest> {
  const progress = await verifyCheckpoint(path);
  const tensors = [...readSafetensors(join(path, STATE_FILE))];
  const values = tensors.filter(([name]) => name.startsWith('value.'));
  const rest = tensors.filter(([name]) => !name.startsWith('value.'));
  return {
    progress,
    weights: digestTensors(values),
    optimizer: sha256Hex(`${progress.step} ${digestTensors(rest)}`),
    parameters: values.reduce((sum, [, { shape }]) => sum + shape.reduce((a, b) => a * b, 1), 0),
  };
}

/** SHA-256 over all parameter values, in order of names: equal exactly when two runs ended bit for bit the same. */
export function digestParameters(state: ParameterState): string {
  const hash = createHash('sha256');
  for (const p of [...state.parameters].sort((a, b) => (a.name < b.name ? -1 : 1)))
    hash.update(`${p.name}\n`).update(new Uint8Array(p.value.buffer, p.value.byteOffset, p.value.byteLength));
  return hash.digest('hex');
}
