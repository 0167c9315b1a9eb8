/** What comparing answers computes: features of pictures, and the log-probabilities of given tokens. No words and no files of pictures. */
import { join } from 'node:path';
import type { VlmConfig } from '../models/config.ts';
import { emptyPast } from '../models/empty-past.ts';
import type { Picture } from '../models/family.ts';
import { loadCheckpoint, readConfig } from '../models/load.ts';
import { GRAPH_NAMES, readManifest } from '../models/manifest.ts';
import { causalBias, forwardGraph, type ModelGraph, visionGraph } from '../models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../runtime/session.ts';
import { encodePictures } from './encode-pictures.ts';
import { overlay } from './load-model.ts';
import { logSumExp } from './sampler.ts';

/** Sequences of one run: B rows of S tokens, filled up on the right, where causal attention never looks. */
export interface ChoiceBatch {
  readonly batch: number;
  readonly length: number;
  readonly ids_BS: Int32Array;
  /** Positions in `ids_BS` that are read, and the token whose probability is wanted after each. */
  readonly readAt_R: Int32Array;
  readonly readIds_R: Int32Array;
  /** Positions in `ids_BS` of picture slots, and their features. */
  readonly imageRows_I: Int32Array;
  readonly features_IH: Float32Array;
}

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
      withImages: await compile(forwardGraph(config, { images: 'features', rows: true })),
      textOnly: await compile(forwardGraph(config, { images: 'none', rows: true })),
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
    const { batch: B, length: S, imageRows_I, features_IH, readIds_R } = batch;
    const { session, feeds, past } = imageRows_I.length > 0 ? this.#withImages : this.#textOnly;
    const results = await session.run(
      {
        ...feeds,
        ...past?.(B),
        ids: ints(batch.ids_BS, [B, S]),
        positions: ints(
          Int32Array.from({ length: B * S }, (_, i) => i % S),
          [B, S],
        ),
        causal_bias: f32(causalBias(S, 1, this.#config.text.slidingWindow), [S, S]),
        rows: ints(batch.readAt_R, [batch.readAt_R.length]),
        ...(imageRows_I.length === 0 && past === undefined
          ? {}
          : {
              image_rows: ints(imageRows_I, [imageRows_I.length]),
              image_features: f32(features_IH, [imageRows_I.length, this.#config.text.hidden]),
            }),
      },
      ['logits'],
    );
    const logits_RV = results.logits!.data as Float32Array;
    const vocabulary = logits_RV.length / readIds_R.length;
    return Float64Array.from(readIds_R, (id, row) => {
      const logits_V = logits_RV.subarray(row * vocabulary, (row + 1) * vocabulary);
      return logits_V[id]! - logSumExp(logits_V);
    });
  }

  async close(): Promise<void> {
    const sessions = new Set([this.#vision, this.#withImages, this.#textOnly].map(({ session }) => session));
    for (const session of sessions) await session.release();
  }
}
