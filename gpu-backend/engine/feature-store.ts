import {
  DamagedRecordError,
  decodeRecord,
  encodeRecord,
  type RecordId,
  type StoredPicture,
} from './feature-store-record.ts';

/** How much a tier holds. A tier that cannot know leaves it out. */
export interface TierSize {
  readonly bytes: number;
  readonly entries: number;
  /** Records removed for want of room, since start. */
  readonly evictions: number;
}

/** A place where records outlive the process. Any failure means that a picture is encoded again, never that a request fails. */
export interface FeatureTier {
  readonly name: 'disk' | 'objects';
  readonly size?: TierSize;
  /** The whole record, `null` where there is none. May be given up by `signal`. */
  read(id: RecordId, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer> | null>;
  write(id: RecordId, record: Uint8Array<ArrayBuffer>): Promise<void>;
  /** Removes a record that is damaged. */
  drop(id: RecordId): Promise<void>;
}

export interface FeatureStoreOptions {
  /** Nearest first. */
  readonly tiers: readonly FeatureTier[];
  /** A tier that takes longer than this for a record is passed over, and the picture encoded. Default 500. */
  readonly readTimeoutMs?: number;
  /** Records that wait to be written may take this much memory; what comes beyond it is not stored. Default 64 MiB. */
  readonly maxPendingBytes?: number;
  /** After `maxFailures` failures in a row a tier is left alone for this long. Default 30,000. */
  readonly pauseMs?: number;
  readonly nowMs?: () => number;
  readonly onError?: (tier: FeatureTier['name'], error: unknown) => void;
}

/** Sums since start. */
export interface TierStats {
  readonly tier: FeatureTier['name'];
  queries: number;
  hits: number;
  /** Reads given up after `readTimeoutMs`. */
  timeouts: number;
  /** Reads and writes that failed otherwise. */
  failures: number;
  damaged: number;
  writes: number;
  writtenBytes: number;
  /** Records not written because too many waited. */
  dropped: number;
  readonly size: TierSize | null;
}

interface Shelf {
  readonly tier: FeatureTier;
  readonly counts: Omit<TierStats, 'size'>;
  failuresInARow: number;
  pausedUntilMs: number;
  /** Ends of the writes so far: one after the other. */
  writing: Promise<void>;
}

export interface Found {
  readonly tier: FeatureTier['name'];
  readonly picture: StoredPicture;
}

const MAX_FAILURES = 3;

/**
 * Features of pictures in tiers below the engine's memory: read nearest first within a time limit, written behind the requests.
 * Whatever is found in a farther tier moves to the nearer ones.
 */
export class FeatureStore {
  readonly #shelves: readonly Shelf[];
  readonly #readTimeoutMs: number;
  readonly #maxPendingBytes: number;
  readonly #pauseMs: number;
  readonly #nowMs: () => number;
  readonly #onError: (tier: FeatureTier['name'], error: unknown) => void;
  /** Reads under way, by record: who asks for the same one waits for the same read. */
  readonly #reading = new Map<string, Promise<Found | null>>();
  #pendingBytes = 0;

