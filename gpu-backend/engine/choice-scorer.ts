/**
 * Log-probabilities of given answers, without generating: the choice a model prefers is the one whose tokens it finds most
 * likely after the prompt. Sequences are batched by length, image features are computed once a picture. The numbers of a question do
 * not depend on what is asked beside it.
 */
import type { VlmConfig } from '../models/config.ts';
import { familyOf, type Picture } from '../models/family.ts';
import { readConfig } from '../models/load.ts';
import { type Layout, layoutConversation } from '../text/layout.ts';
import { type ChoiceBatch, type ChoiceCompute, LocalChoiceCompute } from './choice-compute.ts';
import { ChoiceThreads } from './choice-threads.ts';
import { loadFront, type ModelFront } from './model-front.ts';

/** A picture: what names its pixels, and how to get them (by the model's recipe) when they are needed. */
export interface ScorerImage {
  readonly key: string;
  readonly picture: () => Promise<Picture>;
}

export interface ChoiceQuestion {
  readonly system?: string;
  /** Text pieces and pictures (indices into `images`) of one user turn. */
  readonly parts: readonly (string | { readonly image: number })[];
  readonly images: readonly ScorerImage[];
  readonly choices: readonly string[];
}

/** One sequence to run, and whose answers are read from it. */
interface Sequence {
  readonly ids: Int32Array;
  readonly layout: Layout;
  readonly features: readonly Float32Array[];
  /** At position `at` (in the sequence), token `id` continues choice `choice` of question `question`. */
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

export interface ChoiceScorerOptions {
  /** Of the kernels, in each lane. */
  readonly threads: number;
  /** Threads with a model each, beside the calling one. Default 0: the calling one computes. */
  readonly lanes?: number;
}

/** Tokens of one run, padding included: beyond that a larger batch only costs cache. */
const TOKENS_PER_RUN = 2048;
/** Features kept; the pictures of a split repeat in many questions. */
const FEATURE_BYTES = 256 * 2 ** 20;
const PICTURES_PER_RUN = 8;

export class ChoiceScorer {
  readonly front: ModelFront;
  readonly #config: VlmConfig;
  readonly #compute: ChoiceCompute;
  /** Least recently used first. */
  readonly #encoded = new Map<string, Promise<EncodedPicture>>();
  #featureBytes = 0;

  private constructor(front: ModelFront, config: VlmConfig, compute: ChoiceCompute) {
    this.front = front;
    this.#config = config;
    this.#compute = compute;
  }

  /** @param overlayDir files of a fine-tune to lay over the checkpoint, or `null` */
  static async create(
    dir: string,
    overlayDir: string | null,
    options: number | ChoiceScorerOptions,
  ): Promise<ChoiceScorer> {
    const { threads, lanes = 0 } = typeof options === 'number' ? { threads: options } : options;
    const front = await loadFront('model', dir);
    const compute =
      lanes === 0
        ? await LocalChoiceCompute.create(dir, overlayDir, threads)
        : await ChoiceThreads.create({ dir, overlayDir, threads }, lanes);
    return new ChoiceScorer(front, readConfig(dir), compute);
  }

  /** One row a question, one log-probability a choice. @throws what `scoreEach` says of the first question that it cannot score */
  async score(questions: readonly ChoiceQuestion[]): Promise<number[][]> {
    return (await this.scoreEach(questions)).map((row) => {
      if (row instanceof Error) throw row;
      return row;
    });
  }

