import { type LayoutOptions, layoutConversation, type Message, type Part } from '../../text/layout.ts';
import { preprocessRgb } from '../../vision/preprocess.ts';
import type { RgbImage } from '../../vision/resample.ts';
import type { TrainingSample } from '../batch.ts';
import type { Question } from '../nano/perception.ts';
import { nanoImageRecipe } from '../nano/recipe.ts';
import { type Box, boxSidePx, renderBox } from '../nano/scene.ts';

/** How the pictures of a question are shown to the model. The words of questions and answers are the same in all forms. */
export interface Form {
  /** One by one, or pasted side by side into one picture of the model's size. */
  readonly pictures: 'sequence' | 'merged';
  /** `(image k: <Image>…</Image>)` around a picture, or the picture alone. */
  readonly denotation: 'numbered' | 'bare';
}

export const formName = ({ pictures, denotation }: Form): string => `${pictures}, ${denotation}`;

/** Several pictures as one, by the rule of the evaluation. */
export type MergePictures = (pictures: readonly RgbImage[]) => RgbImage;

/** A set of pictures and the questions about it, in the order they are asked. */
export interface Dialogue {
  readonly boxes: readonly Box[];
  readonly questions: readonly Question[];
}

/** Lays out what a study asks. */
export class Encoder {
  private readonly layout: LayoutOptions;
  private readonly imageSize: number;
  private readonly merge: MergePictures;

  /** @param layout with a template whose image wrapper is the numbered one @param imageSize side of the model's pictures, px */
  constructor(layout: LayoutOptions, imageSize: number, merge: MergePictures) {
    this.layout = layout;
    this.imageSize = imageSize;
    this.merge = merge;
  }

  /** A whole dialogue, loss on its answers. */
  dialogue({ boxes, questions }: Dialogue, form: Form): TrainingSample {
    const images = this.pixels(boxes, form);
    const messages = questions.flatMap(({ user, answer }, i): Message[] => [
      { role: 'user', parts: [...(i === 0 ? pictureParts(images) : []), { type: 'text', text: user }] },
      { role: 'assistant', parts: [{ type: 'text', text: answer }] },
    ]);
    return { layout: layoutConversation(messages, this.options(form)), images };
  }

  /** One question up to where its answer begins. */
  question(boxes: readonly Box[], user: string, form: Form): TrainingSample {
    const images = this.pixels(boxes, form);
    const parts: Part[] = [...pictureParts(images), { type: 'text', text: user }];
    const options = { ...this.options(form), addGenerationPrompt: true };
    return { layout: layoutConversation([{ role: 'user', parts }], options), images };
  }

  /** Id of an answer's first token, by which the answers to choose from are told apart. @throws when the answer is empty */
  firstToken(answer: string): number {
    const [id] = this.layout.tokenizer.encode(answer);
    if (id === undefined) throw new Error('expected an answer of at least one token, got an empty one');
    return id;
  }

  private options({ denotation }: Form): LayoutOptions {
    if (denotation === 'numbered') return this.layout;
    const { template } = this.layout;
    return { ...this.layout, template: { ...template, image: { ...template.image, before: [], after: [] } } };
  }

  private pixels(boxes: readonly Box[], { pictures }: Form): Float32Array[] {
    const drawn = boxes.map((box): RgbImage => ({ width: boxSidePx, height: boxSidePx, pixels_HWC: renderBox(box) }));
    const shown = pictures === 'merged' ? [this.merge(drawn)] : drawn;
    return shown.map((picture) => preprocessRgb(picture, nanoImageRecipe(this.imageSize)).pixels_CHW);
  }
}

const pictureParts = (images: readonly Float32Array[]): Part[] =>
  images.map((_, image): Part => ({ type: 'image', image }));
