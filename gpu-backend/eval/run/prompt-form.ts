import type { EvalImage, EvalPrompt, ImageMode, Json } from '../task.ts';
import { mergedImage } from './merge.ts';

/** What OpenFlamingo's wrapper says in front of every question, in the paper's words: a picture of a zebra belongs to it. */
export const PAPER_DEMONSTRATION =
  'What is in the image?\n (A) a tiger\n (B) a zebra\n (C) a cat\n (D) a dog \n Answer: B';

/** What a model's wrapper does to every prompt, beside the layout and the longest answer, which tasks take as options. */
export interface PromptForm {
  readonly mode: ImageMode;
  /** Where the task has none of its own (GPT-4V's wrapper: "You are an AI assistant that helps people find information."). */
  readonly system?: string;
  /** A picture and a solved question in front of every prompt (OpenFlamingo's wrapper). */
  readonly oneShot?: { readonly image: EvalImage; readonly text: string };
}

/** The prompt as the model's wrapper sends it. Pictures are named anew, in reading order. */
export function formPrompt(prompt: EvalPrompt, form: PromptForm): EvalPrompt {
  const { system = form.system, choices } = prompt;
  let { parts, images } = inReadingOrder(prompt);
  if (form.oneShot !== undefined) {
    const { image, text } = form.oneShot;
    parts = [{ image: 0 }, text, ...parts.map((part) => (typeof part === 'string' ? part : { image: part.image + 1 }))];
    images = [image, ...images];
  }
  if (form.mode === 'merge') {
    // The one picture, then all text, as the paper's wrappers of single-image models.
    if (images.length > 1) images = [mergedImage(images)];
    const shot = form.oneShot === undefined ? [] : [form.oneShot.text];
    const texts =
      prompt.mergedText === undefined ? parts.filter((part) => typeof part === 'string') : [...shot, prompt.mergedText];
    const text = texts.join('\n');
    parts = [...images.map((_, image) => ({ image })), ...(text === '' ? [] : [text])];
  }
  return {
    ...(system === undefined ? {} : { system }),
    parts,
    images,
    maxTokens: prompt.maxTokens,
    ...(choices === undefined ? {} : { choices }),
  };
}

/** What a run's hash covers of a form, beside the mode: nothing where it leaves prompts as they are. */
export function formJson({ system, oneShot }: PromptForm): { readonly [key: string]: Json } {
  const changes: { [key: string]: Json } = {
    ...(system === undefined ? {} : { system }),
    ...(oneShot === undefined ? {} : { oneShot: { image: oneShot.image.sha256, text: oneShot.text } }),
  };
  return Object.keys(changes).length === 0 ? {} : { form: changes };
}

function inReadingOrder({ parts, images }: EvalPrompt): Pick<EvalPrompt, 'parts' | 'images'> {
  const shown: EvalImage[] = [];
  const renamed = parts.map((part) => {
    if (typeof part === 'string') return part;
    const image = images[part.image];
    if (image === undefined)
      throw new Error(`this prompt shows picture ${part.image + 1}, but has ${images.length}; its task is at fault`);
    return { image: shown.push(image) - 1 };
  });
  return { parts: renamed, images: shown };
}
