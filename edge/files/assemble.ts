import { ApiError } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { objectParts } from './read.ts';
import { type ObjectStore, Stage, type Staged } from './stage.ts';

/** Puts objects together in this order, a few megabytes at a time. @param md5 whether to compute it */
export async function assemble(
  store: ObjectStore,
  parts: readonly { object_key: string; bytes: number }[],
  options: { prefix: string; md5: boolean },
): Promise<Staged> {
  const stage = new Stage(store, { ...options, maxBytes: LIMITS.uploads.maxBytes, param: 'part_ids' });
  try {
    for (const { object_key, bytes } of parts) {
      if ((await store.blobs.head(object_key)) === null) {
        throw new ApiError('invalid_state', 'part_ids: a part is gone, because the upload has ended meanwhile.', {
          param: 'part_ids',
        });
      }
      for await (const chunk of objectParts(store.blobs, object_key, { offset: 0, length: bytes }))
        await stage.write(chunk);
    }
    return await stage.finish();
  } catch (error) {
    await stage.discard();
    throw error;
  }
}
