import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { LayoutError, layoutConversation } from '../text/layout.ts';
import { ImageError } from '../vision/image-error.ts';
import { preprocessImage } from '../vision/preprocess.ts';
import type { BaseModel } from './base-model.ts';
import type { TrainingSample } from './batch.ts';
import { type ChatExample, DatasetError, dataUrlBytes, parseChatDataset } from './chat-dataset.ts';
import type { FeatureStore } from './feature-store.ts';

/** The usable examples of a file, and how many it has in all. */
export interface PreparedExamples {
  readonly examples: readonly ChatExample[];
  readonly total: number;
}

/** Turns chat examples into samples: layout by the model's template, features of their pictures. */
export class SampleMaker {
  constructor(
    private readonly base: BaseModel,
    private readonly features: FeatureStore,
    private readonly readImage: ((reference: string) => Promise<Uint8Array>) | undefined,
  ) {}

  /** Reads a file and checks every example's length before anything is trained. @throws DatasetError */
  async prepare(path: string, needsImages: boolean): Promise<PreparedExamples> {
    const all = parseChatDataset(await readFile(path, 'utf8'));
    for (const example of all) this.layout(example);
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

  private layout(example: ChatExample): ReturnType<typeof layoutConversation> {
    let layout: ReturnType<typeof layoutConversation>;
    try {
      layout = layoutConversation(example.messages, this.base.layout);
    } catch (error) {
      if (error instanceof LayoutError) throw new DatasetError(example.line, error.path, error.message);
      throw error;
    }
    const limit = this.base.config.text.maxPositions;
    if (layout.ids.length > limit)
      throw new DatasetError(
        example.line,
        'messages',
        `the example takes ${layout.ids.length} tokens, the model's context holds ${limit}; shorten or split it`,
      );
    return layout;
  }

  async make(example: ChatExample): Promise<TrainingSample> {
    const layout = this.layout(example);
    const images: Float32Array[] = [];
    for (const slot of layout.images) {
      const reference = example.images[slot.image] ?? '';
      const bytes = dataUrlBytes(reference);
      const key = bytes === undefined ? reference : createHash('sha256').update(bytes).digest('hex');
      images.push(
        await this.features.get(key, async () => {
          const file = bytes ?? (await this.readImage?.(reference));
          if (file === undefined)
            throw new DatasetError(
              example.line,
              'image_url',
              `expected a data URL or a known file id, got ${reference.slice(0, 80)}`,
            );
          try {
            return (await preprocessImage(file, this.base.recipe)).pixels_CHW;
          } catch (error) {
            if (error instanceof ImageError) throw new DatasetError(example.line, 'image_url', error.message);
            throw error;
          }
        }),
      );
    }
    return { layout, images };
  }
}
