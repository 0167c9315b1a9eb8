import { layoutRendered } from './jinja.ts';
import { LayoutError } from './layout-error.ts';
import { checkWeight, LayoutWriter } from './layout-writer.ts';
import type { ChatTemplate, TemplatePiece, TurnFormat } from './templates.ts';
import type { Tokenizer } from './tokenizer.ts';

export { LayoutError } from './layout-error.ts';

/** A piece of a message, in the order the user gave it. `image` refers into the caller's own list of images. */
export type Part =
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'image'; readonly image: number };

export interface Message {
  readonly role: 'system' | 'user' | 'assistant';
  readonly parts: readonly Part[];
  /** Loss weight of an assistant turn, 1 by default; 0 keeps the turn as context only. */
  readonly weight?: number;
}

/** Where one image's features go. */
export interface ImageSlot {
  /** Position among the images of the conversation, from 0. */
  readonly index: number;
  /** The `image` of the part it came from. */
  readonly image: number;
  /** The slot is ids[tokenStart … tokenStart + tokenCount): image tokens, in some families with line ends among them. */
  readonly tokenStart: number;
  readonly tokenCount: number;
}

/** A conversation as the model reads it; all arrays have one entry a token (T). */
export interface Layout {
  readonly ids: Int32Array;
  /** 1 where the token is a target of the loss (predicted from the tokens before it), else 0; never 1 in an image slot. */
  readonly lossMask: Uint8Array;
  /** Weight of each target: the turn's weight where lossMask is 1, else 0. */
  readonly weights: Float32Array;
  /** 0, 1, 2, … over text and image tokens alike. */
  readonly positions: Int32Array;
  readonly images: readonly ImageSlot[];
}

export interface LayoutOptions {
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  /** Slot length, for all images or by the part's `image`; or the ids of the slot where not all are the image token. */
  readonly tokensPerImage: number | ((image: number) => number | readonly number[]);
  readonly imageTokenId: number;
  /** End with the template's generation prompt, so that the next token is the answer's first. Default false. */
  readonly addGenerationPrompt?: boolean;
}

/**
 * Lays out a conversation: template pieces, text and image slots, with the loss mask. Slots are recorded as they are
 * written, never looked for afterwards, and text goes through the text-only encoder, so nothing a user types can become a
 * slot or a special token. Adjacent text (template and content) is tokenised as one run, as the reference does.
 *
 * @throws LayoutError that names the message or part
 */
export function layoutConversation(messages: readonly Message[], options: LayoutOptions): Layout {
  const { template } = options;
  if (messages.length === 0) throw new LayoutError('expected at least one message', 'messages');
  if (template.jinja !== undefined) return layoutRendered(messages, template.jinja, options);
  const writer = new LayoutWriter(options);
  const isLossOn = { mantis: template.lossOn === 'mantis', all: template.lossOn === 'all' };
  writer.pieces(template.start, isLossOn.all);
  const hasSystem = messages[0]?.role === 'system';
  const turns: readonly Message[] =
    hasSystem || template.defaultSystem === null
      ? messages
      : [{ role: 'system', parts: [{ type: 'text', text: template.defaultSystem }] }, ...messages];
  const indexShift = turns.length - messages.length;
  for (const [i, turn] of turns.entries()) {
    const path = `messages[${i - indexShift}]`;
    if (turn.role === 'system' && i > 0) throw new LayoutError('a system message can only be the first', path);
    const format = template[turn.role];
    const isAssistant = turn.role === 'assistant';
    writer.weight = isAssistant ? checkWeight(turn.weight, path) : isLossOn.all ? 1 : 0;
    const before = turn.parts[0]?.type === 'text' ? (format.beforeText ?? format.before) : format.before;
    writer.pieces(before, isLossOn.all || (isAssistant && isLossOn.mantis));
    writer.parts(turn, path, isLossOn.all || isAssistant);
    // What follows a turn's closing token (Idefics2's newline) belongs to the next turn, as in the reference's label rule.
    const [closing, tail] = splitAfterClosing(format);
    writer.pieces(closing, isLossOn.all || isAssistant);
    const next = turns[i + 1];
    // A prompt for an answer is cut into tokens as the answered conversation would be, so its tail counts with the header too.
    const isPrompt = next === undefined && options.addGenerationPrompt === true;
    const isTailInLoss = isLossOn.mantis && (next?.role === 'assistant' || isPrompt);
    if (isTailInLoss)
      writer.weight = next === undefined ? 0 : checkWeight(next.weight, `messages[${i + 1 - indexShift}]`);
    writer.pieces(tail, isLossOn.all || isTailInLoss);
  }
  if (options.addGenerationPrompt) {
    writer.weight = 0;
    writer.pieces(template.generationPrompt, isLossOn.mantis);
  }
  return writer.finish();
}

/** A format without special tokens closes with all of its pieces. */
function splitAfterClosing({ after }: TurnFormat): [readonly TemplatePiece[], readonly TemplatePiece[]] {
  const closing = after.findLastIndex((piece) => 'special' in piece);
  return closing < 0 ? [after, []] : [after.slice(0, closing + 1), after.slice(closing + 1)];
}
