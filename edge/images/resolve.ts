/** From references in a request to bytes that are known to be acceptable: data URLs are decoded, file ids read from the store. */
import { ApiError, type Violation, violation } from '../../shared/contract/errors.ts';
import type { ImageInfo } from '../../shared/contract/images.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { sha256Hex } from '../../shared/wire/signature.ts';
import { fileKey, getFiles } from '../store/files.ts';
import { checkImage, unknownReference } from './check.ts';
import { parseDataUrl } from './dataUrl.ts';

/** A picture of a request: where it stands (`param`) and what it points to. */
export type ImageReference = { param: string; url: string };
export type ResolvedImage = { digest: string; bytes: Uint8Array; info: ImageInfo };

/** The store, as far as pictures are read from it. */
export type ImageStore = { db: D1Database; blobs: R2Bucket };

/**
 * Every picture in the order of `references`, or every violation. The same file named twice is read once; equal pixels sent twice share their digest.
 */
export async function resolveImages(
  references: readonly ImageReference[],
  store: ImageStore,
): Promise<ResolvedImage[] | Violation[]> {
  const files = await readFiles(references, store);
  const wrong: Violation[] = [];
  const resolved: ResolvedImage[] = [];
  const digests = new Map<string, ResolvedImage>();
  let totalBytes = 0;
  let totalPixels = 0;
  for (const { param, url } of references) {
    const seen = digests.get(url);
    if (seen !== undefined) {
      resolved.push(seen);
      continue;
    }
    const found = open(url, param, files);
    if ('code' in found) {
      wrong.push(found);
      continue;
    }
    const info = checkImage(found.bytes, found.mime, param);
    if (Array.isArray(info)) {
      wrong.push(...info);
      continue;
    }
    totalBytes += found.bytes.byteLength;
    totalPixels += info.width * info.height;
    if (totalBytes > LIMITS.images.maxTotalBytes) {
      wrong.push(
        violation('image_file_too_large', param, {
          expected: `at most ${LIMITS.images.maxTotalBytes} bytes in all pictures`,
          received: totalBytes,
        }),
      );
    }
    if (totalPixels > LIMITS.images.maxTotalPixels) {
      wrong.push(
        violation('image_too_large', param, {
          expected: `at most ${LIMITS.images.maxTotalPixels} pixels in all pictures`,
          received: totalPixels,
        }),
      );
    }
    const image = { digest: `sha256:${await sha256Hex(found.bytes)}`, bytes: found.bytes, info };
    digests.set(url, image);
    resolved.push(image);
  }
  return wrong.length > 0 ? wrong : resolved;
}

type Opened = { mime: string | null; bytes: Uint8Array };

function open(url: string, param: string, files: ReadonlyMap<string, Opened | 'too_large'>): Opened | Violation {
  if (url.startsWith('data:')) {
    try {
      return parseDataUrl(url, param);
    } catch (error) {
      if (error instanceof ApiError) return { code: error.code, param, message: error.message };
      throw error;
    }
  }
  if (!url.startsWith('file-')) return unknownReference(url, param);
  const file = files.get(url);
  if (file === undefined) {
    return violation('image_file_not_found', param, {
      expected: 'the id of an uploaded file',
      received: JSON.stringify(url.slice(0, 64)),
      remedy: 'GET /v1/files lists yours.',
    });
  }
  if (file === 'too_large') {
    return violation('image_file_too_large', param, {
      expected: `a file of at most ${LIMITS.images.maxBytes} bytes`,
      received: 'a larger one',
    });
  }
  return file;
}

/** The referenced files' bytes, each read once; sizes are known from their rows, so nothing too large is pulled in. */
async function readFiles(
  references: readonly ImageReference[],
  store: ImageStore,
): Promise<Map<string, Opened | 'too_large'>> {
  const ids = [...new Set(references.map(({ url }) => url).filter((url) => url.startsWith('file-')))];
  const found = new Map<string, Opened | 'too_large'>();
  let totalBytes = 0;
  for (const row of await getFiles(store.db, ids)) {
    totalBytes += row.bytes;
    if (row.bytes > LIMITS.images.maxBytes || totalBytes > LIMITS.images.maxTotalBytes) {
      found.set(row.id, 'too_large');
      continue;
    }
    const object = await store.blobs.get(fileKey(row.id));
    if (object !== null) found.set(row.id, { mime: null, bytes: new Uint8Array(await object.arrayBuffer()) });
  }
  return found;
}
