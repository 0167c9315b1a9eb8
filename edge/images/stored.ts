/** Uploaded pictures of one tenant, named by file id or by what they contain. */
import { LIMITS } from '../../shared/contract/limits.ts';
import { type FileRow, fileKey, getFiles, getFilesByDigest } from '../store/files.ts';

/** The store, as far as pictures are read from it, for one tenant. */
export type StoredPictures = { db: D1Database; blobs: R2Bucket; tenant: string };

export const FILE_REFERENCE = /^file-/;
/** A picture by its bytes: lower-case hex of their SHA-256. */
export const DIGEST_REFERENCE = /^sha256:[0-9a-f]{64}$/;

/** Reads at once: the platform waits for the headers of six connections a request. */
const READS_AT_ONCE = 6;

/** What is stored under each reference; references that name nothing of this tenant's are absent. */
export async function findStored(references: readonly string[], store: StoredPictures): Promise<Map<string, FileRow>> {
  const ids = references.filter((url) => FILE_REFERENCE.test(url));
  const digests = references.filter((url) => DIGEST_REFERENCE.test(url)).map((url) => url.slice('sha256:'.length));
  const [byId, byDigest] = await Promise.all([
    ids.length === 0 ? [] : getFiles(store.db, store.tenant, ids),
    digests.length === 0 ? [] : getFilesByDigest(store.db, store.tenant, digests),
  ]);
  const found = new Map<string, FileRow>();
  for (const row of byId) found.set(row.id, row);
  for (const row of byDigest) found.set(`sha256:${row.sha256}`, row);
  return found;
}

/**
 * The bytes of rows that together fit a request, each content once.
 * @returns by SHA-256; a file whose bytes are gone is absent
 */
export async function readStored(
  rows: readonly FileRow[],
  { blobs }: StoredPictures,
): Promise<Map<string, Uint8Array<ArrayBuffer>>> {
  const distinct = [...new Map(rows.map((row) => [row.sha256, row])).values()];
  const bytes = new Map<string, Uint8Array<ArrayBuffer>>();
  await atOnce(READS_AT_ONCE, distinct, async (row) => {
    if (row.bytes > LIMITS.images.maxBytes) return;
    const object = await blobs.get(fileKey(row));
    if (object !== null) bytes.set(row.sha256, new Uint8Array(await object.arrayBuffer()));
  });
  return bytes;
}

/** Runs `work` on every item, `limit` at a time. */
export async function atOnce<T>(limit: number, items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  let next = 0;
  const lane = async () => {
    for (let item = items[next++]; item !== undefined; item = items[next++]) await work(item);
  };
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, lane));
}
