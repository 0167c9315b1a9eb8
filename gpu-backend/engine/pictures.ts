import { ApiError, type Violation } from '../../shared/contract/errors.ts';
import type { Picture, PictureSize } from '../models/family.ts';
import { ImageError } from '../vision/image-error.ts';
import { type DecodePool, DecodePoolFullError } from '../vision/pool.ts';
import type { PreprocessedImage } from '../vision/preprocess.ts';
import { featureKey, fileKey, recordName } from './feature-key.ts';
import type { FeatureStore, FeatureTier } from './feature-store.ts';
import type { RecordId } from './feature-store-record.ts';
import type { ModelFront } from './model-front.ts';
import type { EngineThread } from './thread.ts';

/** Bounded memory of file bytes → digest and size of the pixels, so that a picture seen before is not decoded to find its features. */
const MAX_KNOWN_PICTURES = 8192;

interface KnownPicture extends PictureSize {
  readonly pixelDigest: string;
}

/** Where the features of a picture were found; `null` = nowhere, it is encoded. */
export type FeatureSource = 'memory' | FeatureTier['name'] | null;

/** A picture on its way to the engine. */
export interface PreparedPicture {
  readonly key: string;
  /** As the model sees it. */
  readonly size: PictureSize;
  /** `null` where its features are cached, and held for the request. */
  readonly picture: Picture | null;
  readonly source: FeatureSource;
}

/** What all pictures of a request have in common. */
export interface PictureContext {
  /** `cacheScope` of model and tenant. */
  readonly scope: string;
  /** Who sends them; `null` = nobody that can be named: nothing is remembered. */
  readonly tenant: string | null;
  readonly front: ModelFront;
}

/** Sums since start. */
export interface PictureCounts {
  /** Pictures of requests, each once a request. */
  asked: number;
  memory: number;
  disk: number;
  objects: number;
  decoded: number;
}

/** A picture of the request that is being prepared. */
interface Asked {
  readonly blob: number;
  readonly path: string;
  readonly bytes: Uint8Array;
  readonly file: string;
  readonly known: KnownPicture | null;
}

interface Found extends PreparedPicture {
  readonly pixelDigest: string;
  /** Features that are not in the engine's memory yet. */
  readonly features: Float32Array<ArrayBuffer> | null;
}

/** A picture file in the decoder's hands, and how many requests wait for it. */
interface Decoding {
  readonly image: Promise<PreprocessedImage>;
  waiting: number;
}

/**
 * Pictures between the request and the engine: recognised by their bytes, their features looked for in the engine's memory, then
 * in the store; what is found nowhere is decoded, and stored once the engine has encoded it.
 */
export class Pictures {
  readonly counts: PictureCounts = { asked: 0, memory: 0, disk: 0, objects: 0, decoded: 0 };
  readonly #decoders: DecodePool;
  readonly #store: FeatureStore | null;
  /** `fileKey` → what the file decodes to. Map order is use order. */
  readonly #known = new Map<string, KnownPicture>();
  /** By `fileKey`: many who ask about the same new picture at once have it decoded once. */
  readonly #decoding = new Map<string, Decoding>();

  /**
   * @param decoders where pictures are decoded; closed by the caller
   * @param store where features outlive the process; flushed by the caller
   */
  constructor(decoders: DecodePool, store: FeatureStore | null) {
    this.#decoders = decoders;
    this.#store = store;
  }

  /** Size of the picture as the model sees it. @throws ApiError that says what is wrong with the picture at `path` */
  async sizeOf(bytes: Uint8Array, path: string, context: PictureContext): Promise<PictureSize> {
    const file = fileKey(bytes, context.front.recipe, context.tenant);
    return this.#recall(file) ?? (await this.#decode({ bytes, path, file }, context));
  }

