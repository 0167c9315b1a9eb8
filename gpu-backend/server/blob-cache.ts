import { createHash } from 'node:crypto';
import { ApiError } from '../../shared/contract/errors.ts';
import type { BlobInfo } from '../../shared/wire/frame.ts';

/** The caller named pictures by digest that are not held here; it sends them again with their bytes. */
export class BlobsMissingError extends ApiError {
  constructor(readonly missing: readonly string[]) {
    super(
      'blobs_missing',
      `${missing.length} pictures were named by their digests and are not held here; send their bytes.`,
    );
  }
}

export interface BlobCacheStats {
  readonly bytes: number;
  readonly entries: number;
  /** Blobs that were named by digest and found, since start. */
  readonly hits: number;
  /** … and not found. */
  readonly misses: number;
  readonly evictions: number;
}

/** What one tenant has here. Map order is use order. */
interface Shelf {
  readonly blobs: Map<string, Uint8Array>;
  bytes: number;
}

/**
 * Picture files by tenant and digest, so that a picture that was sent lately need not travel again. Bounded by bytes; what is over goes from the tenant
 * that holds most, least recently used first, so that one tenant's flood costs the others nothing.
 */
export class BlobCache {
  readonly #maxBytes: number;
  readonly #shelves = new Map<string, Shelf>();
  #bytes = 0;
  #hits = 0;
  #misses = 0;
  #evictions = 0;

  /** @param maxBytes of all tenants together; 0 keeps nothing */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /**
   * All blobs of a request: those that came are kept, those that were omitted are looked up.
   * @param tenant undefined: nobody that can be named; nothing is kept or found
   * @param blobs `null` where omitted
   * @throws BlobsMissingError naming every blob that is not held; ApiError `digest_mismatch`
   */
  complete(
    tenant: string | undefined,
    infos: readonly BlobInfo[],
    blobs: readonly (Uint8Array | null)[],
  ): Uint8Array[] {
    const missing: string[] = [];
    const whole = infos.map(({ digest, bytes }, i) => {
      const blob = blobs[i];
      if (blob !== null && blob !== undefined) return this.#keep(tenant, digest, blob);
      const found = this.#find(tenant, digest);
      if (found !== undefined && found.byteLength === bytes) return found;
      missing.push(digest);
      return new Uint8Array(0);
    });
    if (missing.length > 0) throw new BlobsMissingError(missing);
    return whole;
  }

  stats(): BlobCacheStats {
    let entries = 0;
    for (const { blobs } of this.#shelves.values()) entries += blobs.size;
    return { bytes: this.#bytes, entries, hits: this.#hits, misses: this.#misses, evictions: this.#evictions };
  }

  #find(tenant: string | undefined, digest: string): Uint8Array | undefined {
    const shelf = tenant === undefined ? undefined : this.#shelves.get(tenant);
    const found = shelf?.blobs.get(digest);
    if (shelf === undefined || found === undefined) {
      this.#misses++;
      return undefined;
    }
    this.#hits++;
    shelf.blobs.delete(digest);
    shelf.blobs.set(digest, found);
    return found;
  }

  #keep(tenant: string | undefined, digest: string, blob: Uint8Array): Uint8Array {
    if (tenant === undefined || blob.byteLength > this.#maxBytes) return blob;
    const shelf = this.#shelves.get(tenant) ?? { blobs: new Map<string, Uint8Array>(), bytes: 0 };
    const known = shelf.blobs.get(digest);
    // What later requests get under this name must be what it names.
    if (known === undefined && `sha256:${createHash('sha256').update(blob).digest('hex')}` !== digest)
      throw new ApiError('digest_mismatch', `blob ${digest}: expected the bytes of this digest, received others.`);
    shelf.blobs.delete(digest);
    // A copy: what came is a view into the body of the request, which would be kept whole.
    shelf.blobs.set(digest, known ?? blob.slice());
    if (known === undefined) {
      shelf.bytes += blob.byteLength;
      this.#bytes += blob.byteLength;
    }
    this.#shelves.delete(tenant);
    this.#shelves.set(tenant, shelf);
    this.#evict();
    return blob;
  }

  #evict(): void {
    while (this.#bytes > this.#maxBytes) {
      let largest: [string, Shelf] | null = null;
      for (const entry of this.#shelves) if (largest === null || entry[1].bytes > largest[1].bytes) largest = entry;
      const oldest = largest?.[1].blobs.entries().next();
      if (largest === null || oldest === undefined || oldest.done === true) return;
      const [tenant, shelf] = largest;
      const [digest, blob] = oldest.value;
      shelf.blobs.delete(digest);
      shelf.bytes -= blob.byteLength;
      this.#bytes -= blob.byteLength;
      this.#evictions++;
      if (shelf.blobs.size === 0) this.#shelves.delete(tenant);
    }
  }
}
