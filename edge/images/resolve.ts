/**
 * From references in a request to bytes that are known to be acceptable: data URLs are decoded, uploaded files read from the store, pictures on the web
 * fetched. What is wrong with one picture hides nothing of what is wrong with the others.
 */
import { ApiError, describe, type Violation, violation } from '../../shared/contract/errors.ts';
import type { ImageInfo } from '../../shared/contract/images.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { sha256Hex } from '../../shared/wire/signature.ts';
import { type Egress, egressOf } from '../egress/fetch.ts';
import type { Env } from '../env.ts';
import type { FileRow } from '../store/files.ts';
import { ByteBudget } from './budget.ts';
import { checkImage } from './check.ts';
import { parseDataUrl } from './dataUrl.ts';
import { download } from './download.ts';
import { DownloadError } from './download-error.ts';
import type { ImageMemory } from './memory.ts';
import { sniff } from './sniff.ts';
import { atOnce, DIGEST_REFERENCE, FILE_REFERENCE, findStored, readStored, type StoredPictures } from './stored.ts';

const L = LIMITS.images;

/** A picture of a request: where it stands (`param`) and what it points to. */
export type ImageReference = { param: string; url: string };
/** `digest` is `sha256:…` of the bytes. */
export type ResolvedImage = { digest: string; bytes: Uint8Array; info: ImageInfo };

/**
 * Where pictures may come from. Without `egress` only data URLs and file ids are taken, which is what training reads again by itself. `memory` has those of
 * earlier requests that belong together.
 */
export type ImageStore = StoredPictures & { egress?: Egress; memory?: ImageMemory };

/** All sources, for requests of one tenant. */
export function imageStore(env: Env, tenant: string): ImageStore {
  return { db: env.DB, blobs: env.BLOBS, tenant, egress: egressOf(env) };
}

/** What stands at one distinct URL: bytes, with the declared type and their digest where these are known, or what is wrong. */
type Opened =
  | { bytes: Uint8Array; declared: string | null; sha256: string | null; isRemote: boolean }
  | ((param: string) => Violation);

/** Of a URL: itself, or a number. An engine copies strings that are keys of a Map or Set, and data URLs are megabytes. */
type Key = string | number;
const LONG_CHARS = 256;

/** @returns the key of each reference, equal for equal URLs, and each URL by its key */
function distinct(references: readonly ImageReference[]): { keys: Key[]; urls: Map<Key, string> } {
  const urls = new Map<Key, string>();
  const long: string[] = [];
  const keys = references.map(({ url }): Key => {
    let key: Key = url;
    if (url.length > LONG_CHARS && /^data:/i.test(url)) {
      key = long.indexOf(url);
      if (key < 0) key = long.push(url) - 1;
    }
    urls.set(key, url);
    return key;
  });
  return { keys, urls };
}

/**
 * Every picture in the order of `references`, or every violation. The same URL named twice is read once; equal bytes share their digest and count once.
 * @param signal ends downloads: the client has left
 * @throws ApiError `overloaded` where this isolate holds too many downloads already
 */