  /**
   * Pixels of the pictures whose features are found nowhere. All other features are in the engine's memory, pinned for `id` until
   * it ends or is released.
   * @param thread the engine that the request goes to
   * @param pictures blobs, each once, and where they stand
   * @throws ApiError that says what is wrong with the first bad picture
   */
  async prepare(
    thread: EngineThread,
    id: string,
    pictures: ReadonlyMap<number, string>,
    blobs: readonly Uint8Array[],
    context: PictureContext,
  ): Promise<ReadonlyMap<number, PreparedPicture>> {
    if (pictures.size === 0) return new Map();
    const { scope, tenant, front } = context;
    const asked = [...pictures].map(([blob, path]): Asked => {
      const bytes = blobs[blob]!;
      const file = fileKey(bytes, front.recipe, tenant);
      return { blob, path, bytes, file, known: this.#recall(file) };
    });
    this.counts.asked += asked.length;
    const recognised = asked.filter(({ known }) => known !== null);
    const keys = recognised.map(({ known }) => featureKey(scope, known!.pixelDigest));
    const missing = new Set(await thread.call('hold', { request: id, keys }));
    const held = new Set(recognised.filter((_, index) => !missing.has(index)));
    // All of them, whatever becomes of one: what is pinned after the request was released would stay pinned.
    const settled = await Promise.allSettled(asked.map((one) => this.#find(one, held.has(one), context)));
    const found = settled.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
    if (found.length < asked.length)
      throw allRefused(settled.flatMap((one) => (one.status === 'rejected' ? [one.reason as unknown] : [])));
    await this.#bring(thread, id, asked, found, context);
    return new Map(found.map(({ key, size, picture, source }, i) => [asked[i]!.blob, { key, size, picture, source }]));
  }

  async #find(asked: Asked, isHeld: boolean, context: PictureContext): Promise<Found> {
    const { known, file } = asked;
    const { scope } = context;
    if (known !== null && isHeld) {
      this.counts.memory++;
      const { pixelDigest } = known;
      const key = featureKey(scope, pixelDigest);
      return { key, pixelDigest, size: known, picture: null, features: null, source: 'memory' };
    }
    const record = this.#record(file, context);
    const stored = record === null ? null : await this.#store!.read(record);
    if (stored !== null) {
      const { tier, picture } = stored;
      const { pixelDigest, width, height } = picture;
      this.counts[tier]++;
      this.#remember(file, { pixelDigest, width, height });
      // A copy: others who asked at the same time have the same one.
      const features = picture.features.slice();
      const key = featureKey(scope, pixelDigest);
      return { key, pixelDigest, size: picture, picture: null, features, source: tier };
    }
    const { pixels_CHW, width, height, digest } = await this.#decode(asked, context);
    const picture = { pixels_CHW, width, height };
    return {
      key: featureKey(scope, digest),
      pixelDigest: digest,
      size: { width, height },
      picture,
      features: null,
      source: null,
    };
  }

  /** Hands what the store had to the engine, and asks for what it will compute. */
  async #bring(
    thread: EngineThread,
    id: string,
    asked: readonly Asked[],
    found: readonly Found[],
    context: PictureContext,
  ): Promise<void> {
    const restored = found.flatMap(({ key, features }) => (features === null ? [] : [{ key, features }]));
    const wanted = new Map<string, { readonly record: RecordId; readonly picture: KnownPicture }[]>();
    for (const [index, { key, pixelDigest, size, source }] of found.entries()) {
      const record = source === null ? this.#record(asked[index]!.file, context) : null;
      if (record === null) continue;
      const picture = { pixelDigest, width: size.width, height: size.height };
      // Two files may hold the same pixels.
      wanted.set(key, [...(wanted.get(key) ?? []), { record, picture }]);
    }
    if (restored.length === 0 && wanted.size === 0) return;
    thread.listen(id, (key, features) => {
      for (const { record, picture } of wanted.get(key) ?? []) this.#store?.write(record, { ...picture, features });
    });
    const buffers = restored.map(({ features }) => features.buffer);
    await thread.call('restore', { request: id, found: restored, want: [...wanted.keys()] }, buffers);
  }

  /** Where the picture is stored; `null` = nowhere. */
  #record(file: string, { scope, tenant }: PictureContext): RecordId | null {
    return this.#store === null || tenant === null ? null : { tenant, name: recordName(scope, file) };
  }

  /**
   * @returns pixels in a buffer of the caller's own, which can be handed to another thread
   * @throws ApiError that says what is wrong with the picture, or that too many wait
   */
  async #decode(
    { bytes, path, file }: Pick<Asked, 'bytes' | 'path' | 'file'>,
    { front, tenant }: PictureContext,
  ): Promise<PreprocessedImage> {
    let decoding = tenant === null ? undefined : this.#decoding.get(file);
    if (decoding === undefined) {
      this.counts.decoded++;
      // Nobody joins once those who wait go on: they may hand the pixels to another thread.
      const image = this.#decoders.preprocess(bytes, front.recipe).finally(() => this.#decoding.delete(file));
      decoding = { image, waiting: 0 };
      if (tenant !== null) this.#decoding.set(file, decoding);
    }
    decoding.waiting++;
    const image = await decoding.image.catch((error: unknown) => {
      if (error instanceof DecodePoolFullError) throw new ApiError('overloaded', error.message);
      if (!(error instanceof ImageError)) throw error;
      throw new ApiError(error.code, `${path}: ${error.message}`, { param: path });
    });
    const { digest, width, height, pixels_CHW } = image;
    if (tenant !== null) this.#remember(file, { pixelDigest: digest, width, height });
    const isShared = decoding.waiting > 1 || pixels_CHW.byteLength < pixels_CHW.buffer.byteLength;
    return isShared ? { ...image, pixels_CHW: pixels_CHW.slice() } : image;
  }

  #recall(file: string): KnownPicture | null {
    const known = this.#known.get(file);
    if (known === undefined) return null;
    this.#remember(file, known);
    return known;
  }

  #remember(file: string, known: KnownPicture): void {
    this.#known.delete(file);
    this.#known.set(file, known);
    if (this.#known.size <= MAX_KNOWN_PICTURES) return;
    const oldest = this.#known.keys().next();
    if (oldest.done !== true) this.#known.delete(oldest.value);
  }
}

/** What to throw where several pictures are bad: one error that names them all. What is no fault of a picture goes first, and alone. */
function allRefused(reasons: readonly unknown[]): unknown {
  const violations: Violation[] = [];
  for (const reason of reasons) {
    if (!(reason instanceof ApiError) || reason.status >= 500) return reason;
    violations.push({ code: reason.code, param: reason.options.param ?? null, message: reason.message });
  }
  return violations.length === 1 ? reasons[0] : ApiError.from(violations);
}
