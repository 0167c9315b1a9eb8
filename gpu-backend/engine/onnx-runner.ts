import { join } from 'node:path';
import type { VlmConfig } from '../models/config.ts';
import { decodeGraph, hasPastWindow } from '../models/decode.ts';
import type { Picture } from '../models/family.ts';
import { GRAPH_NAMES } from '../models/manifest.ts';
import { causalBias, type ModelGraph, visionGraph } from '../models/vlm.ts';
import type { LoraSpec } from '../models/weights.ts';
import { f32, ints, Session, type Tensor } from '../runtime/session.ts';
import { encodePictures } from './encode-pictures.ts';
import type { ForwardBatch, ForwardResult, ModelRunner } from './runner.ts';

/** Weights by canonical name, as graph inputs take them. */
export type WeightTensors = ReadonlyMap<string, Tensor>;

interface Compiled {
  readonly session: Session;
  readonly weights: ReadonlyMap<string, readonly number[]>;
}

/**
 * Compiled graphs of one architecture. Weights are inputs of the graphs, so a fine-tune of a model runs on the sessions of its
 * base and shares every tensor that it did not change.
 */
export class RunnerSessions {
  private constructor(
    readonly config: VlmConfig,
    readonly vision: Compiled,
    /** Decoder steps without and with pictures among the new tokens. */
    readonly text: Compiled,
    readonly textAndImages: Compiled,
  ) {}

  /**
   * @param threads kernel threads of each session
   * @param lora adapter that the linear layers have beside them, its weights being inputs too
   */
  static async create(config: VlmConfig, threads: number, lora?: LoraSpec): Promise<RunnerSessions> {
    const compile = async ({ graph, weights }: ModelGraph): Promise<Compiled> => ({
      session: await Session.create(graph, { threads }),
      weights,
    });
    const own = lora === undefined ? {} : { lora };
    return new RunnerSessions(
      config,
      await compile(visionGraph(config, lora)),
      await compile(decodeGraph(config, { images: false, ...own })),
      await compile(decodeGraph(config, { images: true, ...own })),
    );
  }

  /** Opens the graphs of an imported model. Their weights lie in the file beside them; one decoder graph takes every step. */
  static async open(dir: string, config: VlmConfig, threads: number): Promise<RunnerSessions> {
    const open = async (name: string): Promise<Compiled> => ({
      session: await Session.open(join(dir, name), { threads, foldConstants: true }),
      weights: new Map(),
    });
    const decode = await open(GRAPH_NAMES.decode);
    return new RunnerSessions(config, await open(GRAPH_NAMES.vision), decode, decode);
  }
}

/** A model over ONNX Runtime: sessions and weights. Runs block the thread they are called on. */
export class OnnxRunner implements ModelRunner {
  readonly kv: ModelRunner['kv'];
  readonly #sessions: RunnerSessions;
  readonly #visionFeeds: Record<string, Tensor>;
  readonly #textFeeds: Record<string, Tensor>;
  readonly #textAndImagesFeeds: Record<string, Tensor>;
  readonly #outputs: readonly string[];
  /** `past_positions` of the last run that needed them; rows × T changes rarely. */
  #pastPositions: Tensor | null = null;

  /** @throws Error naming the first weight that is missing or of another shape */
  constructor(sessions: RunnerSessions, weights: WeightTensors) {
    const { text } = sessions.config;
    this.kv = { layers: text.layers, kvHeads: text.kvHeads, headDim: text.headDim };
    this.#sessions = sessions;
    this.#visionFeeds = pick(sessions.vision, weights);
    this.#textFeeds = pick(sessions.text, weights);
    this.#textAndImagesFeeds = pick(sessions.textAndImages, weights);
    const layers = Array.from({ length: text.layers }, (_, layer) => layer);
    this.#outputs = ['logits', ...layers.map((layer) => `new_k_${layer}`), ...layers.map((layer) => `new_v_${layer}`)];
  }

