/**
 * Least-recently-used cache bounded by bytes, for image features. The key names everything the value depends on
 * (`feature-key.ts`), so equal keys mean equal features. Entries in use are pinned: they do not count as evictable until the
 * last user lets go.
 */
interface Entry {
  readonly features: Float32Array;
  pins: number;
}

export class FeatureCache {
  readonly #maxBytes: number;
  readonly #onComputed: (key: string, features: Float32Array) => void;
  /** Map order is use order: the first key is the least recently used. */
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;
  queries = 0;
  hits = 0;
  evictions = 0;

  /**
   * @param maxBytes budget over all entries; 0 keeps nothing beyond its pins
   * @param onComputed called for each entry that `insert` adds; must not change the features
   */
  constructor(maxBytes: number, onComputed: (key: string, features: Float32Array) => void = () => {}) {
    this.#maxBytes = maxBytes;
    this.#onComputed = onComputed;
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

  /** Stores what was computed just now, and pins; a key that is already there keeps its first value and gains a pin. */
  insert(key: string, features: Float32Array): void {
    if (this.#add(key, features)) this.#onComputed(key, features);
  }

  /** As `insert`, for features that were computed earlier and kept elsewhere. */
  restore(key: string, features: Float32Array): void {
    this.#add(key, features);
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

  #add(key: string, features: Float32Array): boolean {
    const known = this.#entries.get(key);
    if (known !== undefined) {
      known.pins++;
      return false;
    }
    this.#entries.set(key, { features, pins: 1 });
    this.#bytes += features.byteLength;
    this.#evict();
    return true;
  }

  #evict(): void {
    for (const [key, entry] of this.#entries) {
      if (this.#bytes <= this.#maxBytes) return;
      if (entry.pins > 0) continue;
      this.#entries.delete(key);
      this.#bytes -= entry.features.byteLength;
      this.evictions++;
    }
  }
}
