import { createHash, randomUUID } from 'node:crypto';
import { access, mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const REFERENCE = /^sha256:([0-9a-f]{64})$/;

/** Pictures on disk by the SHA-256 of their bytes: one that comes a thousand times is there once. Several stores may share a folder. */
export class ImageStore {
  private readonly made = new Set<string>();

  constructor(readonly dir: string) {}

  /** Where a picture of this digest (hex) is or would be. */
  pathOf(digest: string): string {
    return join(this.dir, digest.slice(0, 2), digest);
  }

  /** @returns its reference, `sha256:…` */
  async put(bytes: Uint8Array): Promise<string> {
    const digest = createHash('sha256').update(bytes).digest('hex');
    const path = this.pathOf(digest);
    const exists = await access(path).then(
      () => true,
      () => false,
    );
    if (!exists) {
      const folder = digest.slice(0, 2);
      if (!this.made.has(folder)) await mkdir(join(this.dir, folder), { recursive: true });
      this.made.add(folder);
      // A half-written picture must never stand under its digest.
      const temporary = `${path}.${randomUUID().slice(0, 8)}`;
      await writeFile(temporary, bytes);
      await rename(temporary, path);
    }
    return `sha256:${digest}`;
  }

  /** @returns null where the reference is no digest, or of a picture that is not here */
  async read(reference: string): Promise<Uint8Array | null> {
    const digest = REFERENCE.exec(reference)?.[1];
    if (digest === undefined) return null;
    try {
      return await readFile(this.pathOf(digest));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
  }
}
