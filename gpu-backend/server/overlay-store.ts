import { createHash } from 'node:crypto';
import { access, copyFile, link, mkdir, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { type GenerateRequest, ModelManifest, type WeightFile } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import type { Overlay } from '../engine/model-pool.ts';
import { type EdgeClient, EdgeError } from './edge-client.ts';
import { OutsideFiles } from './outside-files.ts';

/** Files of a fine-tune that serving reads; what else a checkpoint holds (optimizer state) stays where it is. */
const SERVED_FILE = /^(adapter_config\.json|(adapter_)?model\.safetensors|projector\.safetensors)$/;

/** What is kept on disk, the least lately used going first: so many bytes, but never fewer models than an engine may hold at once, twice over. */
export interface KeptOverlays {
  readonly bytes: number;
  readonly atLeast: number;
}

const KEPT: KeptOverlays = { bytes: 16 * 1024 ** 3, atLeast: 8 };
/** When a model was used is noted on disk at most this often. */
const TOUCH_EVERY_MS = 60_000;
/** Files that nobody has come to link to within this time are left over. */
const LEFT_OVER_MS = 3_600_000;

/**
 * Files of fine-tuned models on this machine, content-addressed: a file is downloaded once whatever model it belongs to, and
 * a model's folder appears under its digest whole or not at all. Checkpoints that were only evaluated make room for others.
 */
export class OverlayStore {
  readonly #edge: EdgeClient;
  readonly #dir: string;
  readonly #outside: OutsideFiles;
  readonly #kept: KeptOverlays;
  readonly #running = new Map<string, Promise<Overlay>>();
  readonly #touchedAt = new Map<string, number>();
  #pruning: Promise<void> = Promise.resolve();

  /** @param outside reads files that are not at the edge */
  constructor(edge: EdgeClient, dir: string, outside = new OutsideFiles(null), kept = KEPT) {
    this.#outside = outside;
    this.#kept = kept;
    this.#edge = edge;
    this.#dir = dir;
  }

  /** @throws ApiError `model_not_found` when the edge does not know the model */
  async fetch({ model, adapter }: Pick<GenerateRequest, 'model' | 'adapter'>): Promise<Overlay> {
    // The edge sends the list of files along; asked for directly, it tells.
    const told = adapter ?? (await this.#manifest(model));
    const files = told.files.filter(({ name }) => SERVED_FILE.test(name));
    if (files.length === 0)
      throw new Error(
        `${told.id} has no file to serve; it has ${told.files.map(({ name }) => name).join(', ') || 'none'}`,
      );
    const names = files.map(({ name, sha256 }) => `${name} ${sha256}\n`).sort();
    const key = createHash('sha256')
      .update(`${told.base}\n${names.join('')}`)
      .digest('hex');
    const dir = join(this.#dir, 'overlays', key);
    if (await exists(dir)) {
      this.#touch(dir);
      return { base: told.base, dir, key };
    }
    let running = this.#running.get(key);
    if (running === undefined) {
      running = this.#pruning
        .then(() => this.#assemble(told.id, dir, files))
        .then(() => ({ base: told.base, dir, key }));
      this.#running.set(key, running);
      void running
        .catch(() => {})
        .finally(() => {
          this.#running.delete(key);
          // A blob that is about to be linked to looks like one that nobody needs.
          if (this.#running.size === 0) this.#pruning = this.#prune().catch(() => {});
        });
    }
    return await running;
  }

  /** The pruning that the newest model has brought about. */
  async settled(): Promise<void> {
    await Promise.allSettled([...this.#running.values()]);
    await this.#pruning;
  }

  #touch(dir: string): void {
    const nowMs = Date.now();
    if (nowMs - (this.#touchedAt.get(dir) ?? 0) < TOUCH_EVERY_MS) return;
    this.#touchedAt.set(dir, nowMs);
    void utimes(dir, nowMs / 1000, nowMs / 1000).catch(() => {});
  }

  async #prune(): Promise<void> {
    const folder = join(this.#dir, 'overlays');
    const nowMs = Date.now();
    const found: { dir: string; bytes: number; usedAtMs: number }[] = [];
    for (const name of await readdir(folder)) {
      const dir = join(folder, name);
      const { mtimeMs } = await stat(dir);
      if (!name.endsWith('.part')) found.push({ dir, bytes: await bytesIn(dir), usedAtMs: mtimeMs });
      else if (nowMs - mtimeMs > LEFT_OVER_MS) await rm(dir, { recursive: true, force: true });
    }
    found.sort((a, b) => b.usedAtMs - a.usedAtMs);
    let bytes = 0;
    for (const [place, one] of found.entries()) {
      bytes += one.bytes;
      if (place < this.#kept.atLeast || bytes <= this.#kept.bytes) continue;
      bytes -= one.bytes;
      this.#touchedAt.delete(one.dir);
      await rm(one.dir, { recursive: true, force: true });
    }
    const blobs = join(this.#dir, 'blobs');
    const linked = new Set((await Promise.all(found.map(({ dir }) => inodesIn(dir)))).flat());
    for (const name of await readdir(blobs)) {
      const blob = join(blobs, name);
      const { ino, mtimeMs } = await stat(blob);
      const isUnfinished = name.endsWith('.part') && nowMs - mtimeMs < LEFT_OVER_MS;
      if (!linked.has(ino) && !isUnfinished) await rm(blob, { force: true });
    }
  }

  async #assemble(id: string, dir: string, files: readonly WeightFile[]): Promise<void> {
    const temporary = `${dir}.${process.pid}.part`;
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary, { recursive: true });
    try {
      for (const file of files) {
        const blob = join(this.#dir, 'blobs', file.sha256);
        if (!(await exists(blob))) await this.#bring(id, file, blob);
        await link(blob, join(temporary, file.name)).catch(() => copyFile(blob, join(temporary, file.name)));
      }
      await rename(temporary, dir);
    } finally {
      await rm(temporary, { recursive: true, force: true });
    }
  }

  async #bring(id: string, file: WeightFile, to: string): Promise<void> {
    const path = `/internal/models/${encodeURIComponent(id)}/files/${encodeURIComponent(file.name)}`;
    if (file.location === undefined) await this.#edge.download(path, to, file);
    else await this.#outside.get(file.location, to, file);
  }

  async #manifest(model: string): Promise<ModelManifest> {
    try {
      return ModelManifest.parse(await this.#edge.get(`/internal/models/${encodeURIComponent(model)}`));
    } catch (error) {
      if (!(error instanceof EdgeError) || error.status !== 404) throw error;
      throw new ApiError('model_not_found', `model: expected a model that exists, received ${JSON.stringify(model)}.`, {
        param: 'model',
      });
    }
  }
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

async function bytesIn(dir: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(dir)) bytes += (await stat(join(dir, name))).size;
  return bytes;
}

async function inodesIn(dir: string): Promise<number[]> {
  const names = await readdir(dir).catch(() => []);
  return await Promise.all(names.map(async (name) => (await stat(join(dir, name))).ino));
}