export async function resolveImages(
  references: readonly ImageReference[],
  store: ImageStore,
  signal?: AbortSignal,
): Promise<ResolvedImage[] | Violation[]> {
  if (references.length === 0) return [];
  const { keys, urls } = distinct(references);
  const opened = await openAll(urls, store, signal);
  const digests = new Map<Key, string>();
  await Promise.all(
    [...opened].map(async ([key, found]) => {
      if (typeof found === 'function') return;
      const sha256 = found.sha256 ?? (await sha256Hex(found.bytes));
      digests.set(key, `sha256:${sha256}`);
      store.memory?.set(urls.get(key) ?? '', { ...found, sha256 });
    }),
  );
  const wrong: Violation[] = [];
  const resolved: ResolvedImage[] = [];
  const known = new Map<string, ResolvedImage>();
  let totalBytes = 0;
  let totalPixels = 0;
  for (const [i, { param }] of references.entries()) {
    const key = keys[i] ?? '';
    const found = opened.get(key);
    if (found === undefined) throw new Error('resolveImages: a reference was not opened');
    if (typeof found === 'function') {
      wrong.push(found(param));
      continue;
    }
    const digest = digests.get(key) ?? '';
    // What a data URL declares is checked for each of them, even where the bytes are known.
    const seen = found.declared === null ? known.get(digest) : undefined;
    const info = seen?.info ?? checkOpened(found, param);
    if (Array.isArray(info)) {
      wrong.push(...info);
      continue;
    }
    const image = known.get(digest) ?? { digest, bytes: found.bytes, info };
    resolved.push(image);
    if (known.has(digest)) continue;
    known.set(digest, image);
    totalBytes += found.bytes.byteLength;
    totalPixels += info.width * info.height;
    if (totalBytes > L.maxTotalBytes) wrong.push(tooManyBytes(param, totalBytes));
    if (totalPixels > L.maxTotalPixels) {
      const expected = `at most ${L.maxTotalPixels} pixels in all pictures`;
      wrong.push(violation('image_too_large', param, { expected, received: totalPixels }));
    }
  }
  return wrong.length > 0 ? wrong : resolved;
}

function checkOpened(found: Exclude<Opened, (param: string) => Violation>, param: string): ImageInfo | Violation[] {
  // In one class with all that can be at an address: its content is none of the client's business unless it is a picture.
  if (found.isRemote && sniff(found.bytes) === null) return [notDownloaded(new DownloadError('not_an_image'), param)];
  return checkImage(found.bytes, found.declared, param);
}

/** Opens every distinct URL: first what is at hand, then what is stored, then what must be fetched, within the bytes that are left. */
async function openAll(
  urls: ReadonlyMap<Key, string>,
  store: ImageStore,
  signal: AbortSignal | undefined,
): Promise<Map<Key, Opened>> {
  const opened = new Map<Key, Opened>();
  const stored: string[] = [];
  const remote: string[] = [];
  let leftBytes: number = L.maxTotalBytes;
  for (const [key, url] of urls) {
    const remembered = store.memory?.get(url);
    if (remembered !== undefined) {
      leftBytes -= remembered.bytes.byteLength;
      opened.set(key, remembered);
    } else if (/^data:/i.test(url)) {
      const found = openDataUrl(url);
      if (typeof found !== 'function') leftBytes -= found.bytes.byteLength;
      opened.set(key, found);
    } else if (FILE_REFERENCE.test(url) || (store.egress !== undefined && DIGEST_REFERENCE.test(url))) stored.push(url);
    else if (/^https?:/i.test(url) && store.egress !== undefined) remote.push(url);
    else opened.set(key, (param) => unknownReference(url, param, store.egress !== undefined));
  }
  if (stored.length > 0) leftBytes -= await openStored(stored, store, leftBytes, opened);
  if (remote.length > 0 && store.egress !== undefined)
    await openRemote(remote, store.egress, new ByteBudget(store.tenant, leftBytes), signal, opened);
  return opened;
}

function openDataUrl(url: string): Opened {
  try {
    const { mime, bytes } = parseDataUrl(url, '');
    return { bytes, declared: mime, sha256: null, isRemote: false };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return (param) => ({ code: error.code, param, message: `${param}${error.message}` });
  }
}

