import { LIMITS } from '../../shared/contract/limits.ts';
import { familyOf, type Picture } from '../models/family.ts';
import { visionTowerGraph } from '../models/vlm.ts';
import { Session, type Tensor } from '../runtime/session.ts';
import type { BaseModel } from './base-model.ts';
import type { SampleImage } from './batch.ts';
import { FeatureFiles, towerDigest } from './feature-files.ts';

export interface FeatureStoreOptions {
  readonly threads: number;
  /** The tower is trained, so pictures go in as they are. Default false. */
  readonly asPixels?: boolean;
  /** Of features in memory. Default LIMITS.training.featureMemoryBytes. */
  readonly maxBytes?: number;
  /** Folder in which features are kept over restarts. Default: none. */
  readonly dir?: string;
  /** Of features in that folder. Default LIMITS.training.featureDiskBytes. */
  readonly maxDiskBytes?: number;
}

/**
 * What a model makes of the pictures of a job: features of its frozen vision tower, or the pixels where it has none or trains it.
 * Computed once a picture, kept within budgets of bytes in memory and on disk, made again when dropped. Pictures run one at a
 * time, so that features do not depend on what else is in a batch; from disk they come as the bits that were computed.
 */
export class FeatureStore {
  private readonly kept = new Map<string, SampleImage>();
  private readonly underway = new Map<string, Promise<SampleImage>>();
  private bytes = 0;
  /** Pictures encoded by the tower in this process. */
  encoded = 0;

  private constructor(
    private readonly base: BaseModel,
    /** Undefined where pictures stay pixels. */
    private readonly session: Session | undefined,
    private readonly weights: Readonly<Record<string, Tensor>>,
    private readonly files: FeatureFiles | undefined,
    private readonly maxBytes: number,
  ) {}

  static async create(base: BaseModel, options: FeatureStoreOptions): Promise<FeatureStore> {
    const { config, weights, recipe } = base;
    const { maxBytes = LIMITS.training.featureMemoryBytes, dir } = options;
    if (!familyOf(config).hasTower || options.asPixels === true)
      return new FeatureStore(base, undefined, {}, undefined, maxBytes);
    const { graph, weights: needed } = visionTowerGraph(config);
    const own: Record<string, Tensor> = {};
    for (const name of needed.keys()) {
      const tensor = weights.get(name);
      if (tensor === undefined) throw new Error(`the checkpoint lacks ${name}`);
      own[name] = tensor;
    }
    const session = await Session.create(graph, { threads: options.threads });
    const maxDiskBytes = options.maxDiskBytes ?? LIMITS.training.featureDiskBytes;
    const files = dir === undefined ? undefined : new FeatureFiles(dir, towerDigest(config, own, recipe), maxDiskBytes);
    return new FeatureStore(base, session, own, files, maxBytes);
  }

  /** Whether it serves this model's pictures just as well: the same tower, and pixels or features alike. */
  fits(base: BaseModel, asPixels: boolean): boolean {
    const isPixels = asPixels || !familyOf(base.config).hasTower;
    return (
      isPixels === (this.session === undefined) &&
      Object.entries(this.weights).every(([name, tensor]) => base.weights.get(name) === tensor) &&
      base.recipe === this.base.recipe
    );
  }

  /** Whether one more picture would push an older one out of memory. */
  get isFull(): boolean {
    const [any] = this.kept.values();
    return this.bytes + (any === undefined ? 0 : bytesOf(any)) > this.maxBytes;
  }

  /**
   * Features of a picture as the family's `towerFeatures` gives them, or the picture.
   * @param key equal keys mean equal pixels: the SHA-256 of the file, hex
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
    let making = this.underway.get(key);
    if (making === undefined) {
      making = this.make(key, picture).finally(() => this.underway.delete(key));
      this.underway.set(key, making);
    }
    return await making;
  }

  private async make(key: string, picture: () => Promise<Picture>): Promise<SampleImage> {
    let made: SampleImage | undefined = await this.files?.read(key);
    if (made === undefined) {
      made = await this.encode(await picture());
      if (made instanceof Float32Array) await this.files?.write(key, made);
    }
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
    this.encoded++;
    const feeds = familyOf(this.base.config).pictureFeeds(this.base.config, [picture]);
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