  encode(pictures: readonly Picture[]): Promise<Float32Array[]> {
    const { config, vision } = this.#sessions;
    return encodePictures(config, { session: vision.session, feeds: this.#visionFeeds }, pictures);
  }

  async forward(batch: ForwardBatch): Promise<ForwardResult> {
    const { rows: B, newTokens: S, pastTokens: T } = batch;
    const { layers, kvHeads, headDim } = this.kv;
    const feeds: Record<string, Tensor> = {
      ids: ints(batch.ids_BS, [B, S]),
      positions: ints(batch.positions_BS, [B, S]),
      causal_bias: f32(causalBias(S, 1, this.#sessions.config.text.slidingWindow), [S, S]),
      past_bias: f32(batch.pastBias_B11T, [B, 1, 1, T]),
      rows: ints(batch.logitRows_R, [batch.logitRows_R.length]),
    };
    for (let layer = 0; layer < layers; layer++) {
      feeds[`past_k_${layer}`] = f32(batch.pastKeys[layer]!, [B, kvHeads, T, headDim]);
      feeds[`past_v_${layer}`] = f32(batch.pastValues[layer]!, [B, kvHeads, T, headDim]);
    }
    if (hasPastWindow(this.#sessions.config)) feeds.past_positions = this.#positionsOfPast(B, T);
    const { text, textAndImages } = this.#sessions;
    // Where there is one decoder graph, it is fed no rows of features.
    const hasImages = batch.imageRows.length > 0 || text === textAndImages;
    if (hasImages) Object.assign(feeds, this.#imageFeeds(batch));
    const { session } = hasImages ? textAndImages : text;
    const weights = hasImages ? this.#textAndImagesFeeds : this.#textFeeds;
    const results = await session.run({ ...weights, ...feeds }, this.#outputs);
    const perLayer = (name: string) =>
      Array.from({ length: layers }, (_, layer) => floats(results, `${name}_${layer}`));
    return { logits_RV: floats(results, 'logits'), keys: perLayer('new_k'), values: perLayer('new_v') };
  }

  /** Sessions are shared and outlive the runner; weights go with the last reference. */
  async dispose(): Promise<void> {}

  /** [B, T]: every row counts its positions from 0. */
  #positionsOfPast(rows: number, tokens: number): Tensor {
    const known = this.#pastPositions;
    if (known !== null && known.shape[0] === rows && known.shape[1] === tokens) return known;
    const positions = Int32Array.from({ length: rows * tokens }, (_, index) => index % tokens);
    this.#pastPositions = ints(positions, [rows, tokens]);
    return this.#pastPositions;
  }

  #imageFeeds({ imageRows }: ForwardBatch): Record<string, Tensor> {
    const { hidden } = this.#sessions.config.text;
    const total = imageRows.reduce((sum, { features }) => sum + features.length / hidden, 0);
    const features_FD = new Float32Array(total * hidden);
    const rows_F: number[] = [];
    for (const { at, features } of imageRows) {
      features_FD.set(features, rows_F.length * hidden);
      for (let row = 0; row < features.length / hidden; row++) rows_F.push(at + row);
    }
    return { image_features: f32(features_FD, [total, hidden]), image_rows: ints(rows_F, [total]) };
  }
}

function pick({ weights: needed }: Compiled, weights: WeightTensors): Record<string, Tensor> {
  const feeds: Record<string, Tensor> = {};
  for (const [name, shape] of needed) {
    const tensor = weights.get(name);
    if (tensor === undefined) throw new Error(`the weights lack ${name}, expected ${shape.join('x')}`);
    if (tensor.shape.length !== shape.length || tensor.shape.some((size, axis) => size !== shape[axis]))
      throw new Error(`weight ${name}: expected ${shape.join('x')}, received ${tensor.shape.join('x')}`);
    feeds[name] = tensor;
  }
  return feeds;
}

function floats(results: Readonly<Record<string, Tensor>>, name: string): Float32Array {
  const data = results[name]?.data;
  if (!(data instanceof Float32Array))
    throw new Error(`expected the output ${name} as f32, received ${results[name]?.dtype ?? 'nothing'}`);
  return data;
}
