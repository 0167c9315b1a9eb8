import { LIMITS } from '../../shared/contract/limits.ts';
import { DownloadError } from './download-error.ts';

const R = LIMITS.images.remote;

/** Bytes of downloads that requests of this isolate hold now, by tenant. */
const held = new Map<string, number>();
let heldBytes = 0;

/**
 * Bytes that the downloads of one request may take: what its other pictures have left, and what this isolate's memory bears. One tenant may have a part of
 * the latter only, so that its downloads do not stop those of others.
 */
export class ByteBudget {
  #takenBytes = 0;

  /** @param maxBytes of all downloads of the request together */
  constructor(
    readonly tenant: string,
    readonly maxBytes: number,
  ) {}

  get leftBytes(): number {
    return this.maxBytes - this.#takenBytes;
  }

  /** Takes what has just come. @throws DownloadError where that is too much */
  take(bytes: number): void {
    if (bytes > this.leftBytes) throw new DownloadError('too_large');
    const ofTenant = (held.get(this.tenant) ?? 0) + bytes;
    if (ofTenant > R.maxHeldBytesPerTenant || heldBytes + bytes > R.maxHeldBytes) throw new DownloadError('busy');
    this.#takenBytes += bytes;
    heldBytes += bytes;
    held.set(this.tenant, ofTenant);
  }

  /** Gives back all that was taken: the request has its pictures, or will not get them. */
  release(): void {
    const ofTenant = (held.get(this.tenant) ?? 0) - this.#takenBytes;
    if (ofTenant > 0) held.set(this.tenant, ofTenant);
    else held.delete(this.tenant);
    heldBytes -= this.#takenBytes;
    this.#takenBytes = 0;
  }
}
