/**
 * Log-probabilities of given answers, without generating: the choice a model prefers is the one whose tokens it finds most
 * likely after the prompt. Sequences are batched by length, image features are computed once a picture.
 */
import { join } from 'node:path';
import type { VlmConfig } from '../models/config.ts';
import { emptyPast } from '../models/empty-past.ts';
import { familyOf, type Picture } from '../models/family.ts';
import { loadCheckpoint, readConfig } from '../models/load.ts';
import { GRAPH_NAMES, readManifest } from '../models/manifest.ts';
import { causalBias, forwardGraph, type ModelGraph, visionGraph } from '../models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../runtime/session.ts';
import { type Layout, layoutConversation } from '../text/layout.ts';
import { encodePictures } from './encode-pictures.ts';
import { overlay } from './load-model.ts';
import { loadFront, type ModelFront } from './model-front.ts';
import { logSumExp } from './sampler.ts';

/** A picture: what names its pixels, and how to get them (by the model's recipe) when they are needed. */
export interface ScorerImage {
  readonly key: string;
  readonly picture: () => Promise<Picture>;
}

export interface ChoiceQuestion {
  /** Text pieces and pictures (indices into `images`) of one user turn. */
  readonly parts: readonly (string | { readonly image: number })[];
  readonly images: readonly ScorerImage[];
  readonly choices: readonly string[];
}

/** One sequence to run, and whose answers are read from it. */
interface Sequence {
  readonly ids: Int32Array;
  readonly layout: Layout;
  readonly images: readonly ScorerImage[];
  /** At position `at` (flat in the sequence), token `id` continues choice `choice` of question `question`. */
  readonly reads: readonly {
    readonly at: number;
    readonly id: number;
    readonly question: number;
    readonly choice: number;
  }[];
}

interface EncodedPicture {
  readonly features: Float32Array;
  readonly slotIds: readonly number[];
}

interface Compiled {
  readonly session: Session;
  readonly feeds: Record<string, Tensor>;
  /** Besides: what a decoder graph is fed of a past, where there is none. */
  readonly past?: (rows: number) => Record<string, Tensor>;
}

/** Tokens of one run, padding included: beyond that a larger batch only costs cache. */
const TOKENS_PER_RUN = 2048;
/** Features kept; the pictures of a split repeat in many questions. */
const MAX_CACHED_PICTURES = 4096;

export class ChoiceScorer {
  readonly front: ModelFront;
  readonly #config: VlmConfig;
  readonly #vision: Compiled;
  readonly #withImages: Compiled;
  readonly #textOnly: Compiled;
  readonly #encoded = new Map<string, EncodedPicture>();

  private constructor(
    front: ModelFront,
    config: VlmConfig,
    graphs: { readonly vision: Compiled; readonly withImages: Compiled; readonly textOnly: Compiled },
  ) {
    this.front = front;
    this.#config = config;
    this.#vision = graphs.vision;
    this.#withImages = graphs.withImages;
    this.#textOnly = graphs.textOnly;
  }

  /** @param overlayDir files of a fine-tune to lay over the checkpoint, or `null` */
  static async create(dir: string, overlayDir: string | null, threads: number): Promise<ChoiceScorer> {
    const front = await loadFront('model', dir);
    if (readManifest(dir) !== null) {
      if (overlayDir !== null) throw new Error(`${dir} is an imported model, which takes no fine-tunes`);
      return await ChoiceScorer.#open(front, dir, threads);
    }
    const checkpoint = loadCheckpoint(dir);
    const { config } = checkpoint;
    const weights = overlayDir === null ? checkpoint.weights : overlay(checkpoint, overlayDir);
    const compile = async ({ graph, weights: needed }: ModelGraph): Promise<Compiled> => ({
      session: await Session.create(graph, { threads }),
      feeds: Object.fromEntries([...needed.keys()].map((name) => [name, weights.get(name)!])),
    });
    return new ChoiceScorer(front, config, {
      vision: await compile(visionGraph(config)),
      withImages: await compile(forwardGraph(config, { images: 'features', rows: true })),
      textOnly: await compile(forwardGraph(config, { images: 'none', rows: true })),
    });
  }

