/**
 * Pictures between edge and backend: a picture that a backend process is known to hold for a tenant travels as its digest. What is known is a guess of
 * this isolate, never a promise: a backend that has dropped a picture says so (409 `blobs_missing`), and the whole frame is sent.
 */
import { LIMITS } from '../../shared/contract/limits.ts';
import { type BlobInfo, encodeFrame } from '../../shared/wire/frame.ts';

const L = LIMITS.backends;

/** A distinct picture of a request. */
export type Blob = { digest: string; mime: string; bytes: Uint8Array };

/**
 * What one backend process is believed to hold. Map order is use order. A backend that keeps little must not be asked in vain each time: after each
 * time that it was, the next `wholeFrames` frames are sent whole, twice as many as the time before, until one that was not whole is taken.
 */
type Holdings = {
  bytesOf: Map<string, number>;
  totalBytes: number;
  wholeFrames: number;
  penalty: number;
  isTrying: boolean;
};

const MAX_PENALTY = 64;

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
  const isWhole = held !== undefined && held.wholeFrames > 0;
  if (isWhole) held.wholeFrames--;
  const omitted: string[] = [];
  const infos = blobs.map(({ digest, mime, bytes }): BlobInfo => {
    const info = { digest, mime, bytes: bytes.byteLength };
    if (held === undefined || isWhole || tenant === undefined || !held.bytesOf.has(keyOf(tenant, digest))) return info;
    omitted.push(digest);
    return { ...info, omitted: true };
  });
  if (held !== undefined && omitted.length > 0) held.isTrying = true;
  const body = encodeFrame(
    { ...request, blobs: infos },
    blobs.map(({ bytes }) => bytes),
  );
  return { body, omitted };
}

/** The backend process has taken a request with these pictures, so it holds them now. */
export function remember(instanceId: string, tenant: string | undefined, blobs: readonly Blob[]): void {
  if (tenant === undefined || blobs.length === 0) return;
  const held = known.get(instanceId) ?? {
    bytesOf: new Map<string, number>(),
    totalBytes: 0,
    wholeFrames: 0,
    penalty: 0,
    isTrying: false,
  };
  known.delete(instanceId);
  known.set(instanceId, held);
  if (held.isTrying) held.penalty = 0;
  held.isTrying = false;
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

/** The backend process has said that it does not hold all of these: they all travel next time. */
export function forgetMissing(instanceId: string, tenant: string | undefined, digests: readonly string[]): void {
  const held = known.get(instanceId);
  if (held === undefined || tenant === undefined) return;
  // One more, for the frame that is sent now.
  held.wholeFrames = held.penalty + 1;
  held.penalty = Math.min(MAX_PENALTY, 2 * held.penalty + 1);
  held.isTrying = false;
  for (const digest of digests) {
    const key = keyOf(tenant, digest);
    held.totalBytes -= held.bytesOf.get(key) ?? 0;
    held.bytesOf.delete(key);
  }
}