/** @returns the bytes that were read. What does not fit in `leftBytes` is measured by its row and not read. */
async function openStored(
  urls: readonly string[],
  store: StoredPictures,
  leftBytes: number,
  opened: Map<Key, Opened>,
): Promise<number> {
  const rows = await findStored(urls, store);
  const wanted = new Map<string, FileRow>();
  let total = 0;
  for (const url of urls) {
    const row = rows.get(url);
    if (row === undefined) opened.set(url, (param) => notFound(url, param));
    else if (row.bytes > L.maxBytes) opened.set(url, (param) => tooLarge(row.bytes, param));
    else if (wanted.has(row.sha256)) continue;
    else if (total + row.bytes > leftBytes) {
      const received = L.maxTotalBytes - leftBytes + total + row.bytes;
      opened.set(url, (param) => tooManyBytes(param, received));
    } else {
      wanted.set(row.sha256, row);
      total += row.bytes;
    }
  }
  const bytesOf = await readStored([...wanted.values()], store);
  for (const url of urls) {
    if (opened.has(url)) continue;
    const sha256 = rows.get(url)?.sha256 ?? '';
    const bytes = bytesOf.get(sha256);
    opened.set(
      url,
      bytes === undefined ? (param) => notFound(url, param) : { bytes, declared: null, sha256, isRemote: false },
    );
  }
  return total;
}

async function openRemote(
  urls: readonly string[],
  egress: Egress,
  budget: ByteBudget,
  signal: AbortSignal | undefined,
  opened: Map<Key, Opened>,
): Promise<void> {
  const { maxPerRequest, maxConcurrent, requestMs } = L.remote;
  for (const url of urls.slice(maxPerRequest)) {
    const expected = `at most ${maxPerRequest} pictures on the web`;
    opened.set(url, (param) => violation('too_many_images', param, { expected, received: urls.length }));
  }
  let isBusy = false;
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), requestMs);
  const ends = signal === undefined ? late.signal : AbortSignal.any([signal, late.signal]);
  await atOnce(maxConcurrent, urls.slice(0, maxPerRequest), async (url) => {
    try {
      const bytes = await download(egress, url, budget, ends);
      opened.set(url, { bytes, declared: null, sha256: null, isRemote: true });
    } catch (error) {
      if (!(error instanceof DownloadError)) throw error;
      if (error.reason === 'busy') {
        isBusy = true;
        late.abort();
      }
      opened.set(url, (param) => notDownloaded(error, param));
    }
  }).finally(() => {
    clearTimeout(timer);
    budget.release();
  });
  if (isBusy)
    throw new ApiError('overloaded', 'Too much is being downloaded for other requests right now. Try again shortly.', {
      retryAfterMs: 1_000,
    });
}

function notDownloaded({ reason, message }: DownloadError, param: string): Violation {
  const expected =
    reason === 'too_large'
      ? `a picture of at most ${L.maxBytes} bytes there, and ${L.maxTotalBytes} in all pictures`
      : reason === 'too_slow'
        ? `a picture there within ${L.remote.totalMs} ms, its first byte within ${L.remote.firstByteMs} ms`
        : 'a picture at a public https address';
  const remedy = 'Upload it by POST /v1/files instead.';
  return violation('failed_to_download_image', param, { expected, received: message, remedy });
}

function tooLarge(bytes: number, param: string): Violation {
  const expected = `a file of at most ${L.maxBytes} bytes`;
  return violation('image_file_too_large', param, { expected, received: bytes });
}

function tooManyBytes(param: string, received: number): Violation {
  const expected = `at most ${L.maxTotalBytes} bytes in all pictures`;
  return violation('image_file_too_large', param, { expected, received });
}

function notFound(url: string, param: string): Violation {
  const expected = url.startsWith('file-') ? 'the id of an uploaded file' : 'the digest of an uploaded picture';
  return violation('image_file_not_found', param, {
    expected,
    received: JSON.stringify(url.slice(0, 80)),
    remedy: 'GET /v1/files lists yours.',
  });
}

function unknownReference(url: string, param: string, mayFetch: boolean): Violation {
  const [data, file] = ['a data URL ("data:image/png;base64,…")', 'the id of an uploaded file ("file-…")'];
  return violation('invalid_image_url', param, {
    expected: mayFetch ? `${data}, an https URL, ${file} or its digest ("sha256:…")` : `${data} or ${file}`,
    received: describe(url),
    ...(mayFetch ? {} : { remedy: 'Pictures on the web are not fetched here: upload them by POST /v1/files.' }),
  });
}
