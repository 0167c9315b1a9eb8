import { createHash } from 'node:crypto';
import { access, copyFile, link, mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type GenerateRequest, ModelManifest, type WeightFile } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import type { Overlay } from '../engine/model-pool.ts';
import { type EdgeClient, EdgeError } from './edge-client.ts';
import { OutsideFiles } from './outside-files.ts';

/** Files of a fine-tune that serving reads; what else a checkpoint holds (optimizer state) stays where it is. */
const SERVED_FILE = /^(adapter_config\.json|(adapter_)?model\.safetensors|projector\.safetensors)$/;

/**
 * Files of fine-tuned models on this machine, content-addressed: a file is downloaded once whatever model it belongs to, and
 * a model's folder appears under its digest whole or not at all.
 */
export class OverlayStore {
  readonly #edge: EdgeClient;
  readonly #dir: string;
  readonly #outside: OutsideFiles;
  readonly #running = new Map<string, Promise<Overlay>>();

  /** @param outside reads files that are not at the edge */
  constructor(edge: EdgeClient, dir: string, outside = new OutsideFiles(null)) {
    this.#outside = outside;
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
    if (await exists(dir)) return { base: told.base, dir, key };
    let running = this.#running.get(key);
    if (running === undefined) {
      running = this.#assemble(told.id, dir, files).then(() => ({ base: told.base, dir, key }));
      this.#running.set(key, running);
      void running.catch(() => {}).finally(() => this.#running.delete(key));
    }
    return await running;
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
