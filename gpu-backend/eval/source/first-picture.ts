import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { PictureReader, StoredImage } from './pictures.ts';

/**
 * The picture at the first of some paths that exists: published archives unpack into folders of several names.
 * @param where for messages: file, row and column
 * @throws Error naming all of them where none does
 */
export async function firstPicture(
  paths: readonly string[],
  folder: string,
  where: string,
  pictures: PictureReader,
): Promise<StoredImage> {
  for (const path of paths) {
    const isThere = await stat(join(folder, path)).then(
      (found) => found.isFile(),
      () => false,
    );
    if (isThere) return await pictures.take(path, folder, where);
  }
  throw new Error(
    `${where}: expected its picture as ${paths.join(' or ')} under ${folder}, there is none; name the folder of pictures`,
  );
}
