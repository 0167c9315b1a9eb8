import type { VlmConfig } from '../models/config.ts';
import { familyOf, type Picture } from '../models/family.ts';
import { visionTowerGraph } from '../models/vlm.ts';
import { Session, type Tensor } from '../runtime/session.ts';
import type { SampleImage } from './batch.ts';

/**
 * What a frozen model makes of the pictures of a job: features of its vision tower, or the pixels where it has none. Computed
 * once a picture, kept within a budget of bytes, made again when dropped. Pictures run one at a time, so that features do not
 * depend on what else is in a batch.
 */
export class FeatureStore {
  private readonly kept = new Map<string, SampleImage>();
  private bytes = 0;

  private constructor(
    /** Undefined where there is no tower. */
    private readonly session: Session | undefined,
    private readonly weights: Readonly<Record<string, Tensor>>,
    private readonly config: VlmConfig,
    private readonly maxBytes: number,
  ) {}

  static async create(
    config: VlmConfig,
    weights: ReadonlyMap<string, Tensor>,
    options: { readonly threads: number; readonly maxBytes?: number },
  ): Promise<FeatureStore> {
    const { maxBytes = 512 * 1024 * 1024 } = options;
    if (!familyOf(config).hasTower) return new FeatureStore(undefined, {}, config, maxBytes);
    const { graph, weights: needed } = visionTowerGraph(config);
    const session = await Session.create(graph, { threads: options.threads });
    const own: Record<string, Tensor> = {};
    for (const name of needed.keys()) {
      const tensor = weights.get(name);
      if (tensor === undefined) throw new Error(`the checkpoint lacks ${name}`);
      own[name] = tensor;
    }
    return new FeatureStore(session, own, config, maxBytes);
  }

  /** Whether one more picture would push an older one out. */
  get isFull(): boolean {
    const [any] = this.kept.values();
    return this.bytes + (any === undefined ? 0 : bytesOf(any)) > this.maxBytes;
  }

  /**
   * Features of a picture as the family's `towerFeatures` gives them, or the picture.
   * @param key equal keys mean equal pixels
   * @param picture called when the features have to be computed
   */
  async get(key: string, picture: () => Promise<Picture>): Promise<SampleImage> {
    const known = this.kept.get(key);
    if (known !== undefined) {
      // Most recently used last.
      this.kept.delete(key);
      this.kept.set(key, known);
      return known;
    }
    const made = await this.encode(await picture());
    this.kept.set(key, made);
    this.bytes += bytesOf(made);
    for (const [oldest, old] of this.kept) {
      if (this.bytes <= this.maxBytes || oldest === key) break;
      this.kept.delete(oldest);
      this.bytes -= bytesOf(old);
    }
    return made;
  }

  private async encode({ pixels_CHW, width, height }: Picture): Promise<SampleImage> {
    const picture = { pixels_CHW, width, height };
    if (this.session === undefined) return picture;
    const feeds = familyOf(this.config).pictureFeeds(this.config, [picture]);
    const results = await this.session.run({ ...this.weights, ...feeds });
    return Float32Array.from(results.vision_features?.data as Float32Array);
  }

  async release(): Promise<void> {
    this.kept.clear();
    await this.session?.release();
  }
}

function bytesOf(image: SampleImage): number {
  return (image instanceof Float32Array ? image : image.pixels_CHW).byteLength;
}
