import type { EvalImage, EvalPrompt, EvalTurn, ImageMode, Json } from '../task.ts';
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
  let { turns, images } = inReadingOrder(prompt);
  if (form.oneShot !== undefined) {
    const { image, text } = form.oneShot;
    turns = turns.map((turn, i) => {
      const moved = turn.parts.map((part) => (typeof part === 'string' ? part : { image: part.image + 1 }));
      return { ...turn, parts: i === 0 ? [{ image: 0 }, text, ...moved] : moved };
    });
    images = [image, ...images];
  }
  if (form.mode === 'merge') {
    // The one picture, then all text, as the paper's wrappers of single-image models; of a conversation in its first turn.
    if (images.length > 1) images = [mergedImage(images)];
    const shot = form.oneShot === undefined ? [] : [form.oneShot.text];
    turns = turns.map((turn, i) => {
      const isAsked = i === turns.length - 1;
      const texts =
        !isAsked || prompt.mergedText === undefined
          ? turn.parts.filter((part) => typeof part === 'string')
          : [...(i === 0 ? shot : []), prompt.mergedText];
      const text = texts.join('\n');
      const shown = i === 0 ? images.map((_, image) => ({ image })) : [];
      return { ...turn, parts: [...shown, ...(text === '' && shown.length > 0 ? [] : [text])] };
    });
  }
  const earlier = turns.slice(0, -1);
  return {
    ...(system === undefined ? {} : { system }),
    ...(earlier.length === 0 ? {} : { earlier }),
    parts: turns.at(-1)?.parts ?? [],
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

/** All turns, the asked one last. */
function inReadingOrder({ earlier = [], parts, images }: EvalPrompt): { turns: EvalTurn[]; images: EvalImage[] } {
  const shown: EvalImage[] = [];
  const turns = [...earlier, { role: 'user' as const, parts }].map((turn) => ({
    ...turn,
    parts: turn.parts.map((part) => {
      if (typeof part === 'string') return part;
      const image = images[part.image];
      if (image === undefined)
        throw new Error(`this prompt shows picture ${part.image + 1}, but has ${images.length}; its task is at fault`);
      return { image: shown.push(image) - 1 };
    }),
  }));
  return { turns, images: shown };
}
