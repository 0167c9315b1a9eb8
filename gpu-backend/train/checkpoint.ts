import { createHash } from 'node:crypto';
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { sha256File } from '../io/digest.ts';
import { readSafetensors } from '../io/safetensors.ts';
import { replaceFile, type WritableTensor, writeSafetensors } from '../io/safetensors-write.ts';
import { toFloat32 } from '../io/tensor.ts';
import type { ParameterState } from './state.ts';

/** What is kept of a run beside the tensors. Whatever a trainer needs to go on exactly where it was. */
export interface Progress {
  /** Optimizer steps made. */
  readonly step: number;
  /** Steps left out because of a non-finite gradient. */
  readonly skipped: number;
  /** Position in the training data, in the data source's own unit. */
  readonly cursor: number;
  /** Free values of the caller, e.g. elapsed time. */
  readonly extra?: Readonly<Record<string, unknown>>;
}

interface Manifest {
  readonly format: 'mantis-checkpoint-1';
  readonly progress: Progress;
  readonly files: readonly { readonly name: string; readonly bytes: number; readonly sha256: string }[];
}

const STATE_FILE = 'state.safetensors';
const MANIFEST_FILE = 'manifest.json';
const FOLDER = /^step-(\d{8})$/;

export const checkpointName = (step: number): string => `step-${String(step).padStart(8, '0')}`;

/**
 * Saves parameters, moments and progress as `folder/step-XXXXXXXX/`. The folder appears under its name only when complete: files are
 * written and synced in a temporary folder, the manifest with their hashes last, then the folder is renamed.
 *
 * @param keep newest checkpoints to leave in place; older ones are removed afterwards
 * @param addFiles writes further files of the checkpoint (e.g. servable weights) into the temporary folder
 * @returns path of the checkpoint
 */
export async function saveCheckpoint(
  folder: string,
  state: ParameterState,
  progress: Progress,
  options: { readonly keep?: number; readonly addFiles?: (folder: string) => Promise<void> } = {},
): Promise<string> {
  const final = join(folder, checkpointName(progress.step));
  const temporary = join(folder, `.${checkpointName(progress.step)}-${process.pid}.tmp`);
  await rm(temporary, { recursive: true, force: true });
  await mkdir(temporary, { recursive: true });
  try {
    const tensors: [string, WritableTensor][] = state.parameters.flatMap((p) => {
      const entries: [string, WritableTensor][] = [
        [`value.${p.name}`, { dtype: 'f32', shape: p.shape, data: p.value }],
        [`first.${p.name}`, { dtype: 'f32', shape: p.shape, data: p.firstMoment }],
        [`second.${p.name}`, { dtype: 'f32', shape: p.shape, data: p.secondMoment }],
      ];
      if (p.average !== undefined)
        entries.push([`average.${p.name}`, { dtype: 'f32', shape: p.shape, data: p.average }]);
      return entries;
    });
    await writeSafetensors(join(temporary, STATE_FILE), tensors);
    await options.addFiles?.(temporary);
    const files: Manifest['files'][number][] = [];
    for (const name of (await readdir(temporary)).sort()) {
      const path = join(temporary, name);
      files.push({ name, bytes: (await stat(path)).size, sha256: await sha256File(path) });
    }
    const manifest: Manifest = { format: 'mantis-checkpoint-1', progress, files };
    await replaceFile(join(temporary, MANIFEST_FILE), async (file) => {
      await file.writeFile(`${JSON.stringify(manifest, null, 1)}\n`);
    });
    await rm(final, { recursive: true, force: true });
    await rename(temporary, final);
    await syncFolder(folder);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
  await removeOld(folder, options.keep ?? 2);
  return final;
}

async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function removeOld(folder: string, keep: number): Promise<void> {
  for (const step of (await checkpointSteps(folder)).slice(keep))
    await rm(join(folder, checkpointName(step)), { recursive: true, force: true });
}

/** Steps of the checkpoints in a folder, newest first; [] when there is no such folder. */
export async function checkpointSteps(folder: string): Promise<number[]> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  return names
    .flatMap((name) => {
      const match = FOLDER.exec(name);
      return match === null ? [] : [Number(match[1])];
    })
    .sort((a, b) => b - a);
}

/** @throws Error that says which file is missing or changed */
export async function verifyCheckpoint(path: string): Promise<Progress> {
  const manifest = JSON.parse(await readFile(join(path, MANIFEST_FILE), 'utf8')) as Manifest;
  if (manifest.format !== 'mantis-checkpoint-1')
    throw new Error(`${path}: expected format mantis-checkpoint-1, got ${String(manifest.format)}`);
  for (const file of manifest.files) {
    const { size } = await stat(join(path, file.name));
    if (size !== file.bytes) throw new Error(`${path}/${file.name}: expected ${file.bytes} bytes, got ${size}`);
    if ((await sha256File(join(path, file.name))) !== file.sha256)
      throw new Error(`${path}/${file.name}: its SHA-256 differs from the manifest`);
  }
  return manifest.progress;
}

/**
 * Restores a checkpoint into a state of the same parameters.
 * @throws Error when a file is damaged, or a tensor is missing or of another shape; the state is unchanged then
 */
export async function loadCheckpoint(path: string, state: ParameterState): Promise<Progress> {
  const progress = await verifyCheckpoint(path);
  const tensors = readSafetensors(join(path, STATE_FILE));
  const read = (name: string, shape: readonly number[]): Float32Array => {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw new Error(`${path}: tensor ${name} is missing`);
    if (tensor.shape.join() !== shape.join())
      throw new Error(`${path}: tensor ${name} has shape [${tensor.shape.join()}], this run needs [${shape.join()}]`);
    return toFloat32(tensor);
  };
  const restored = state.parameters.flatMap((p) => {
    const pairs: [Float32Array, Float32Array][] = [
      [p.value, read(`value.${p.name}`, p.shape)],
      [p.firstMoment, read(`first.${p.name}`, p.shape)],
      [p.secondMoment, read(`second.${p.name}`, p.shape)],
    ];
    if (p.average !== undefined) pairs.push([p.average, read(`average.${p.name}`, p.shape)]);
    return pairs;
  });
  for (const [target, source] of restored) target.set(source);
  state.step = progress.step;
  return progress;
}

/**
 * Restores the newest checkpoint that is whole. Damaged ones are reported and passed over.
 * @returns undefined when there is none
 */
export async function loadNewestCheckpoint(
  folder: string,
  state: ParameterState,
  onDamaged: (path: string, reason: Error) => void = () => {},
): Promise<{ path: string; progress: Progress } | undefined> {
  for (const step of await checkpointSteps(folder)) {
    const path = join(folder, checkpointName(step));
    try {
      return { path, progress: await loadCheckpoint(path, state) };
    } catch (error) {
      onDamaged(path, error instanceof Error ? error : new Error(String(error)));
    }
  }
  return undefined;
}

/** SHA-256 over all parameter values, in order of names: equal exactly when two runs ended bit for bit the same. */
export function digestParameters(state: ParameterState): string {
  const hash = createHash('sha256');
  for (const p of [...state.parameters].sort((a, b) => (a.name < b.name ? -1 : 1)))
    hash.update(`${p.name}\n`).update(new Uint8Array(p.value.buffer, p.value.byteOffset, p.value.byteLength));
  return hash.digest('hex');
}
