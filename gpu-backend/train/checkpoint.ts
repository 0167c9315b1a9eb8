import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { sha256File, sha256Hex } from '../io/digest.ts';
import { faultPoint } from '../io/fault-point.ts';
import { readSafetensors } from '../io/safetensors.ts';
import { replaceFile, type WritableTensor, writeSafetensors } from '../io/safetensors-write.ts';
import { toFloat32 } from '../io/tensor.ts';
import type { ParameterState } from './state.ts';

/** What is kept of a run beside the tensors. Whatever a trainer needs to go on exactly where it was. */
export interface Progress {
  /** Optimizer steps made. */
  readonly step: number;
  /** Steps left out because of a non-finite loss or gradient, and steps that a rollback undid. */
  readonly skipped: number;
  /** Position in the training data, in the data source's own unit. */
  readonly cursor: number;
  /** Steps left out since the last one that was made. Default 0. */
  readonly skippedInARow?: number;
  /** Number (`numberOf`) of the newest regular checkpoint whose last step was made: where a rollback goes to. Default 0, the start. */
  readonly good?: number;
  /** Factor on the learning rate since the rollback, of which there is one at most. */
  readonly rateScale?: number;
  /** Micro-batches were made smaller for want of memory: tokens of one since then. */
  readonly microBatchTokens?: number;
  /** Free values of the caller, e.g. elapsed time. */
  readonly extra?: Readonly<Record<string, unknown>>;
}

/** Number of the last step: those made and those left out. */
export const numberOf = ({ step, skipped }: Progress): number => step + skipped;

interface Manifest {
  readonly format: typeof FORMAT;
  readonly progress: Progress;
  readonly files: readonly { readonly name: string; readonly bytes: number; readonly sha256: string }[];
}

const FORMAT = 'mantis-checkpoint-2';
/** Parameters and moments, in a checkpoint's folder. */
export const STATE_FILE = 'state.safetensors';
const MANIFEST_FILE = 'manifest.json';
const FOLDER = /^step-(\d{8})$/;
/** Folders of saves that did not come to their end. */
const UNFINISHED = /^\.step-\d{8}-.*\.tmp$/;

export const checkpointName = (step: number): string => `step-${String(step).padStart(8, '0')}`;

/** A checkpoint is damaged, incomplete or not of this run. Nothing of it was taken. */
export class CheckpointError extends Error {
  override readonly name = 'CheckpointError';
}

/** A parameter or moment is not a finite number; such a state is never saved. */
export class NonFiniteState extends Error {
  override readonly name = 'NonFiniteState';
}

export interface SaveOptions {
  /** Newest checkpoints to leave in place; older ones are removed afterwards. Default 2. */
  readonly keep?: number;
  /** Numbers of older ones that stay too. */
  readonly alsoKeep?: readonly number[];
  /** Number in the folder's name. Default: that of the last step. */
  readonly number?: number;
  /** Writes further files of the checkpoint (e.g. servable weights) into the temporary folder. */
  readonly addFiles?: (folder: string) => Promise<void>;
}

/**
 * Saves parameters, moments and progress as `folder/step-XXXXXXXX/`. The folder appears under its name only when complete: files are
 * written and synced in a temporary folder, the manifest with their hashes last, then the folder is renamed. One process saves into
 * a folder at a time: what an earlier one left unfinished is removed.
 *
 * @returns path of the checkpoint
 * @throws NonFiniteState, or the system's error; what was there before is as it was, and no temporary folder stays
 */
