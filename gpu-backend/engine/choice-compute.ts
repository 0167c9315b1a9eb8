/** What comparing answers computes: features of pictures, and the log-probabilities of given tokens. No words and no files of pictures. */
import { join } from 'node:path';
import { choiceGraph } from '../models/choice-graph.ts';
import type { VlmConfig } from '../models/config.ts';
import { emptyPast } from '../models/empty-past.ts';
import type { Picture } from '../models/family.ts';
import { loadCheckpoint, readConfig } from '../models/load.ts';
import { GRAPH_NAMES, readManifest } from '../models/manifest.ts';
import { causalBias, type ModelGraph, visionGraph } from '../models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../runtime/session.ts';
import { type ChoiceBatch, unshared } from './choice-packing.ts';
import { encodePictures } from './encode-pictures.ts';
import { overlay } from './load-model.ts';
import { logSumExp } from './sampler.ts';

export interface ChoiceCompute {
  /** Features of pictures in their order: [slot length, hidden] of each. */
  encode(pictures: readonly Picture[]): Promise<Float32Array[]>;
  /** Natural logarithms, one a read. */
  logprobs(batch: ChoiceBatch): Promise<Float64Array>;
  close(): Promise<void>;
}

interface Compiled {
  readonly session: Session;
  readonly feeds: Record<string, Tensor>;
  /** Besides: what a decoder graph is fed of a past, where there is none. */
  readonly past?: (rows: number) => Record<string, Tensor>;
}

/** On the thread that calls it, which waits. */
export class LocalChoiceCompute implements ChoiceCompute {
  readonly #config: VlmConfig;
  readonly #vision: Compiled;
  readonly #withImages: Compiled;
  readonly #textOnly: Compiled;

  private constructor(
    config: VlmConfig,
    graphs: { readonly vision: Compiled; readonly withImages: Compiled; readonly textOnly: Compiled },
  ) {
    this.#config = config;
    this.#vision = graphs.vision;
    this.#withImages = graphs.withImages;
    this.#textOnly = graphs.textOnly;
  }

  /**
   * @param overlayDir files of a fine-tune to lay over the checkpoint, or `null`
   * @param threads of the kernels
   */
  static async create(dir: string, overlayDir: string | null, threads: number): Promise<LocalChoiceCompute> {
    if (readManifest(dir) !== null) {
      if (overlayDir !== null) throw new Error(`${dir} is an imported model, which takes no fine-tunes`);
      return await LocalChoiceCompute.#open(dir, threads);
    }
    const checkpoint = loadCheckpoint(dir);
    const { config } = checkpoint;
    const weights = overlayDir === null ? checkpoint.weights : overlay(checkpoint, overlayDir);
    const compile = async ({ graph, weights: needed }: ModelGraph): Promise<Compiled> => ({
      session: await Session.create(graph, { threads }),
      feeds: Object.fromEntries([...needed.keys()].map((name) => [name, weights.get(name)!])),
    });
    return new LocalChoiceCompute(config, {
      vision: await compile(visionGraph(config)),
      withImages: await compile(choiceGraph(config, { images: true })),
      textOnly: await compile(choiceGraph(config, { images: false })),
    });
  }

  /** An imported model has no graph without a cache: its decoder graph runs over an empty one. */
  static async #open(dir: string, threads: number): Promise<LocalChoiceCompute> {
    const config = readConfig(dir);
    const open = (name: string) => Session.open(join(dir, name), { threads, foldConstants: true });
    const decode: Compiled = {
      session: await open(GRAPH_NAMES.decode),
      feeds: {},
      past: (rows) => emptyPast(config, rows),
    };
    return new LocalChoiceCompute(config, {
      vision: { session: await open(GRAPH_NAMES.vision), feeds: {} },
      withImages: decode,
      textOnly: decode,
    });
  }

  async encode(pictures: readonly Picture[]): Promise<Float32Array[]> {
    return await encodePictures(this.#config, this.#vision, pictures);
  }

  async logprobs(batch: ChoiceBatch): Promise<Float64Array> {
    const { session, feeds, past } = batch.imageRows_I.length > 0 ? this.#withImages : this.#textOnly;
    const sequences = past === undefined ? packedFeeds(batch, this.#config) : paddedFeeds(batch, this.#config, past);
    const results = await session.run({ ...feeds, ...sequences }, ['logits']);
    const logits_RV = results.logits!.data as Float32Array;
    const vocabulary = logits_RV.length / batch.readAt_EQ.length;
    const totals = new Map<number, number>();
    return Float64Array.from(batch.wantedIds_R, (id, i) => {
      const at = batch.wantedAt_R[i]!;
      const logits_V = logits_RV.subarray(at * vocabulary, (at + 1) * vocabulary);
      const total = totals.get(at) ?? logSumExp(logits_V);
      totals.set(at, total);
      return logits_V[id]! - total;
    });
  }

  async close(): Promise<void> {
    const sessions = new Set([this.#vision, this.#withImages, this.#textOnly].map(({ session }) => session));
    for (const session of sessions) await session.release();
  }
}

/** What choiceGraph takes. */
function packedFeeds(batch: ChoiceBatch, { text }: VlmConfig): Record<string, Tensor> {
  const { sequences: E, length: L, reads: Q, readAt_EQ, rows_EL, ids_T, places_T } = batch;
  const causal_LL = causalBias(L, 1, text.slidingWindow);
  const readBias_EQL = new Float32Array(E * Q * L);
  for (const [i, at] of readAt_EQ.entries()) readBias_EQL.set(causal_LL.subarray(at * L, (at + 1) * L), i * L);
  return {
    ids: ints(ids_T, [1, ids_T.length]),
    places: ints(places_T, [places_T.length]),
    'group_rows.0': ints(rows_EL, [E * L]),
    'group_positions.0': ints(
      Int32Array.from({ length: E * L }, (_, i) => i % L),
      [E, L],
    ),
    'group_bias.0': f32(causal_LL, [L, L]),
    reads: ints(
      readAt_EQ.map((at, i) => rows_EL[Math.floor(i / Q) * L + at]!),
      [E * Q],
    ),
    read_positions: ints(readAt_EQ, [E, Q]),
    read_bias: f32(readBias_EQL, [E, 1, Q, L]),
    ...(batch.imageRows_I.length === 0 ? {} : imageFeeds(batch, text.hidden)),
  };
}

/** What a decoder graph takes, over an empty cache. */
function paddedFeeds(
  batch: ChoiceBatch,
  { text }: VlmConfig,
  past: NonNullable<Compiled['past']>,
): Record<string, Tensor> {
  const { sequences: E, length: L } = batch;
  const { ids_EL, readRows_EQ, ...images } = unshared(batch, text.hidden);
  return {
    ...past(E),
    ids: ints(ids_EL, [E, L]),
    positions: ints(
      Int32Array.from({ length: E * L }, (_, i) => i % L),
      [E, L],
    ),
    causal_bias: f32(causalBias(L, 1, text.slidingWindow), [L, L]),
    rows: ints(readRows_EQ, [readRows_EQ.length]),
    ...imageFeeds(images, text.hidden),
  };
}

function imageFeeds(
  { imageRows_I, features_IH }: Pick<ChoiceBatch, 'imageRows_I' | 'features_IH'>,
  hidden: number,
): Record<string, Tensor> {
  return {
    image_rows: ints(imageRows_I, [imageRows_I.length]),
    image_features: f32(features_IH, [imageRows_I.length, hidden]),
  };
}
