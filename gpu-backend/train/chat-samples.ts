import { createHash } from 'node:crypto';
import { type Layout, LayoutError, layoutConversation } from '../text/layout.ts';
import { readPictureSize } from '../vision/decode.ts';
import { ImageError } from '../vision/image-error.ts';
import { modelSize, preprocessImage } from '../vision/preprocess.ts';
import type { BaseModel } from './base-model.ts';
import type { ImageSource, SampleImage, TrainingSample } from './batch.ts';
import type { DataExample } from './data/example.ts';
import type { FeatureStore } from './feature-store.ts';

/** An example that cannot be used. The message names its line, and the field where there is one. */
export class DatasetError extends Error {
  override readonly name = 'DatasetError';
  constructor(
    readonly line: number,
    readonly path: string,
    message: string,
  ) {
    super(`line ${line}: ${path}: ${message}`);
  }
}

const STORED = /^sha256:([0-9a-f]{64})$/;

/** Turns examples into samples: layout by the model's template, features of their pictures. */
export class SampleMaker {
  /** Size that the model sees, by picture; used where not all have the same slot. */
  private readonly sizes = new Map<string, { readonly width: number; readonly height: number }>();
  /** SHA-256 of pictures that are named otherwise, by reference. */
  private readonly digests = new Map<string, string>();

  /**
   * @param readImage bytes of a picture of an example; throws where there is none
   * @param features what is made of pictures; not needed to lay examples out
   */
  constructor(
    private readonly base: BaseModel,
    private readonly readImage: (reference: string) => Promise<Uint8Array>,
    private readonly features?: FeatureStore,
  ) {}

  /**
   * The example as the model reads it. No picture is decoded; where slots depend on their sizes, headers are read.
   * @throws DatasetError
   */
  async layout(example: DataExample): Promise<Layout> {
    const { layout: options, slots } = this.base;
    const own: (readonly number[])[] = [];
    if (slots.fixed === null)
      for (const reference of example.images) own.push(await this.slotOf(reference, example.line));
    try {
      return layoutConversation(example.messages, {
        ...options,
        tokensPerImage: (image) => slots.fixed ?? own[image] ?? [],
      });
    } catch (error) {
      if (error instanceof LayoutError) throw new DatasetError(example.line, error.path, error.message);
      throw error;
    }
  }

  /** Its pictures are read, decoded and encoded when their micro-batch is computed. @throws DatasetError */
  async make(example: DataExample): Promise<TrainingSample<ImageSource>> {
    const layout = await this.layout(example);
    const images = layout.images.map(
      ({ image }) =>
        () =>
          this.image(example.images[image] ?? '', example.line),
    );
    return { layout, images };
  }

  /** What goes into the slot of a picture. @throws DatasetError where there is no such picture, or it is none */
  async image(reference: string, line: number): Promise<SampleImage> {
    let digest = STORED.exec(reference)?.[1] ?? this.digests.get(reference);
    let file: Uint8Array | undefined;
    if (digest === undefined) {
      file = await this.read(reference, line, async (bytes) => bytes);
      digest = createHash('sha256').update(file).digest('hex');
      this.digests.set(reference, digest);
    }
    if (this.features === undefined) throw new Error('this maker only lays examples out');
    return await this.features.get(digest, () =>
      this.read(reference, line, (bytes) => preprocessImage(bytes, this.base.recipe), file),
    );
  }

  private async slotOf(reference: string, line: number): Promise<readonly number[]> {
    let size = this.sizes.get(reference);
    if (size === undefined) {
      const { width, height } = await this.read(reference, line, readPictureSize);
      size = modelSize(width, height, this.base.recipe);
      this.sizes.set(reference, size);
    }
    return this.base.slots.idsOf(size);
  }

  private async read<T>(
    reference: string,
    line: number,
    open: (file: Uint8Array) => Promise<T>,
    known?: Uint8Array,
  ): Promise<T> {
    let file = known;
    try {
      file ??= await this.readImage(reference);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new DatasetError(line, 'image_url', `the picture ${reference.slice(0, 80)} could not be read: ${reason}`);
    }
    try {
      return await open(file);
    } catch (error) {
      if (error instanceof ImageError) throw new DatasetError(line, 'image_url', error.message);
      throw error;
    }
  }
}
