import { ApiError } from '../../shared/contract/errors.ts';
import type { Picture, PictureSize } from '../models/family.ts';
import { ImageError } from '../vision/image-error.ts';
import { type DecodePool, DecodePoolFullError } from '../vision/pool.ts';
import type { PreprocessedImage } from '../vision/preprocess.ts';
import { featureKey, fileKey } from './feature-key.ts';
import type { ModelFront } from './model-front.ts';
import type { EngineThread } from './thread.ts';

/** Bounded memory of file bytes → digest and size of the pixels, so that a picture seen before is not decoded to find its features. */
const MAX_KNOWN_PICTURES = 8192;

interface KnownPicture extends PictureSize {
  readonly digest: string;
}

/** A picture on its way to the engine. */
export interface PreparedPicture {
  readonly key: string;
  /** As the model sees it. */
  readonly size: PictureSize;
  /** `null` where its features are cached, and held for the request. */
  readonly picture: Picture | null;
}

export interface PictureFile {
  readonly bytes: Uint8Array;
  /** Who sends it; `null` = nobody that can be named. */
  readonly tenant: string | null;
}

/** What a request says about its pictures. */
export interface PictureRequest {
  readonly id: string;
  readonly cacheScope: string;
  readonly tenant: string | null;
  readonly pictures: ReadonlyMap<number, string>;
  readonly blobs: readonly Uint8Array[];
  readonly front: ModelFront;
}

/** Pictures between the request and the engine: recognised by their bytes, decoded where their features are not cached. */
export class Pictures {
  readonly #decoders: DecodePool;
  /** File, recipe and tenant → the pixels they decode to, by digest. */
  readonly #known = new Map<string, KnownPicture>();

  /** @param decoders where pictures are decoded; closed by the caller */
  constructor(decoders: DecodePool) {
    this.#decoders = decoders;
  }

  /** Size of the picture as the model sees it. @throws ApiError that says what is wrong with the picture at `path` */
  async sizeOf(file: PictureFile, path: string, front: ModelFront): Promise<PictureSize> {
    return this.#known.get(keyOf(file, front)) ?? (await this.#decode(file, path, front));
  }

  /**
   * Pixels of the pictures whose features are not cached. Features that are cached stay pinned for `id`.
   * @param thread the engine that the request goes to
   * @param request.pictures blobs, each once, and where they stand
   */
  async prepare(
    thread: EngineThread,
    { id, cacheScope, tenant, pictures, blobs, front }: PictureRequest,
  ): Promise<ReadonlyMap<number, PreparedPicture>> {
    const fileOf = (blob: number): PictureFile => ({ bytes: blobs[blob]!, tenant });
    const known = [...pictures.keys()].map((blob) => this.#known.get(keyOf(fileOf(blob), front)) ?? null);
    const keys = known.map((one) => (one === null ? `unknown ${id}` : featureKey(cacheScope, one.digest)));
    const missing = new Set(await thread.call('hold', { request: id, keys }));
    const prepared = await Promise.all(
      [...pictures].map(async ([blob, path], index): Promise<[number, PreparedPicture]> => {
        const size = known[index] ?? null;
        if (size !== null && !missing.has(index)) return [blob, { key: keys[index]!, size, picture: null }];
        const { pixels_CHW, width, height, digest } = await this.#decode(fileOf(blob), path, front);
        const picture = { pixels_CHW: owned(pixels_CHW), width, height };
        return [blob, { key: featureKey(cacheScope, digest), size: picture, picture }];
      }),
    );
    return new Map(prepared);
  }

  /** @throws ApiError that says what is wrong with the picture at `path`, or that too many wait */
  async #decode(file: PictureFile, path: string, front: ModelFront): Promise<PreprocessedImage> {
    const image = await this.#decoders.preprocess(file.bytes, front.recipe).catch((error: unknown) => {
      if (error instanceof DecodePoolFullError) throw new ApiError('overloaded', error.message);
      if (!(error instanceof ImageError)) throw error;
      throw new ApiError(error.code, `${path}: ${error.message}`, { param: path });
    });
    const { digest, width, height } = image;
    this.#known.set(keyOf(file, front), { digest, width, height });
    const oldest = this.#known.keys().next();
    if (this.#known.size > MAX_KNOWN_PICTURES && oldest.done !== true) this.#known.delete(oldest.value);
    return image;
  }
}

function keyOf({ bytes, tenant }: PictureFile, { recipe }: ModelFront): string {
  return fileKey(bytes, recipe, tenant);
}

/** The same values in a buffer of their own, which can be handed to another thread without taking anything else along. */
function owned(values: Float32Array): Float32Array {
  return values.byteLength === values.buffer.byteLength ? values : values.slice();
}
