/**
 * Log-probabilities of given answers, without generating: the choice a model prefers is the one whose tokens it finds most
 * likely after the prompt. What sequences share from their beginning on, and features of a picture, are computed once. The numbers of a question do
 * not depend on what is asked beside it.
 */
import type { VlmConfig } from '../models/config.ts';
import { familyOf, type Picture } from '../models/family.ts';
import { readConfig } from '../models/load.ts';
import { layoutConversation } from '../text/layout.ts';
import { remembering } from '../text/remembering.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { type ChoiceCompute, LocalChoiceCompute } from './choice-compute.ts';
import { batchOf, type ChoiceSequence, packChoices } from './choice-packing.ts';
import { ChoiceThreads } from './choice-threads.ts';
import { loadFront, type ModelFront } from './model-front.ts';

/** A picture: what names its pixels, and how to get them (by the model's recipe) when they are needed. */
export interface ScorerImage {
  readonly key: string;
  readonly picture: () => Promise<Picture>;
}

export interface ChoiceQuestion {
  readonly system?: string;
  /** Turns before the one that is asked. */
  readonly earlier?: readonly { readonly role: 'user' | 'assistant'; readonly parts: ChoiceQuestion['parts'] }[];
  /** Text pieces and pictures (indices into `images`) of one user turn. */
  readonly parts: readonly (string | { readonly image: number })[];
  readonly images: readonly ScorerImage[];
  readonly choices: readonly string[];
}

/** A question as the conversation that it is: what the system says, earlier turns, the asked one. */
export function turnsOf({
  system,
  earlier = [],
  parts,
}: Pick<ChoiceQuestion, 'system' | 'earlier' | 'parts'>): readonly {
  readonly role: 'system' | 'user' | 'assistant';
  readonly parts: ChoiceQuestion['parts'];
}[] {
  return [
    ...(system === undefined ? [] : [{ role: 'system' as const, parts: [system] }]),
    ...earlier,
    { role: 'user' as const, parts },
  ];
}

/** A sequence to run, and whose answers are read from it. */
interface Sequence extends ChoiceSequence {
  /** Token `id` after position `at` continues choice `choice` of question `question`. */
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

/** Features kept; the pictures of a split repeat in many questions. */
const FEATURE_BYTES = 256 * 2 ** 20;
const PICTURES_PER_RUN = 8;

export class ChoiceScorer {
  readonly front: ModelFront;
  readonly #tokenizer: Tokenizer;
  readonly #config: VlmConfig;
  readonly #compute: ChoiceCompute;
  /** Least recently used first. */
  readonly #encoded = new Map<string, Promise<EncodedPicture>>();
  #featureBytes = 0;

  private constructor(front: ModelFront, config: VlmConfig, compute: ChoiceCompute) {
    this.front = front;
    this.#tokenizer = remembering(front.tokenizer);
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
      packChoices(sequences).map(async (batch) => {
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
    const { template, imageTokenId, card } = this.front;
    const tokenizer = this.#tokenizer;
    const messages = turnsOf(question).map(({ role, parts }) => ({
      role,
      parts: parts.map((part) =>
        typeof part === 'string'
          ? { type: 'text' as const, text: part }
          : { type: 'image' as const, image: part.image },
      ),
    }));
    const layout = layoutConversation(messages, {
      tokenizer,
      template,
      tokensPerImage: (image) => pictures[image]!.slotIds,
      imageTokenId,
      addGenerationPrompt: true,
    });
    const shown = layout.images.map(({ image, tokenStart, tokenCount }) => ({
      tokenStart,
      tokenCount,
      features: pictures[image]!.features,
    }));
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
      return { ids, images: shown, reads };
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
function shownImages(question: ChoiceQuestion): ScorerImage[] {
  const parts = turnsOf(question).flatMap((turn) => turn.parts);
  return parts.flatMap((part) => (typeof part === 'string' ? [] : [question.images[part.image]!]));
}
