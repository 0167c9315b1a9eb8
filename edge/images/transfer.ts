/**
 * Pictures between edge and backend: a picture that a backend process is known to hold for a tenant travels as its digest. What is known is a guess of
 * this isolate, never a promise: a backend that has dropped a picture says so (409 `blobs_missing`), and the whole frame is sent.
 */
import { BlobsMissing } from '../../shared/contract/images.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type BlobInfo, encodeFrame } from '../../shared/wire/frame.ts';

const L = LIMITS.backends;

/** A distinct picture of a request. */
export type Blob = { digest: string; mime: string; bytes: Uint8Array };

/** What one backend process is believed to hold. Map order is use order. */
type Holdings = { bytesOf: Map<string, number>; totalBytes: number };

/** By id of the backend, which every process makes anew, so that nothing is expected of a restarted one. Map order is use order. */
const known = new Map<string, Holdings>();

/** Tenants never profit from each other: how fast a picture arrives must not tell who else has sent it. */
const keyOf = (tenant: string, digest: string) => `${tenant} ${digest}`;

/**
 * The frame for one backend process.
 * @param tenant undefined: nobody that can be named, whose pictures are kept nowhere
 * @returns `omitted`: digests of the pictures that are not in it
 */
export function encodeFor<T extends object>(
  instanceId: string,
  tenant: string | undefined,
  request: T,
  blobs: readonly Blob[],
): { body: Uint8Array<ArrayBuffer>; omitted: string[] } {
  const held = tenant === undefined ? undefined : known.get(instanceId);
  const omitted: string[] = [];
  const infos = blobs.map(({ digest, mime, bytes }): BlobInfo => {
    const info = { digest, mime, bytes: bytes.byteLength };
    if (held === undefined || tenant === undefined || !held.bytesOf.has(keyOf(tenant, digest))) return info;
    omitted.push(digest);
    return { ...info, omitted: true };
  });
  const body = encodeFrame(
    { ...request, blobs: infos },
    blobs.map(({ bytes }) => bytes),
  );
  return { body, omitted };
}

/** The backend process has taken a request with these pictures, so it holds them now. */
export function remember(instanceId: string, tenant: string | undefined, blobs: readonly Blob[]): void {
  if (tenant === undefined || blobs.length === 0) return;
  const held = known.get(instanceId) ?? { bytesOf: new Map<string, number>(), totalBytes: 0 };
  known.delete(instanceId);
  known.set(instanceId, held);
  for (const { digest, bytes } of blobs) {
    if (bytes.byteLength < L.minOmittedBlobBytes) continue;
    const key = keyOf(tenant, digest);
    if (!held.bytesOf.delete(key)) held.totalBytes += bytes.byteLength;
    held.bytesOf.set(key, bytes.byteLength);
  }
  for (const [key, bytes] of held.bytesOf) {
    if (held.totalBytes <= L.maxKnownBlobBytes) break;
    held.bytesOf.delete(key);
    held.totalBytes -= bytes;
  }
  for (const id of known.keys()) {
    if (known.size <= L.maxKnownInstances) break;
    known.delete(id);
  }
}

/** The backend process has said that it does not hold these. */
export function forgetMissing(instanceId: string, tenant: string | undefined, digests: readonly string[]): void {
  const held = known.get(instanceId);
  if (held === undefined || tenant === undefined) return;
  for (const digest of digests) {
    const key = keyOf(tenant, digest);
    held.totalBytes -= held.bytesOf.get(key) ?? 0;
    held.bytesOf.delete(key);
  }
}

/**
 * Sends a request to one backend process, pictures it holds as digests, and the whole once it says that some are missing: one attempt, whichever it is.
 * @param post makes the call with the given body
 * @returns the response; one with status 2xx has been noted
 */
export async function postFrame<T extends object>(
  instanceId: string,
  tenant: string | undefined,
  request: T,
  blobs: readonly Blob[],
  post: (body: Uint8Array<ArrayBuffer>) => Promise<Response>,
): Promise<Response> {
  const { body, omitted } = encodeFor(instanceId, tenant, request, blobs);
  let response = await post(body);
  if (response.status === 409 && omitted.length > 0) {
    const parsed = BlobsMissing.safeParse(await response.json());
    // Whatever it names: what it was believed to hold can no longer be relied on.
    forgetMissing(instanceId, tenant, parsed.success ? [...parsed.data.missing, ...omitted] : omitted);
    response = await post(encodeFor(instanceId, tenant, request, blobs).body);
  }
  if (response.ok) remember(instanceId, tenant, blobs);
  return response;
}
