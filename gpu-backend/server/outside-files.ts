import type { Logger } from 'pino';
import { OutsideDue, type WeightFile } from '../../shared/contract/backend.ts';
import { S3Store } from '../io/s3-store.ts';
import type { EdgeClient } from './edge-client.ts';

type FileFacts = Pick<WeightFile, 'bytes' | 'sha256'>;

/**
 * Checkpoint files that lie in the backends' own store. New ones go there where a store is configured; those that are there already are read by any backend
 * that the bucket lets in.
 */
export class OutsideFiles {
  readonly #stores = new Map<string, Promise<S3Store>>();

  /** @param url `s3://bucket/prefix` for new files; null: they go through the edge */
  constructor(readonly url: string | null) {}

  /** Where a file of a job's checkpoint will be. The lease's number is part of it: a worker that lost its lease writes beside its successor's files. */
  locationOf(jobId: string, step: number, token: number, name: string): string | null {
    return this.url === null ? null : `${this.url.replace(/\/+$/, '')}/jobs/${jobId}/${step}/${token}/${name}`;
  }

  async put(location: string, path: string, facts: FileFacts): Promise<void> {
    await (await this.#storeOf(location)).put(location, path, facts);
  }

  /** @throws S3ObjectError where it is gone, or not what was put there */
  async get(location: string, path: string, facts: FileFacts): Promise<void> {
    await (await this.#storeOf(location)).get(location, path, facts);
  }

  /** Deletes what the edge says that nothing needs. @returns how many files */
  async sweep(edge: EdgeClient): Promise<number> {
    if (this.url === null) return 0;
    const store = await this.#storeOf(this.url);
    for (let count = 0; ; ) {
      const { locations } = OutsideDue.parse(await edge.post('/internal/outside/due', { store: store.url }));
      if (locations.length === 0) return count;
      await store.remove(locations);
      await edge.post('/internal/outside/gone', { locations });
      count += locations.length;
    }
  }

  /** The configured store, or the bucket that a location names. */
  #storeOf(location: string): Promise<S3Store> {
    const bucket = /^s3:\/\/[^/]+/.exec(location)?.[0] ?? location;
    const url = this.url !== null && `${location}/`.startsWith(`${this.url.replace(/\/+$/, '')}/`) ? this.url : bucket;
    let store = this.#stores.get(url);
    if (store === undefined) {
      store = S3Store.open(url);
      this.#stores.set(url, store);
      void store.catch(() => this.#stores.delete(url));
    }
    return store;
  }
}

const SWEEP_EVERY_MS = 600_000;

/** Sweeps from time to time while the backend runs. @returns ends it */
export function sweepOutside(files: OutsideFiles, edge: EdgeClient, log: Logger, everyMs = SWEEP_EVERY_MS): () => void {
  const timer = setInterval(() => {
    files
      .sweep(edge)
      .then((count) => count > 0 && log.info({ count }, 'deleted files of checkpoints that nothing needs any more'))
      .catch((error: unknown) => log.warn({ err: error }, 'could not delete old files in the checkpoint store'));
  }, everyMs);
  timer.unref();
  return () => clearInterval(timer);
}
