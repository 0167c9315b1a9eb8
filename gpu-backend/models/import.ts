import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { copyFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { sha256File, sha256Hex } from '../io/digest.ts';
import { blockSizes, Quantizers } from '../io/quantize.ts';
import type { StoredTensor } from '../io/safetensors.ts';
import { SafetensorsStream } from '../io/safetensors-stream.ts';
import { replaceFile } from '../io/safetensors-write.ts';
import { bytesOf, convertFloats, DTYPE_BYTES, toFloat32 } from '../io/tensor.ts';
import { encodeGraph, RUNTIME_VERSION } from '../runtime/session.ts';
import { type ImportPlan, type ImportStep, planImport } from './import-plan.ts';
import { openCheckpoint } from './load.ts';
import { GRAPH_NAMES, MANIFEST_NAME, type Manifest, readManifest, WEIGHTS_NAME } from './manifest.ts';
import type { Storage } from './storage.ts';

export interface ImportOptions {
  /** Checkpoint folder: config.json, safetensors, tokenizer and processor files. */
  readonly from: string;
  /** Folder of the imported model; must not exist, or be an import of the same. Work goes on in `<out>.partial` until it is whole. */
  readonly out: string;
  readonly storage: Storage;
  /** Where the folder `from` came from: hub id, and SHA-256 of its files by name. Absent: the folder is the origin. */
  readonly origin?: { readonly from: string; readonly digests: ReadonlyMap<string, string> };
  /** Bytes of weights read so far and in all. */
  readonly onProgress?: (doneBytes: number, totalBytes: number, tensor: string) => void;
  /** Stops between two pieces; the same import goes on from there. */
  readonly signal?: AbortSignal;
  /** Bytes written after which an interrupted import need not be done again. Default 256 MiB. */
  readonly syncEveryBytes?: number;
}

export interface ImportResult {
  readonly manifest: Manifest;
  /** `continued`: an interrupted import was finished; `kept`: the folder held this import already. */
  readonly outcome: 'imported' | 'continued' | 'kept';
  readonly readBytes: number;
  /** Tensors of the checkpoint that no result depends on, left out. */
  readonly unused: readonly string[];
}

/** Weights are read in pieces of at most this much. */
const PIECE_BYTES = 8 << 20;
const SYNC_EVERY_BYTES = 256 << 20;
const JOURNAL = 'import.json';

/** Files beside the weights that serving reads or that belong to the model. */
const COMPANION =
  /^(config|generation_config|(pre)?processor_config|tokenizer(_config)?|special_tokens_map|added_tokens|vocab|chat_template)\.json$|^chat_template\.jinja$|^tokenizer\.model$|^merges\.txt$|^(README|LICENSE|NOTICE|USE_POLICY)(\.(md|txt))?$/i;

/**
 * Turns a checkpoint into a local model folder: weights in the chosen precisions, graphs that read them from that file, tokenizer
 * and settings, and a manifest. Goes through the weights piece by piece, so memory does not depend on the model's size.
 * The folder appears under its name only when it is whole.
 *
 * @throws Error when the checkpoint does not fit its config, a value does not fit f16, or `out` holds something else
 */
export async function importCheckpoint(options: ImportOptions): Promise<ImportResult> {
  const { from, storage } = options;
  const out = resolve(options.out);
  const checkpoint = openCheckpoint(from);
  try {
    const plan = planImport(checkpoint.config, storage, checkpoint.used);
    const source = sourceOf(plan, options);
    const unused = [...checkpoint.unused.keys()];
    const readBytes = plan.steps.reduce((sum, step) => sum + step.source.byteLength, 0);
    if (existsSync(out)) {
      const manifest = readManifest(out);
      if (manifest !== null && sameImport(manifest, source, storage))
        return { manifest, outcome: 'kept', readBytes: 0, unused };
      if (readdirSync(out).length > 0)
        throw new Error(`${out} exists and is not this import: remove it or choose another folder`);
      rmSync(out, { recursive: true });
    }
    const partial = `${out}.partial`;
    mkdirSync(partial, { recursive: true });
    const digest = planDigest(plan, storage, from);
    const start = readJournal(partial, digest);
    const weights = await writeWeights(partial, plan, start, digest, options, readBytes);
    const companions = await copyCompanions(from, partial);
    const graphs = await writeGraphs(partial, plan, weights.stream);
    const manifest: Manifest = {
      format: 'mantis-import',
      version: 1,
      source,
      storage: { precision: storage.precision, blockSize: storage.blockSize as Manifest['storage']['blockSize'] },
      parameters: plan.parameters,
      files: [{ name: WEIGHTS_NAME, ...weights.file }, ...graphs, ...companions],
      versions: { onnxruntime: RUNTIME_VERSION, node: process.versions.node },
    };
    await writeJson(join(partial, MANIFEST_NAME), manifest);
    rmSync(join(partial, JOURNAL), { force: true });
    mkdirSync(dirname(out), { recursive: true });
    renameSync(partial, out);
    return { manifest, outcome: weights.isContinued ? 'continued' : 'imported', readBytes, unused };
  } finally {
    checkpoint.close();
  }
}

type Source = Manifest['source'];

function sourceOf(plan: ImportPlan, { from, origin }: ImportOptions): Source {
  const paths = [...new Set(plan.steps.map(({ source }) => source.path))];
  const weights = paths.map((path) => {
    const [name, { size: bytes, mtimeMs }] = [basename(path), statSync(path)];
    if (origin === undefined) return { name, bytes, modifiedAtMs: mtimeMs };
    const sha256 = origin.digests.get(name);
    return { name, bytes, ...(sha256 === undefined ? {} : { sha256 }) };
  });
  return { from: origin?.from ?? resolve(from), weights };
}

function sameImport(manifest: Manifest, source: Source, storage: Storage): boolean {
  const key = (s: Source, { precision, blockSize }: Storage): string =>
    JSON.stringify([s.from, s.weights, precision, blockSize]);
  return key(manifest.source, manifest.storage) === key(source, storage);
}

/** Names everything that the bytes of the new weight file depend on. */
function planDigest(plan: ImportPlan, storage: Storage, from: string): string {
  const paths = [...new Set(plan.steps.map(({ source }) => source.path))];
  const files = paths.map((path) => [path, statSync(path).size, statSync(path).mtimeMs]);
  return sha256Hex(JSON.stringify([resolve(from), files, storage, plan.slots]));
}

/** Steps that an interrupted import of the same has behind it. */
function readJournal(partial: string, digest: string): number {
  try {
    const journal = JSON.parse(readFileSync(join(partial, JOURNAL), 'utf8')) as { plan?: unknown; steps?: unknown };
    return journal.plan === digest && typeof journal.steps === 'number' ? journal.steps : 0;
  } catch {
    return 0; // none, or cut short: from the start
  }
}

async function writeJson(path: string, value: unknown): Promise<void> {
  await replaceFile(path, async (file) => {
    await file.writeFile(`${JSON.stringify(value, null, 2)}\n`);
  });
}

async function writeWeights(
  partial: string,
  plan: ImportPlan,
  start: number,
  digest: string,
  { onProgress, signal, syncEveryBytes = SYNC_EVERY_BYTES }: ImportOptions,
  totalBytes: number,
): Promise<{ stream: SafetensorsStream; isContinued: boolean; file: { bytes: number; sha256: string } }> {
  const wanted = plan.steps.slice(0, start).reduce((sum, step) => sum + (step.kind === 'copy' ? 1 : 2), 0);
  const stream = SafetensorsStream.open(join(partial, WEIGHTS_NAME), plan.slots, { format: 'pt' }, wanted);
  const quantizers = new Quantizers();
  try {
    const continued = stream.tensorsKept > 0 ? start : 0;
    let doneBytes = plan.steps.slice(0, continued).reduce((sum, { source }) => sum + source.byteLength, 0);
    let syncedBytes = stream.bytesWritten;
    for (const [index, step] of plan.steps.entries()) {
      if (index < continued) continue;
      stream.expectAt(firstSlot(step));
      for (const bytes of step.kind === 'copy' ? copyTensor(step, stream) : quantizeTensor(step, stream, quantizers)) {
        doneBytes += bytes;
        onProgress?.(doneBytes, totalBytes, step.source.name);
        // A turn of the event loop, in which a signal can arrive.
        await new Promise(setImmediate);
        signal?.throwIfAborted();
      }
      if (stream.bytesWritten - syncedBytes < syncEveryBytes) continue;
      await stream.sync();
      syncedBytes = stream.bytesWritten;
      await writeJson(join(partial, JOURNAL), { plan: digest, steps: index + 1 });
    }
    return { stream, isContinued: continued > 0, file: await stream.finish() };
  } catch (error) {
    stream.close();
    throw error;
  }
}

const firstSlot = (step: ImportStep): string => (step.kind === 'copy' ? step.name : step.packed);

/** Writes a tensor in f32 or f16 and yields the bytes read after each piece. */
function* copyTensor(
  { source, dtype }: Extract<ImportStep, { kind: 'copy' }>,
  stream: SafetensorsStream,
): Generator<number, void, undefined> {
  const size = DTYPE_BYTES[source.dtype];
  const piece = new Uint8Array(Math.min(source.byteLength, PIECE_BYTES));
  for (let at = 0; at < source.byteLength; at += piece.byteLength) {
    const data = piece.subarray(0, Math.min(piece.byteLength, source.byteLength - at));
    source.readInto(data, at);
    stream.write(
      naming(source, () => convertFloats({ dtype: source.dtype, shape: [data.byteLength / size], data }, dtype)),
    );
    yield data.byteLength;
  }
}

/** @throws what `convert` throws, with the tensor's name and what to do */
function naming<T>({ name }: StoredTensor, convert: () => T): T {
  try {
    return convert();
  } catch (cause) {
    throw new Error(`${name}: ${cause instanceof Error ? cause.message : cause}: keep this part in f32`, { cause });
  }
}

/** Writes the packed values of a weight piece by piece, then its scales, and yields the bytes read after each piece. */
function* quantizeTensor(
  { source, rows, width, format }: Extract<ImportStep, { kind: 'quantize' }>,
  stream: SafetensorsStream,
  quantizers: Quantizers,
): Generator<number, void, undefined> {
  const { blocks, bytes } = blockSizes(width, format);
  const rowBytes = width * DTYPE_BYTES[source.dtype];
  const pieceRows = Math.min(rows, Math.max(1, Math.floor(PIECE_BYTES / rowBytes)));
  const piece = new Uint8Array(pieceRows * rowBytes);
  const packed = new Uint8Array(pieceRows * bytes);
  const scales = new Float32Array(rows * blocks);
  const quantizer = quantizers.of(width, format, source.dtype === 'bf16' ? 'bf16' : 'f32');
  for (let first = 0; first < rows; first += pieceRows) {
    const count = Math.min(pieceRows, rows - first);
    const data = piece.subarray(0, count * rowBytes);
    source.readInto(data, first * rowBytes);
    const values =
      source.dtype === 'bf16' ? data : bytesOf(toFloat32({ dtype: source.dtype, shape: [count, width], data }));
    const target = packed.subarray(0, count * bytes);
    try {
      quantizer.quantize(values, target, scales.subarray(first * blocks, (first + count) * blocks));
    } catch (cause) {
      throw new Error(`${source.name}, from row ${first}: ${cause instanceof Error ? cause.message : cause}`, {
        cause,
      });
    }
    stream.write(target);
    yield count * rowBytes;
  }
  stream.write(bytesOf(scales));
}

/** Copies what belongs to a model beside its weights and says what it copied. */
export async function copyCompanions(from: string, to: string): Promise<Manifest['files']> {
  const names = readdirSync(from)
    .sort()
    .filter((name) => COMPANION.test(name) && statSync(join(from, name)).isFile());
  for (const name of names) await copyFile(join(from, name), join(to, name));
  return await Promise.all(names.map((name) => describe(join(to, name))));
}

async function writeGraphs(partial: string, plan: ImportPlan, stream: SafetensorsStream): Promise<Manifest['files']> {
  const places = new Map([...stream.places].map(([name, place]) => [name, { location: WEIGHTS_NAME, ...place }]));
  const files: Manifest['files'] = [];
  for (const part of ['vision', 'decode'] as const) {
    const { graph } = plan.graphs[part];
    const path = join(partial, GRAPH_NAMES[part]);
    const weights = new Set(graph.inputs.filter(({ kind }) => kind === 'param').map(({ name }) => name));
    const bytes = encodeGraph(graph, undefined, {
      places: new Map([...places].filter(([name]) => weights.has(name))),
    });
    await replaceFile(path, async (file) => {
      await file.writeFile(bytes);
    });
    files.push(await describe(path));
  }
  return files;
}

export async function describe(path: string): Promise<Manifest['files'][number]> {
  return { name: basename(path), bytes: statSync(path).size, sha256: await sha256File(path) };
}
