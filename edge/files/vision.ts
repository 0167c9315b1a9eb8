import { ApiError, violation } from '../../shared/contract/errors.ts';
import type { FilePurpose } from '../../shared/contract/files.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { checkImage } from '../images/check.ts';
import { deleteLoose } from '../store/loose.ts';
import type { ObjectStore, Staged } from './stage.ts';

/**
 * What the bytes of an uploaded file are. A file for vision must be a picture that a request could name: it is looked at now, so that a file which exists
 * can be used.
 * @param param what a refusal is about
 * @throws ApiError with everything that is wrong with the picture, which is deleted then
 */
export async function mimeOf(store: ObjectStore, staged: Staged, purpose: FilePurpose, param: string): Promise<string> {
  if (purpose !== 'vision') return 'application/octet-stream';
  const refuse = async (error: ApiError): Promise<never> => {
    await deleteLoose(store, [staged.key]).catch(() => {});
    throw error;
  };
  if (staged.bytes > LIMITS.images.maxBytes) {
    const expected = `at most ${LIMITS.images.maxBytes} bytes for a picture`;
    return refuse(ApiError.from([violation('image_file_too_large', param, { expected, received: staged.bytes })]));
  }
  const object = await store.blobs.get(staged.key);
  if (object === null) throw new Error(`object ${staged.key} was written and is not there`);
  const info = checkImage(new Uint8Array(await object.arrayBuffer()), null, param);
  return Array.isArray(info) ? refuse(ApiError.from(info)) : info.mime;
}
