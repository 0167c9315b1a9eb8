import { createHash, randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { VlmConfig } from '../models/config.ts';
import type { Tensor } from '../runtime/session.ts';
import type { ImageRecipe } from '../vision/recipes.ts';

const DIGEST_BYTES = 32;

/** Rises when the same tower would give other features. */
const VERSION = 1;

/**
 * What features depend on besides the picture: weights and shape of the tower, and how a picture is prepared. SHA-256, hex.
 * @param weights of the tower
 */
export function towerDigest(config: VlmConfig, weights: Readonly<Record<string, Tensor>>, recipe: ImageRecipe): string {
  const hash = createHash('sha256');
  const { family, vision } = config;
  hash.update(JSON.stringify([VERSION, family, vision, 'visionLayers' in config ? config.visionLayers : null, recipe]));
  for (const [name, { data, shape }] of Object.entries(weights).sort(([a], [b]) => (a < b ? -1 : 1))) {
    const values = data as Float32Array;
    hash.update(`${JSON.stringify([name, shape])}\n`);
    hash.update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  }
  return hash.digest('hex');
}

interface Entry {
  readonly path: string;
  readonly bytes: number;
  readonly modifiedMs: number;
}

/**
 * Features of pictures on disk, f32 behind the SHA-256 of their bytes: a file that was cut off or changed is found out and made
 * again. A folder may be shared by jobs and processes; what is oldest goes first when it grows too large. It is a cache: where it
 * cannot be written, nothing is kept and training goes on.
 */
export class FeatureFiles {
  private readonly dir: string;
  /** Oldest first; made at the first write. */
  private entries: Entry[] | undefined;
  private bytes = 0;
  private isWritable = true;

  /**
   * @param root shared by towers
   * @param tower digest of what features depend on besides the picture
   * @param maxBytes of all towers in `root` together
   */
  constructor(
    private readonly root: string,
    tower: string,
    private readonly maxBytes: number,
  ) {
    this.dir = join(root, tower.slice(0, 32));
  }

  private pathOf(picture: string): string {
    return join(this.dir, picture.slice(0, 2), picture);
  }

  /** @param picture SHA-256 of its file, hex */
  async read(picture: string): Promise<Float32Array | undefined> {
    const path = this.pathOf(picture);
    const file = await readFile(path).catch(() => undefined);
    if (file === undefined) return undefined;
    const payload = file.subarray(DIGEST_BYTES);
    const digest = createHash('sha256').update(payload).digest();
    if (payload.length === 0 || payload.length % 4 !== 0 || !digest.equals(file.subarray(0, DIGEST_BYTES))) {
      await rm(path, { force: true });
      return undefined;
    }
    const features = new Float32Array(payload.length / 4);
    new Uint8Array(features.buffer).set(payload);
    return features;
  }

  async write(picture: string, features: Float32Array): Promise<void> {
    if (!this.isWritable) return;
    try {
      const payload = new Uint8Array(features.buffer, features.byteOffset, features.byteLength);
      const bytes = DIGEST_BYTES + payload.length;
      if (!(await this.makeRoom(bytes))) return;
      const path = this.pathOf(picture);
      const temporary = `${path}.${randomUUID().slice(0, 8)}`;
      await mkdir(join(path, '..'), { recursive: true });
      try {
        await writeFile(temporary, Buffer.concat([createHash('sha256').update(payload).digest(), payload]));
        await rename(temporary, path);
      } catch (error) {
        await rm(temporary, { force: true });
        throw error;
      }
      this.entries?.push({ path, bytes, modifiedMs: 0 });
      this.bytes += bytes;
    } catch {
      // A full disk needs its last bytes for checkpoints.
      this.isWritable = false;
    }
  }

  /** @returns false where one entry is larger than all may be */
  private async makeRoom(bytes: number): Promise<boolean> {
    if (bytes > this.maxBytes) return false;
    if (this.entries === undefined) {
      this.entries = await listFiles(this.root);
      this.bytes = this.entries.reduce((sum, entry) => sum + entry.bytes, 0);
    }
    while (this.bytes + bytes > this.maxBytes) {
      const oldest = this.entries.shift();
      if (oldest === undefined) break;
      await rm(oldest.path, { force: true });
      this.bytes -= oldest.bytes;
    }
    return true;
  }
}

async function listFiles(root: string): Promise<Entry[]> {
  const found: Entry[] = [];
  const names = await readdir(root, { recursive: true, withFileTypes: true }).catch(() => []);
  for (const entry of names) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const about = await stat(path).catch(() => undefined);
    if (about !== undefined) found.push({ path, bytes: about.size, modifiedMs: about.mtimeMs });
  }
  return found.sort((a, b) => a.modifiedMs - b.modifiedMs || (a.path < b.path ? -1 : 1));
}
