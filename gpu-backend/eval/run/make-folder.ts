import { mkdir, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';

/** A folder that cannot be made, in words for whoever named it. */
export class FolderError extends Error {
  override readonly name = 'FolderError';
}

/**
 * Makes a folder with those above it, one at a time: Node's own `recursive` goes round for ever where a file system says that a folder it just refused to make is
 * missing (/proc).
 * @throws FolderError where a file stands in the way, or the system refuses
 */
export async function makeFolder(path: string): Promise<void> {
  const missing: string[] = [];
  for (let at = resolve(path); ; at = dirname(at)) {
    const found = await stat(at).catch(() => null);
    if (found?.isDirectory()) break;
    if (found !== null)
      throw new FolderError(`${path}: expected a folder, ${at === resolve(path) ? 'it' : at} is a file`);
    missing.unshift(at);
    if (dirname(at) === at) break;
  }
  for (const folder of missing)
    await mkdir(folder).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'EEXIST') return;
      throw new FolderError(
        `${path}: the folder ${folder} cannot be made (${error.code ?? error.message}); choose another`,
      );
    });
}
