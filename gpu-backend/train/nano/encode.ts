import { type LayoutOptions, layoutConversation, type Message } from '../../text/layout.ts';
import { preprocessRgb } from '../../vision/preprocess.ts';
import type { TrainingSample } from '../batch.ts';
import { nanoImageRecipe } from './recipe.ts';
import type { NanoDialogue, UserPart } from './samples.ts';
import { boxSidePx } from './scene.ts';

const parts = (user: readonly UserPart[]): Message['parts'] =>
  user.map((part) => (typeof part === 'string' ? { type: 'text', text: part } : { type: 'image', image: part.image }));

/** Pixels of one box as the model takes them. @param rgb 100x100x3 bytes, height-width-channel */
export function boxPixels(rgb: Uint8Array, imageSize: number): Float32Array {
  return preprocessRgb({ width: boxSidePx, height: boxSidePx, pixels_HWC: rgb }, nanoImageRecipe(imageSize)).pixels_CHW;
}

/** A dialogue as the model reads it, loss on its answers. */
export function encodeDialogue(dialogue: NanoDialogue, options: LayoutOptions, imageSize: number): TrainingSample {
  const messages = dialogue.turns.flatMap((turn): Message[] => [
    { role: 'user', parts: parts(turn.user) },
    { role: 'assistant', parts: [{ type: 'text', text: turn.assistant }], weight: turn.weight },
  ]);
  const { template } = options;
  const image = { ...template.image, numbers: dialogue.imageNumbers };
  const layout = layoutConversation(messages, { ...options, template: { ...template, image } });
  return {
    layout,
    images: layout.images.map((slot) => {
      const rgb = dialogue.images[slot.image];
      if (rgb === undefined)
        throw new RangeError(`the dialogue names image ${slot.image} and has ${dialogue.images.length}`);
      return boxPixels(rgb, imageSize);
    }),
  };
}

/** A question up to where the answer begins. */
export function encodeQuestion(
  images: readonly Uint8Array[],
  question: string,
  options: LayoutOptions,
  imageSize: number,
): TrainingSample {
  const user: UserPart[] = [...images.map((_, image) => ({ image })), question];
  const layout = layoutConversation([{ role: 'user', parts: parts(user) }], { ...options, addGenerationPrompt: true });
  return { layout, images: images.map((rgb) => boxPixels(rgb, imageSize)) };
}
