import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { FeatureTier, TierSize } from './feature-store.ts';
import type { RecordId } from './feature-store-record.ts';

/** `tenant.name`, both hexadecimal. */
const FILE = /^([0-9a-f]{32})\.([0-9a-f]{64})$/;

/** Files that are looked at together when the folder is opened. */
const STATS_AT_ONCE = 64;

/**
 * Records as files of one folder, bounded in bytes and number, the least recently used out first. Files appear whole or not at all; order of
 * use survives a restart in their times. A folder belongs to one process.
 */
export class DiskTier implements FeatureTier {
  readonly name = 'disk';
  readonly #dir: string;
  readonly #maxBytes: number;
  readonly #maxFiles: number;
  /** File name → bytes; map order is use order. */
  readonly #files: Map<string, number>;
  #bytes: number;
  #evictions = 0;
  #writes = 0;

  private constructor(dir: string, maxBytes: number, maxFiles: number, files: Map<string, number>) {
    this.#dir = dir;
    this.#maxBytes = maxBytes;
    this.#maxFiles = maxFiles;
    this.#files = files;
    this.#bytes = [...files.values()].reduce((sum, bytes) => sum + bytes, 0);
  }

  /**
   * Opens or makes the folder; half-written files of an earlier process are removed.
   * @param maxBytes budget over all files
   * @param maxFiles every file is looked at when the folder is opened, which keeps a start waiting
   */
  static async open(dir: string, maxBytes: number, maxFiles = 16_384): Promise<DiskTier> {
    await mkdir(dir, { recursive: true });
    const found: { name: string; bytes: number; usedAtMs: number }[] = [];
    const names = await readdir(dir);
    for (const name of names) if (name.endsWith('.part')) await rm(join(dir, name), { force: true });
    const ours = names.filter((name) => FILE.test(name));
    for (let at = 0; at < ours.length; at += STATS_AT_ONCE) {
      const stats = ours.slice(at, at + STATS_AT_ONCE).map(async (name) => {
        const { size, mtimeMs } = await stat(join(dir, name));
        found.push({ name, bytes: size, usedAtMs: mtimeMs });
      });
      await Promise.all(stats);
    }
    found.sort((a, b) => a.usedAtMs - b.usedAtMs);
    const tier = new DiskTier(dir, maxBytes, maxFiles, new Map(found.map(({ name, bytes }) => [name, bytes])));
    await tier.#evict();
    return tier;
  }

  get size(): TierSize {
    return { bytes: this.#bytes, entries: this.#files.size, evictions: this.#evictions };
  }

  async read(id: RecordId): Promise<Uint8Array<ArrayBuffer> | null> {
    const name = fileName(id);
    const bytes = this.#files.get(name);
    if (bytes === undefined) return null;
    const path = join(this.#dir, name);
    try {
      const record = await readFile(path);
      // Evicted or replaced while it was read: it is whole all the same.
      if (this.#files.get(name) === bytes) {
        this.#files.delete(name);
        this.#files.set(name, bytes);
        const now = new Date();
        void utimes(path, now, now).catch(() => {});
      }
      return record;
    } catch (error) {
      this.#forget(name);
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
  }

  async write(id: RecordId, record: Uint8Array): Promise<void> {
    if (record.byteLength > this.#maxBytes) return;
    const name = fileName(id);
    if (this.#files.has(name)) return;
    const path = join(this.#dir, name);
    const temporary = `${path}.${this.#writes++}.part`;
    try {
      await writeFile(temporary, record);
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true }).catch(() => {});
      throw error;
    }
    this.#forget(name);
    this.#files.set(name, record.byteLength);
    this.#bytes += record.byteLength;
    await this.#evict();
  }

  async drop(id: RecordId): Promise<void> {
    const name = fileName(id);
    this.#forget(name);
    await rm(join(this.#dir, name), { force: true });
  }

  #forget(name: string): void {
    this.#bytes -= this.#files.get(name) ?? 0;
    this.#files.delete(name);
  }

  async #evict(): Promise<void> {
    for (const name of this.#files.keys()) {
      if (this.#bytes <= this.#maxBytes && this.#files.size <= this.#maxFiles) return;
      this.#forget(name);
      this.#evictions++;
      await rm(join(this.#dir, name), { force: true });
    }
  }
}

function fileName({ tenant, name }: RecordId): string {
  const file = `${tenant}.${name}`;
  if (!FILE.test(file)) throw new Error(`internal: expected 32 and 64 hexadecimal digits, received ${file}`);
  return file;
}
