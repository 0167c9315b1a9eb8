import { contextTokens } from '../../models/llama.ts';
import { readConfig } from '../../models/load.ts';
import { type PictureSlots, pictureSlots, readRecipe } from '../../models/pictures.ts';
import { templateForCheckpoint } from '../../text/checkpoint-template.ts';
import { type Layout, type LayoutOptions, layoutConversation, type Message } from '../../text/layout.ts';
import { bindTemplate, reservedTokens } from '../../text/templates.ts';
import { loadTokenizer } from '../../text/tokenizer.ts';
import type { ImageRecipe } from '../../vision/recipes.ts';

/** What validation needs of a model: how words and pictures go in. No weights are read. */
export interface DataFront {
  readonly recipe: ImageRecipe;
  readonly slots: PictureSlots;
  /** Decoder positions that the model's context holds. */
  readonly contextTokens: number;
  readonly layout: Omit<LayoutOptions, 'tokensPerImage'>;
}

/** @param dir checkpoint folder */
export function loadDataFront(dir: string): DataFront {
  const config = readConfig(dir);
  const template = templateForCheckpoint(dir);
  const tokenizer = loadTokenizer(dir, { reserved: reservedTokens(template) });
  const recipe = readRecipe(dir);
  return {
    recipe,
    slots: pictureSlots(config, recipe),
    contextTokens: contextTokens(config.text),
    layout: { tokenizer, template: bindTemplate(template, tokenizer), imageTokenId: config.imageToken },
  };
}

/**
 * A conversation as it will be trained on: the same function that serving and training lay out with, so that its length is the one token count there is.
 * @param sizeOf the size that the model sees of a picture, by its place among the conversation's; asked only where slots depend on it
 * @throws LayoutError
 */
export function layoutOf(
  front: DataFront,
  messages: readonly Message[],
  sizeOf: (image: number) => { readonly width: number; readonly height: number },
): Layout {
  const { slots, layout } = front;
  return layoutConversation(messages, {
    ...layout,
    tokensPerImage: (image) => slots.fixed ?? slots.idsOf(sizeOf(image)),
  });
}