  constructor(options: FeatureStoreOptions) {
    this.#shelves = options.tiers.map((tier) => ({
      tier,
      counts: {
        tier: tier.name,
        queries: 0,
        hits: 0,
        timeouts: 0,
        failures: 0,
        damaged: 0,
        writes: 0,
        writtenBytes: 0,
        dropped: 0,
      },
      failuresInARow: 0,
      pausedUntilMs: 0,
      writing: Promise.resolve(),
    }));
    this.#readTimeoutMs = options.readTimeoutMs ?? 500;
    this.#maxPendingBytes = options.maxPendingBytes ?? 64 * 2 ** 20;
    this.#pauseMs = options.pauseMs ?? 30_000;
    this.#nowMs = options.nowMs ?? Date.now;
    this.#onError = options.onError ?? (() => {});
  }

  stats(): TierStats[] {
    return this.#shelves.map(({ tier, counts }) => ({ ...counts, size: tier.size ?? null }));
  }

  /** The features are shared by all who ask at once: copy them before handing them on. Never throws. */
  read(id: RecordId): Promise<Found | null> {
    const key = `${id.tenant} ${id.name}`;
    let reading = this.#reading.get(key);
    if (reading === undefined) {
      reading = this.#read(id).finally(() => this.#reading.delete(key));
      this.#reading.set(key, reading);
    }
    return reading;
  }

  /** Comes back at once; the record is written when its turn comes. */
  write(id: RecordId, picture: StoredPicture): void {
    this.#writeTo(this.#shelves, id, picture);
  }

  /** Waits for what is still being written, for at most `timeoutMs`. */
  async flush(timeoutMs: number): Promise<void> {
    const written = new AbortController();
    const all = Promise.all(this.#shelves.map(({ writing }) => writing));
    await Promise.race([all, elapsed(timeoutMs, written.signal)]);
    written.abort();
  }

  async #read(id: RecordId): Promise<Found | null> {
    for (const [index, shelf] of this.#shelves.entries()) {
      const picture = await this.#readFrom(shelf, id);
      if (picture === null) continue;
      this.#writeTo(this.#shelves.slice(0, index), id, picture);
      return { tier: shelf.tier.name, picture };
    }
    return null;
  }

  async #readFrom(shelf: Shelf, id: RecordId): Promise<StoredPicture | null> {
    const { tier, counts } = shelf;
    if (this.#nowMs() < shelf.pausedUntilMs) return null;
    counts.queries++;
    const giveUp = new AbortController();
    try {
      const record = await Promise.race([
        tier.read(id, giveUp.signal),
        elapsed(this.#readTimeoutMs, giveUp.signal).then(() => 'too late' as const),
      ]);
      if (record === 'too late') {
        counts.timeouts++;
        this.#failed(shelf);
        return null;
      }
      shelf.failuresInARow = 0;
      if (record === null) return null;
      const picture = await decodeRecord(id, record);
      counts.hits++;
      return picture;
    } catch (error) {
      if (error instanceof DamagedRecordError) {
        counts.damaged++;
        await tier.drop(id).catch(() => {});
      } else {
        counts.failures++;
        this.#failed(shelf);
      }
      this.#onError(tier.name, error);
      return null;
    } finally {
      giveUp.abort();
    }
  }

  #writeTo(shelves: readonly Shelf[], id: RecordId, picture: StoredPicture): void {
    const bytes = picture.features.byteLength;
    // One record for all; encoded once, when the first of them gets to it.
    let record: Promise<Uint8Array<ArrayBuffer>> | null = null;
    for (const shelf of shelves) {
      if (this.#pendingBytes + bytes > this.#maxPendingBytes) {
        shelf.counts.dropped++;
        continue;
      }
      this.#pendingBytes += bytes;
      shelf.writing = shelf.writing.then(async () => {
        try {
          if (this.#nowMs() < shelf.pausedUntilMs) {
            shelf.counts.dropped++;
            return;
          }
          record ??= encodeRecord(id, picture);
          await shelf.tier.write(id, await record);
          shelf.counts.writes++;
          shelf.counts.writtenBytes += (await record).byteLength;
          shelf.failuresInARow = 0;
        } catch (error) {
          shelf.counts.failures++;
          this.#failed(shelf);
          this.#onError(shelf.tier.name, error);
        } finally {
          this.#pendingBytes -= bytes;
        }
      });
    }
  }

  /** A tier that is down must not cost every request its time limit. */
  #failed(shelf: Shelf): void {
    shelf.failuresInARow++;
    if (shelf.failuresInARow < MAX_FAILURES) return;
    shelf.failuresInARow = 0;
    shelf.pausedUntilMs = this.#nowMs() + this.#pauseMs;
  }
}

function elapsed(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => clearTimeout(timer), { once: true });
  });
}