  /** As `score`; in place of a question that does not fit the model's context, or whose picture cannot be read, the reason. */
  async scoreEach(questions: readonly ChoiceQuestion[]): Promise<(number[] | Error)[]> {
    const rows: (number[] | Error)[] = questions.map(({ choices }) => choices.map(() => 0));
    // Pictures first: how long their slots are may depend on them.
    const encoded = this.#encode(questions.flatMap(shownImages));
    const sequences: Sequence[] = [];
    for (const [index, question] of questions.entries()) {
      try {
        const pictures = await Promise.all(question.images.map(({ key }) => encoded.get(key)));
        sequences.push(...this.#sequencesOf(question, pictures, index));
      } catch (error) {
        rows[index] = error instanceof Error ? error : new Error(String(error));
      }
    }
    await Promise.all(
      packByLength(sequences).map(async (batch) => {
        const logprobs = await this.#compute.logprobs(batchOf(batch, this.#config.text.hidden));
        for (const [read, { question, choice }] of batch.flatMap(({ reads }) => reads).entries())
          (rows[question] as number[])[choice]! += logprobs[read]!;
      }),
    );
    return rows;
  }

  async close(): Promise<void> {
    await this.#compute.close();
  }

  /** Choices that share all but their last token need one sequence between them; single-token choices need the prompt alone. */
  #sequencesOf(question: ChoiceQuestion, pictures: readonly (EncodedPicture | undefined)[], index: number): Sequence[] {
    const { tokenizer, template, imageTokenId, card } = this.front;
    const parts = question.parts.map((part) =>
      typeof part === 'string' ? { type: 'text' as const, text: part } : { type: 'image' as const, image: part.image },
    );
    const system =
      question.system === undefined
        ? []
        : [{ role: 'system' as const, parts: [{ type: 'text' as const, text: question.system }] }];
    const layout = layoutConversation([...system, { role: 'user', parts }], {
      tokenizer,
      template,
      tokensPerImage: (image) => pictures[image]!.slotIds,
      imageTokenId,
      addGenerationPrompt: true,
    });
    const features = layout.images.map(({ image }) => pictures[image]!.features);
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
      return { ids: Int32Array.from(ids), layout, features, reads };
    });
  }

  /** Features of all pictures, computed once each; a failure is that of the picture alone where reading it failed. */
  #encode(images: readonly ScorerImage[]): Map<string, Promise<EncodedPicture>> {
    const distinct = new Map(images.map((image) => [image.key, image]));
    const missing: ScorerImage[] = [];
    const encoded = new Map<string, Promise<EncodedPicture>>();
    for (const [key, image] of distinct) {
      const known = this.#encoded.get(key);
      if (known === undefined) {
        missing.push(image);
        continue;
      }
      this.#encoded.delete(key);
      this.#encoded.set(key, known);
      encoded.set(key, known);
    }
    for (let first = 0; first < missing.length; first += PICTURES_PER_RUN) {
      const some = missing.slice(first, first + PICTURES_PER_RUN);
      const run = this.#encodeRun(some);
      for (const [n, { key }] of some.entries()) {
        const picture = run.then((pictures) => {
          const one = pictures[n]!;
          if (one instanceof Error) throw one;
          return one;
        });
        encoded.set(key, picture);
        this.#keep(key, picture);
      }
    }
    return encoded;
  }

  #keep(key: string, picture: Promise<EncodedPicture>): void {
    this.#encoded.set(key, picture);
    picture.then(
      ({ features }) => {
        this.#featureBytes += features.byteLength;
        for (const [oldest, one] of this.#encoded) {
          if (this.#featureBytes <= FEATURE_BYTES || oldest === key) break;
          this.#encoded.delete(oldest);
          void one.then((gone) => {
            this.#featureBytes -= gone.features.byteLength;
          });
        }
      },
      // Whoever needs it is told; the next question tries again.
      () => this.#encoded.delete(key),
    );
  }

  async #encodeRun(images: readonly ScorerImage[]): Promise<(EncodedPicture | Error)[]> {
    const read = await Promise.all(
      images.map((image) =>
        image.picture().catch((error: unknown) => (error instanceof Error ? error : new Error(String(error)))),
      ),
    );
    const pictures = read.filter((picture): picture is Picture => !(picture instanceof Error));
    const features = pictures.length === 0 ? [] : await this.#compute.encode(pictures);
    let next = 0;
    return read.map((picture) =>
      picture instanceof Error
        ? picture
        : { features: features[next++]!, slotIds: familyOf(this.#config).slotIds(this.#config, picture) },
    );
  }
}

/** The pictures that a question's parts show, in their order. */
function shownImages({ parts, images }: ChoiceQuestion): ScorerImage[] {
  return parts.flatMap((part) => (typeof part === 'string' ? [] : [images[part.image]!]));
}

function batchOf(batch: readonly Sequence[], hidden: number): ChoiceBatch {
  const S = Math.max(...batch.map(({ ids }) => ids.length));
  const ids_BS = new Int32Array(batch.length * S);
  const readAt: number[] = [];
  const readIds: number[] = [];
  const imageRows: number[] = [];
  const features: Float32Array[] = [];
  for (const [b, sequence] of batch.entries()) {
    ids_BS.set(sequence.ids, b * S);
    for (const { at, id } of sequence.reads) {
      readAt.push(b * S + at);
      readIds.push(id);
    }
    for (const [i, { tokenStart, tokenCount }] of sequence.layout.images.entries()) {
      features.push(sequence.features[i]!);
      for (let t = 0; t < tokenCount; t++) imageRows.push(b * S + tokenStart + t);
    }
  }
  return {
    batch: batch.length,
    length: S,
    ids_BS,
    readAt_R: Int32Array.from(readAt),
    readIds_R: Int32Array.from(readIds),
    imageRows_I: Int32Array.from(imageRows),
    features_IH: concatenate(features, imageRows.length * hidden),
  };
}

function concatenate(pieces: readonly Float32Array[], length: number): Float32Array {
  const all = new Float32Array(length);
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
