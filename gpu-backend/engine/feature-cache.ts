/**
 * Least-recently-used cache bounded by bytes, for image features. The key names everything the value depends on (digest of the
 * pixels, recipe, model and its digest, tenant), so equal keys mean equal features. Entries in use are pinned: they do not
 * count as evictable until the last user lets go.
 */
interface Entry {
  readonly features: Float32Array;
  pins: number;
}

export class FeatureCache {
  readonly #maxBytes: number;
  /** Map order is use order: the first key is the least recently used. */
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;
  queries = 0;
  hits = 0;

  /** `maxBytes`: budget over all entries; 0 keeps nothing beyond its pins. */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Looks up and pins. Every hit must be given back with `release`. */
  acquire(key: string): Float32Array | null {
    this.queries++;
    const entry = this.#entries.get(key);
    if (entry === undefined) return null;
    this.hits++;
    entry.pins++;
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    return entry.features;
  }

  /** Stores and pins; a key that is already there keeps its first value (equal by construction) and gains a pin. */
  insert(key: string, features: Float32Array): void {
    const known = this.#entries.get(key);
    if (known !== undefined) {
      known.pins++;
      return;
    }
    this.#entries.set(key, { features, pins: 1 });
    this.#bytes += features.byteLength;
    this.#evict();
  }

  release(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined || entry.pins === 0)
      throw new Error(
        `internal: released "${key}", which nobody holds; each acquire or insert pairs with one release.`,
      );
    entry.pins--;
    this.#evict();
  }

  #evict(): void {
    for (const [key, entry] of this.#entries) {
      if (this.#bytes <= this.#maxBytes) return;
      if (entry.pins > 0) continue;
      this.#entries.delete(key);
      this.#bytes -= entry.features.byteLength;
    }
  }
}
