import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { contextTokens } from '../models/llama.ts';
import { type Layout, LayoutError, layoutConversation } from '../text/layout.ts';
import { readPictureSize } from '../vision/decode.ts';
import { ImageError } from '../vision/image-error.ts';
import { modelSize, preprocessImage } from '../vision/preprocess.ts';
import type { BaseModel } from './base-model.ts';
import type { SampleImage, TrainingSample } from './batch.ts';
import { type ChatExample, DatasetError, dataUrlBytes, parseChatDataset } from './chat-dataset.ts';
import type { FeatureStore } from './feature-store.ts';

/** The usable examples of a file, and how many it has in all. */
export interface PreparedExamples {
  readonly examples: readonly ChatExample[];
  readonly total: number;
}

/** Turns chat examples into samples: layout by the model's template, features of their pictures. */
export class SampleMaker {
  /** By picture; used where not all have the same slot. */
  private readonly slotIds = new Map<string, readonly number[]>();

  constructor(
    private readonly base: BaseModel,
    private readonly features: FeatureStore,
    private readonly readImage: ((reference: string) => Promise<Uint8Array>) | undefined,
  ) {}

  /** Reads a file and checks every example's length before anything is trained. @throws DatasetError */
  async prepare(path: string, needsImages: boolean): Promise<PreparedExamples> {
    const all = parseChatDataset(await readFile(path, 'utf8'));
    for (const example of all) await this.layout(example);
    const examples = needsImages ? all.filter((e) => e.images.length > 0) : all;
    return { examples, total: all.length };
  }

  /**
   * Decodes and encodes pictures before the first step, so that a broken one fails the job at once; it stops early when they do
   * not all fit the store (they would only push each other out) or on `signal`.
   * @returns number of pictures of the examples looked at @throws DatasetError
   */
  async look(examples: readonly ChatExample[], signal: AbortSignal | undefined): Promise<number> {
    let count = 0;
    for (const example of examples) {
      if (signal?.aborted === true || this.features.isFull) break;
      count += (await this.make(example)).images.length;
    }
    return count;
  }

  private async layout(example: ChatExample): Promise<Layout> {
    const { layout: options, slots, config } = this.base;
    const own: (readonly number[])[] = [];
    if (slots.fixed === null)
      for (const reference of example.images) own.push(await this.slotOf(reference, example.line));
    let layout: Layout;
    try {
      layout = layoutConversation(example.messages, {
        ...options,
        tokensPerImage: (image) => slots.fixed ?? own[image] ?? [],
      });
    } catch (error) {
      if (error instanceof LayoutError) throw new DatasetError(example.line, error.path, error.message);
      throw error;
    }
    const limit = contextTokens(config.text);
    if (layout.ids.length > limit)
      throw new DatasetError(
        example.line,
        'messages',
        `the example takes ${layout.ids.length} tokens, the model's context holds ${limit}; shorten or split it`,
      );
    return layout;
  }

  async make(example: ChatExample): Promise<TrainingSample<SampleImage>> {
    const layout = await this.layout(example);
    const images: SampleImage[] = [];
    for (const slot of layout.images) {
      const reference = example.images[slot.image] ?? '';
      images.push(
        await this.features.get(keyOf(reference), () =>
          this.read(reference, example.line, (file) => preprocessImage(file, this.base.recipe)),
        ),
      );
    }
    return { layout, images };
  }

  /** Where slots depend on the picture: its size is in the file's header, so lengths are known without decoding. */
  private async slotOf(reference: string, line: number): Promise<readonly number[]> {
    const key = keyOf(reference);
    let slot = this.slotIds.get(key);
    if (slot === undefined) {
      const { width, height } = await this.read(reference, line, readPictureSize);
      slot = this.base.slots.idsOf(modelSize(width, height, this.base.recipe));
      this.slotIds.set(key, slot);
    }
    return slot;
  }

  /** @throws DatasetError where there is no such picture, or it is none */
  private async read<T>(reference: string, line: number, open: (file: Uint8Array) => Promise<T>): Promise<T> {
    const file = dataUrlBytes(reference) ?? (await this.readImage?.(reference));
    if (file === undefined)
      throw new DatasetError(
        line,
        'image_url',
        `expected a data URL or a known file id, got ${reference.slice(0, 80)}`,
      );
    try {
      return await open(file);
    } catch (error) {
      if (error instanceof ImageError) throw new DatasetError(line, 'image_url', error.message);
      throw error;
    }
  }
}

/** Equal keys mean equal pictures. */
function keyOf(reference: string): string {
  const bytes = dataUrlBytes(reference);
  return bytes === undefined ? reference : createHash('sha256').update(bytes).digest('hex');
}