  /** An imported model has no graph without a cache: its decoder graph runs over an empty one. */
  static async #open(front: ModelFront, dir: string, threads: number): Promise<ChoiceScorer> {
    const config = readConfig(dir);
    const open = (name: string) => Session.open(join(dir, name), { threads, foldConstants: true });
    const decode: Compiled = {
      session: await open(GRAPH_NAMES.decode),
      feeds: {},
      past: (rows) => emptyPast(config, rows),
    };
    return new ChoiceScorer(front, config, {
      vision: { session: await open(GRAPH_NAMES.vision), feeds: {} },
      withImages: decode,
      textOnly: decode,
    });
  }

  /** One row a question, one log-probability a choice. @throws when a question does not fit the model's context */
  async score(questions: readonly ChoiceQuestion[]): Promise<number[][]> {
    const sums = questions.map(({ choices }) => choices.map(() => 0));
    // Pictures first: how long their slots are may depend on them.
    await this.#encodeMissing(questions.flatMap(shownImages));
    const sequences = questions.flatMap((question, index) => this.#sequencesOf(question, index));
    for (const batch of packByLength(sequences)) {
      const logits_RV = await this.#run(batch);
      const reads = batch.flatMap((sequence) => sequence.reads);
      const vocabulary = logits_RV.length / reads.length;
      for (const [row, { id, question, choice }] of reads.entries()) {
        const logits_V = logits_RV.subarray(row * vocabulary, (row + 1) * vocabulary);
        sums[question]![choice]! += logits_V[id]! - logSumExp(logits_V);
      }
    }
    return sums;
  }

  /** Choices that share all but their last token need one sequence between them; single-token choices need the prompt alone. */
  #sequencesOf(question: ChoiceQuestion, index: number): Sequence[] {
    const { tokenizer, template, imageTokenId, card } = this.front;
    const parts = question.parts.map((part) =>
      typeof part === 'string' ? { type: 'text' as const, text: part } : { type: 'image' as const, image: part.image },
    );
    const layout = layoutConversation([{ role: 'user', parts }], {
      tokenizer,
      template,
      tokensPerImage: (image) => this.#encoded.get(question.images[image]!.key)!.slotIds,
      imageTokenId,
      addGenerationPrompt: true,
    });
    const images = layout.images.map(({ image }) => question.images[image]!);
    const byStem = new Map<
      string,
      { ids: number[]; reads: { at: number; id: number; question: number; choice: number }[] }
    >();
    for (const [choice, text] of question.choices.entries()) {
      const tokens = tokenizer.encode(text);
      if (tokens.length === 0) throw new Error(`choice ${choice} of question ${index} is empty`);
      const stem = tokens.slice(0, -1);
      const key = stem.join();
      const entry = byStem.get(key) ?? { ids: [...layout.ids, ...stem], reads: [] };
      for (const [t, id] of tokens.entries())
        entry.reads.push({ at: layout.ids.length - 1 + t, id, question: index, choice });
      byStem.set(key, entry);
    }
    return [...byStem.values()].map(({ ids, reads }) => {
      if (ids.length > card.contextTokens)
        throw new Error(`question ${index} takes ${ids.length} tokens, the model's context is ${card.contextTokens}`);
      return { ids: Int32Array.from(ids), layout, images, reads };
    });
  }

  async #encodeMissing(images: readonly ScorerImage[]): Promise<void> {
    const missing = [...new Map(images.map((image) => [image.key, image])).values()].filter(
      ({ key }) => !this.#encoded.has(key),
    );
    // Room first: what this call needs must not be pushed out by itself.
    if (this.#encoded.size + missing.length > MAX_CACHED_PICTURES) {
      this.#encoded.clear();
      if (missing.length < images.length) return await this.#encodeMissing(images);
    }
    for (let first = 0; first < missing.length; first += 8) {
      const some = missing.slice(first, first + 8);
      const pictures: Picture[] = [];
      for (const image of some) pictures.push(await image.picture());
      const features = await encodePictures(this.#config, this.#vision, pictures);
      for (const [n, { key }] of some.entries())
        this.#encoded.set(key, {
          features: features[n]!,
          slotIds: familyOf(this.#config).slotIds(this.#config, pictures[n]!),
        });
    }
  }

  /** Logits [R, V] of all reads of a batch, in order. Rows are padded on the right, where causal attention never looks. */
  async #run(batch: readonly Sequence[]): Promise<Float32Array> {
    const B = batch.length;
    const S = Math.max(...batch.map(({ ids }) => ids.length));
    const ids = new Int32Array(B * S);
    const rows: number[] = [];
    const imageRows: number[] = [];
    const features: Float32Array[] = [];
    for (const [b, sequence] of batch.entries()) {
      ids.set(sequence.ids, b * S);
      for (const { at } of sequence.reads) rows.push(b * S + at);
      for (const [i, { tokenStart, tokenCount }] of sequence.layout.images.entries()) {
        features.push(this.#encoded.get(sequence.images[i]!.key)!.features);
        for (let t = 0; t < tokenCount; t++) imageRows.push(b * S + tokenStart + t);
      }
    }
    const { session, feeds, past } = imageRows.length > 0 ? this.#withImages : this.#textOnly;
    const feedsOfRun: Record<string, Tensor> = {
      ...feeds,
      ...past?.(B),
      ids: ints(ids, [B, S]),
      positions: ints(
        Int32Array.from({ length: B * S }, (_, i) => i % S),
        [B, S],
      ),
      causal_bias: f32(causalBias(S, 1, this.#config.text.slidingWindow), [S, S]),
      rows: ints(rows, [rows.length]),
      ...(imageRows.length === 0 && past === undefined
        ? {}
        : {
            image_rows: ints(imageRows, [imageRows.length]),
            image_features: f32(concatenate(features), [imageRows.length, this.#config.text.hidden]),
          }),
    };
    const results = await session.run(feedsOfRun, ['logits']);
    return results.logits!.data as Float32Array;
  }
}

/** The pictures that a question's parts show, in their order. */
function shownImages({ parts, images }: ChoiceQuestion): ScorerImage[] {
  return parts.flatMap((part) => (typeof part === 'string' ? [] : [images[part.image]!]));
}

function concatenate(pieces: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

/** Batches of similar length, each within the token budget with its padding. */
function packByLength(sequences: readonly Sequence[]): Sequence[][] {
  const batches: Sequence[][] = [];
  let current: Sequence[] = [];
  for (const sequence of [...sequences].sort((a, b) => a.ids.length - b.ids.length)) {
    if (current.length > 0 && (current.length + 1) * sequence.ids.length > TOKENS_PER_RUN) {
      batches.push(current);
      current = [];
    }
    current.push(sequence);
  }
  if (current.length > 0) batches.push(current);
  return batches;
}