export async function saveCheckpoint(
  folder: string,
  state: ParameterState,
  progress: Progress,
  options: SaveOptions = {},
): Promise<string> {
  const broken = state.nonFinite();
  if (broken !== undefined) throw new NonFiniteState(`${broken} is not finite after step ${numberOf(progress)}`);
  const number = options.number ?? numberOf(progress);
  const final = join(folder, checkpointName(number));
  const temporary = join(folder, `.${checkpointName(number)}-${process.pid}.tmp`);
  await mkdir(folder, { recursive: true });
  await removeUnfinished(folder);
  try {
    await mkdir(temporary);
    await writeSafetensors(join(temporary, STATE_FILE), tensorsOf(state));
    await options.addFiles?.(temporary);
    const files: Manifest['files'][number][] = [];
    for (const name of (await readdir(temporary)).sort()) {
      const path = join(temporary, name);
      files.push({ name, bytes: (await stat(path)).size, sha256: await sha256File(path) });
    }
    const manifest: Manifest = { format: FORMAT, progress, files };
    faultPoint('checkpoint.manifest');
    await replaceFile(join(temporary, MANIFEST_FILE), async (file) => {
      faultPoint('file.write');
      await file.writeFile(manifestText(manifest));
    });
    faultPoint('checkpoint.rename');
    await giveName(temporary, final, files);
    faultPoint('checkpoint.named');
    await syncFolder(folder);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
  faultPoint('checkpoint.prune');
  await removeOld(folder, options.keep ?? 2, options.alsoKeep ?? []);
  return final;
}

function tensorsOf(state: ParameterState): [string, WritableTensor][] {
  return state.parameters.flatMap((p) => {
    const entry = (kind: string, data: Float32Array): [string, WritableTensor] => [
      `${kind}.${p.name}`,
      { dtype: 'f32', shape: p.shape, data },
    ];
    return [
      entry('value', p.value),
      entry('first', p.firstMoment),
      entry('second', p.secondMoment),
      ...(p.average === undefined ? [] : [entry('average', p.average)]),
    ];
  });
}

/** The manifest and, in its last line, the SHA-256 of all before it: a flipped bit in a number would be a number too. */
function manifestText(manifest: Manifest): string {
  const text = `${JSON.stringify(manifest, null, 1)}\n`;
  return `${text}${sha256Hex(text)}\n`;
}

/**
 * A checkpoint of this number may be there: a damaged one, or that of a try that ended right after it. The same files again are not
 * worth the moment in which there would be neither.
 */
async function giveName(temporary: string, final: string, files: Manifest['files']): Promise<void> {
  const present = await readManifest(final).catch(() => undefined);
  if (present !== undefined && JSON.stringify(present.files) === JSON.stringify(files)) {
    const isWhole = await verifyCheckpoint(final).then(
      () => true,
      () => false,
    );
    if (isWhole) return await rm(temporary, { recursive: true, force: true });
  }
  await rm(final, { recursive: true, force: true });
  await rename(temporary, final);
}

async function removeUnfinished(folder: string): Promise<void> {
  for (const name of await readdir(folder))
    if (UNFINISHED.test(name)) await rm(join(folder, name), { recursive: true, force: true });
}

async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function removeOld(folder: string, keep: number, alsoKeep: readonly number[]): Promise<void> {
  for (const step of (await checkpointSteps(folder)).slice(Math.max(1, keep)))
    if (!alsoKeep.includes(step)) await rm(join(folder, checkpointName(step)), { recursive: true, force: true });
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

/** @throws CheckpointError when it is not the text that was written */
async function readManifest(path: string): Promise<Manifest> {
  const at = join(path, MANIFEST_FILE);
  const text = await readFile(at, 'utf8').catch((error: Error) => {
    throw new CheckpointError(`${at}: ${error.message}`);
  });
  const end = text.lastIndexOf('\n', text.length - 2) + 1;
  if (end <= 0 || text.slice(end) !== `${sha256Hex(text.slice(0, end))}\n`)
    throw new CheckpointError(`${at}: its last line is not the SHA-256 of what is before it`);
  const manifest = JSON.parse(text.slice(0, end)) as Manifest;
  if (manifest.format !== FORMAT)
    throw new CheckpointError(`${at}: expected format ${FORMAT}, got ${String(manifest.format)}`);
  return manifest;
}

/**
 * Reads every byte of a checkpoint and compares it with what was written.
 * @throws CheckpointError that says which file is missing or changed
 */
export async function verifyCheckpoint(path: string): Promise<Progress> {
  const { progress, files } = await readManifest(path);
  if (!files.some(({ name }) => name === STATE_FILE))
    throw new CheckpointError(`${path}: its manifest does not name ${STATE_FILE}`);
  for (const file of files) {
    const at = join(path, file.name);
    const found = await stat(at).catch(() => undefined);
    if (found === undefined || !found.isFile()) throw new CheckpointError(`${at}: the file is missing`);
    if (found.size !== file.bytes) throw new CheckpointError(`${at}: expected ${file.bytes} bytes, got ${found.size}`);
    if ((await sha256File(at)) !== file.sha256)
      throw new CheckpointError(`${at}: its SHA-256 differs from the manifest`);
  }
  return progress;
}

/**
 * Restores a checkpoint into a state of the same parameters.
 * @throws CheckpointError when a file is damaged, or a tensor is missing or of another shape; the state is unchanged then
 */
export async function loadCheckpoint(path: string, state: ParameterState): Promise<Progress> {
  const progress = await verifyCheckpoint(path);
  const tensors = readSafetensors(join(path, STATE_FILE));
  const read = (name: string, shape: readonly number[]): Float32Array => {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw new CheckpointError(`${path}: tensor ${name} is missing`);
    if (tensor.shape.join() !== shape.join())
      throw new CheckpointError(
        `${path}: tensor ${name} has shape [${tensor.shape.join()}], this run needs [${shape.join()}]`,
      );
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
 * The newest checkpoint of a folder that is whole. Damaged ones are reported and passed over.
 * @returns undefined when there is none
 */
export async function newestCheckpoint(
  folder: string,
  onDamaged: (path: string, reason: Error) => void = () => {},
): Promise<{ readonly path: string; readonly progress: Progress } | undefined> {
  for (const step of await checkpointSteps(folder)) {
    const path = join(folder, checkpointName(step));
    try {
      return { path, progress: await verifyCheckpoint(path) };
    } catch (error) {
      onDamaged(path, error instanceof Error ? error : new Error(String(error)));
    }
  }
  return undefined;
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
