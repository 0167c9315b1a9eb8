/**
 * What backends measure of this machine at their first start (how fast formats of weights are, seconds) holds for every data folder on it: it is kept
 * beside the build too, and given to folders that are new. The tables name the machine that they are of; another one measures for itself.
 */
import { constants } from 'node:fs';
import { copyFile, mkdir, readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { CACHE } from './bundle-backend.ts';

const KEPT = join(CACHE, 'precision');
const inData = (dataDir: string) => join(dataDir, 'backend', 'precision');

/** Before the first backend starts. */
export async function takeMeasured(dataDir: string): Promise<void> {
  await copyMissing(KEPT, inData(dataDir));
}

/** When backends are up. */
export async function keepMeasured(dataDir: string): Promise<void> {
  await copyMissing(inData(dataDir), KEPT);
}

/** Never fails: what is not copied is measured again. */
async function copyMissing(from: string, to: string): Promise<void> {
  try {
    const names = (await readdir(from)).filter((name) => name.endsWith('.json'));
    if (names.length > 0) await mkdir(to, { recursive: true });
    const there = new Set(await readdir(to).catch(() => []));
    for (const name of names) {
      if (there.has(name)) continue;
      // Whole or not at all, for whoever reads it meanwhile.
      const draft = join(to, `${name}.${process.pid}`);
      await copyFile(join(from, name), draft, constants.COPYFILE_EXCL);
      await rename(draft, join(to, name));
    }
  } catch {
    // A folder that cannot be read or written.
  }
}
