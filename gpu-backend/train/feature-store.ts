import type { VlmConfig } from '../models/config.ts';
import { visionTowerGraph } from '../models/vlm.ts';
import { f32, Session, type Tensor } from '../runtime/session.ts';

/**
 * What the frozen vision tower gives for the pictures of a job: computed once a picture, kept within a budget of bytes, made
 * again when dropped. Pictures run one at a time, so that features do not depend on what else is in a batch.
 */
export class FeatureStore {
  private readonly kept = new Map<string, Float32Array>();
  private bytes = 0;

  private constructor(
    private readonly session: Session,
    private readonly weights: Readonly<Record<string, Tensor>>,
    private readonly config: VlmConfig,
    private readonly maxBytes: number,
  ) {}

  static async create(
    config: VlmConfig,
    weights: ReadonlyMap<string, Tensor>,
    options: { readonly threads: number; readonly maxBytes?: number },
  ): Promise<FeatureStore> {
    const { graph, weights: needed } = visionTowerGraph(config);
    const session = await Session.create(graph, { threads: options.threads });
    const own: Record<string, Tensor> = {};
    for (const name of needed.keys()) {
      const tensor = weights.get(name);
      if (tensor === undefined) throw new Error(`the checkpoint lacks ${name}`);
      own[name] = tensor;
    }
    return new FeatureStore(session, own, config, options.maxBytes ?? 512 * 1024 * 1024);
  }

  /** Whether one more picture would push an older one out. */
  get isFull(): boolean {
    const [any] = this.kept.values();
    return this.bytes + (any?.byteLength ?? 0) > this.maxBytes;
  }

  /**
   * Features [tokensPerImage · vision hidden] of a picture.
   * @param key equal keys mean equal pixels
   * @param pixels called when the features have to be computed: [3 · H · W]
   */
  async get(key: string, pixels: () => Promise<Float32Array>): Promise<Float32Array> {
    const known = this.kept.get(key);
    if (known !== undefined) {
      // Most recently used last.
      this.kept.delete(key);
      this.kept.set(key, known);
      return known;
    }
    const side = this.config.vision.imageSize;
    const results = await this.session.run({
      ...this.weights,
      pixel_values: f32(await pixels(), [1, 3, side, side]),
    });
    const features = Float32Array.from(results.vision_features?.data as Float32Array);
    this.kept.set(key, features);
    this.bytes += features.byteLength;
    for (const [oldest, old] of this.kept) {
      if (this.bytes <= this.maxBytes || oldest === key) break;
      this.kept.delete(oldest);
      this.bytes -= old.byteLength;
    }
    return features;
  }

  async release(): Promise<void> {
    this.kept.clear();
    await this.session.release();
  }
}
