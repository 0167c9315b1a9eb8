/** Pictures that training data only names: read once, from the tenant's uploads or from the web, and from then on the same for the same work. */
import type { DataSpec } from '../../shared/contract/backend.ts';
import { ApiError, describe, errorMessage } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { sha256Hex } from '../../shared/wire/signature.ts';
import { nowMs } from '../clock.ts';
import { egressOf } from '../egress/fetch.ts';
import type { Env } from '../env.ts';
import { Stage } from '../files/stage.ts';
import { ByteBudget } from '../images/budget.ts';
import { download } from '../images/download.ts';
import { DownloadError } from '../images/download-error.ts';
import { sniff } from '../images/sniff.ts';
import { DIGEST_REFERENCE, FILE_REFERENCE, findStored } from '../images/stored.ts';
import { filePrefix } from '../store/files.ts';
import { deleteLoose } from '../store/loose.ts';
import { getPin, insertPin, objectOf, type PinRow } from '../store/pins.ts';

/** Whose data names the picture, and which data: equal files have equal pictures, whatever is done with them. */
export type PictureScope = { tenant: string; scope: string };

/** @param lists all data of a job or task */
export async function pictureScope(tenant: string, lists: readonly DataSpec[]): Promise<PictureScope> {
  const digests = [...new Set(lists.flatMap(({ files }) => files.map(({ file }) => file.sha256)))].sort();
  return { tenant, scope: await sha256Hex(new TextEncoder().encode(JSON.stringify(digests))) };
}

const L = LIMITS.images;
/** An object may lose its last owner while it is being pinned. */
const MAX_ROUNDS = 4;

/**
 * The picture's row; its bytes are the object that it names.
 * @throws ApiError `image_file_not_found`, `image_file_too_large`, `failed_to_download_image`, `invalid_image_url`, and `overloaded`, which may pass
 */
export async function pinPicture(
  env: Env,
  { tenant, scope }: PictureScope,
  reference: string,
  signal: AbortSignal,
): Promise<PinRow> {
  const digest = await sha256Hex(new TextEncoder().encode(reference));
  const known = await getPin(env.DB, tenant, scope, digest);
  if (known !== null) return known;
  const base = { scope, digest, tenant, reference };
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const pin =
      FILE_REFERENCE.test(reference) || DIGEST_REFERENCE.test(reference)
        ? await pinUpload(env, base)
        : await pinDownload(env, base, signal);
    if (pin !== null) return pin;
  }
  throw new Error(`picture ${digest}: its object went ${MAX_ROUNDS} times`);
}

type Base = Pick<PinRow, 'scope' | 'digest' | 'tenant' | 'reference'>;

async function pinUpload(env: Env, base: Base): Promise<PinRow | null> {
  const { reference, tenant } = base;
  const stored = await findStored([reference], { db: env.DB, blobs: env.BLOBS, tenant });
  const row = stored.get(reference);
  if (row === undefined)
    throw new ApiError(
      'image_file_not_found',
      errorMessage('image', {
        expected: reference.startsWith('file-') ? 'the id of an uploaded file' : 'the digest of an uploaded picture',
        received: JSON.stringify(reference.slice(0, 80)),
        remedy: 'GET /v1/files lists yours.',
      }),
    );
  if (row.bytes > L.maxBytes)
    throw new ApiError(
      'image_file_too_large',
      errorMessage('image', { expected: `a file of at most ${L.maxBytes} bytes`, received: row.bytes }),
    );
  const { object_key, bytes, sha256 } = row;
  return insertPin(env.DB, { ...base, object_key, bytes, sha256, pinned_at: nowMs() }, false);
}

async function pinDownload(env: Env, base: Base, signal: AbortSignal): Promise<PinRow | null> {
  const { reference, tenant } = base;
  if (!/^https?:/i.test(reference))
    throw new ApiError(
      'invalid_image_url',
      errorMessage('image', {
        expected: 'a data URL, an https URL, the id of an uploaded file ("file-…") or its digest ("sha256:…")',
        received: describe(reference),
      }),
    );
  const bytes = await fetchPicture(env, tenant, reference, signal);
  const sha256 = await sha256Hex(bytes);
  const facts = { ...base, bytes: bytes.byteLength, sha256, pinned_at: nowMs() };
  const shared = await objectOf(env.DB, tenant, sha256);
  if (shared !== null) return insertPin(env.DB, { ...facts, object_key: shared }, false);
  const store = { db: env.DB, blobs: env.BLOBS };
  const stage = new Stage(store, { prefix: filePrefix(tenant), maxBytes: L.maxBytes, param: 'image' });
  try {
    await stage.write(bytes);
    const { key } = await stage.finish();
    const pin = await insertPin(env.DB, { ...facts, object_key: key }, true);
    // Somebody was quicker: what they pinned counts.
    if (pin !== null && pin.object_key !== key) await deleteLoose(store, [key]).catch(() => {});
    return pin;
  } catch (error) {
    await stage.discard();
    throw error;
  }
}

async function fetchPicture(
  env: Env,
  tenant: string,
  url: string,
  signal: AbortSignal,
): Promise<Uint8Array<ArrayBuffer>> {
  const budget = new ByteBudget(tenant, L.maxBytes);
  try {
    const bytes = await download(egressOf(env), url, budget, signal);
    // In one class with all that can be at an address: its content is none of the client's business unless it is a picture.
    if (sniff(bytes) === null) throw new DownloadError('not_an_image');
    return bytes;
  } catch (error) {
    if (!(error instanceof DownloadError)) throw error;
    if (error.reason === 'busy')
      throw new ApiError('overloaded', 'Too much is being downloaded right now. Try again shortly.', {
        retryAfterMs: 1_000,
      });
    throw new ApiError(
      'failed_to_download_image',
      errorMessage('image', {
        expected: `a picture of at most ${L.maxBytes} bytes at a public https address, within ${L.remote.totalMs} ms`,
        received: error.message,
        remedy: 'Upload it by POST /v1/files instead.',
      }),
    );
  } finally {
    budget.release();
  }
}
