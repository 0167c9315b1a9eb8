import type { LayoutOptions } from '../../text/layout.ts';
import { bindTemplate, templateByName } from '../../text/templates.ts';
import type { Tokenizer } from '../../text/tokenizer.ts';
import type { TrainingSample } from '../batch.ts';
import type { DataSource } from '../trainer.ts';
import { encodeDialogue } from './encode.ts';
import type { RealData } from './real.ts';
import { type NanoRecipe, nanoModelConfig, nanoPhases } from './recipe.ts';
import { NanoStream } from './samples.ts';

/** What decides the data of a run, beside its length. */
export interface NanoDataSpec {
  readonly recipe: NanoRecipe;
  readonly seed: number;
  /** The run starts from trained weights, and has their curriculum. */
  readonly isContinued: boolean;
}

/** How conversations of a recipe become tokens. */
export function nanoLayout(recipe: NanoRecipe, tokenizer: Tokenizer): LayoutOptions {
  const config = nanoModelConfig(recipe, tokenizer);
  return {
    tokenizer,
    template: bindTemplate(templateByName(recipe.template), tokenizer),
    tokensPerImage: config.tokensPerImage,
    imageTokenId: config.imageToken,
  };
}

/** Makes the samples of single steps; they depend on the spec, the place in the stream and the run's length alone. */
export class NanoData {
  #stream: { readonly total: number; readonly source: NanoStream } | undefined;

  constructor(
    private readonly spec: NanoDataSpec,
    private readonly real: RealData | undefined,
    private readonly layout: LayoutOptions,
  ) {}

  /**
   * @param cursor the step's first dialogue
   * @param total dialogues of the whole run, as planned when the step is made
   */
  samples(cursor: number, total: number): TrainingSample[] {
    const { recipe, seed, isContinued } = this.spec;
    if (this.#stream?.total !== total)
      this.#stream = {
        total,
        source: new NanoStream({
          seed,
          phases: nanoPhases(total, isContinued),
          ...(this.real === undefined ? {} : { real: this.real }),
        }),
      };
    const { source } = this.#stream;
    return Array.from({ length: recipe.dialogues }, (_, i) =>
      encodeDialogue(source.dialogue(cursor + i), this.layout, recipe.imageSize),
    );
  }
}

/** Step by step, on this thread. @param totalAt dialogues of the run, from a place in the stream */
export function nanoData(data: NanoData, dialogues: number, totalAt: (cursor: number) => number): DataSource {
  return {
    next: async (cursor) => ({ samples: data.samples(cursor, totalAt(cursor)), cursor: cursor + dialogues }),
  };
}
