import type { ChatTemplate, TemplatePiece, TurnFormat } from './templates.ts';
import type { Tokenizer } from './tokenizer.ts';

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
  /** The slot is ids[tokenStart … tokenStart + tokenCount), each of them the image token. */
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
  /** Slot length, for all images or by the part's `image`. */
  readonly tokensPerImage: number | ((image: number) => number);
  readonly imageTokenId: number;
  /** End with the template's generation prompt, so that the next token is the answer's first. Default false. */
  readonly addGenerationPrompt?: boolean;
}

export class LayoutError extends Error {
  override readonly name = 'LayoutError';
  constructor(
    message: string,
    /** Where in the messages, e.g. `messages[2].parts[0]`. */
    readonly path: string,
  ) {
    super(`${path}: ${message}`);
  }
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
    writer.pieces(format.before, isLossOn.all || (isAssistant && isLossOn.mantis));
    writer.parts(turn, path, isLossOn.all || isAssistant);
    // What follows a turn's closing token (Idefics2's newline) belongs to the next turn, as in the reference's label rule.
    const [closing, tail] = splitAfterClosing(format);
    writer.pieces(closing, isLossOn.all || isAssistant);
    const next = turns[i + 1];
    const isTailInLoss = isLossOn.mantis && next?.role === 'assistant';
    if (isTailInLoss) writer.weight = checkWeight(next.weight, `messages[${i + 1 - indexShift}]`);
    writer.pieces(tail, isLossOn.all || isTailInLoss);
  }
  if (options.addGenerationPrompt) {
    writer.weight = 0;
    writer.pieces(template.generationPrompt, isLossOn.mantis);
  }
  return writer.finish();
}

function checkWeight(weight: number | undefined, path: string): number {
  const value = weight ?? 1;
  if (!(Number.isFinite(value) && value >= 0))
    throw new LayoutError(`expected a weight of 0 or more, got ${value}`, `${path}.weight`);
  return value;
}

/** A format without special tokens closes with all of its pieces. */
function splitAfterClosing({ after }: TurnFormat): [readonly TemplatePiece[], readonly TemplatePiece[]] {
  const closing = after.findLastIndex((piece) => 'special' in piece);
  return closing < 0 ? [after, []] : [after.slice(0, closing + 1), after.slice(closing + 1)];
}

/** Collects tokens; text is held back until something that is not text comes, then tokenised as one run. */
class LayoutWriter {
  weight = 0;
  private readonly ids: number[] = [];
  private readonly mask: number[] = [];
  private readonly weights: number[] = [];
  private readonly images: ImageSlot[] = [];
  private run = '';
  private isRunInLoss = false;
  private runWeight = 0;
  /** Number of tokens right after the last image's closing pieces; -1 once text follows. */
  private imageEnd = -1;

  constructor(private readonly options: LayoutOptions) {}

  pieces(pieces: readonly TemplatePiece[], isInLoss: boolean, k?: number): void {
    for (const piece of pieces) {
      if ('text' in piece) this.text(k === undefined ? piece.text : piece.text.replace('{k}', String(k)), isInLoss);
      else {
        this.flush();
        this.token(this.options.tokenizer.requireId(piece.special), isInLoss, this.weight);
      }
    }
  }

  parts(turn: Message, path: string, isInLoss: boolean): void {
    for (const [i, part] of turn.parts.entries()) {
      if (part.type === 'image') this.image(part.image, isInLoss, `${path}.parts[${i}]`);
      else if (turn.role === 'user' && !this.options.template.takesUserText && part.text !== '') {
        throw new LayoutError(
          `the template ${this.options.template.name} has no place for text in a user turn`,
          `${path}.parts[${i}]`,
        );
      } else this.text(part.text, isInLoss);
    }
  }

  private text(text: string, isInLoss: boolean): void {
    if (text === '') return;
    // A run has one loss flag: where it changes, the boundary must be a token boundary, in training and in serving alike.
    if (this.run !== '' && this.isRunInLoss !== isInLoss) this.flush();
    if (this.run === '') this.runWeight = this.weight;
    this.run += text;
    this.isRunInLoss = isInLoss;
    this.imageEnd = -1;
  }

  private image(image: number, isInLoss: boolean, path: string): void {
    const { template, tokensPerImage, imageTokenId } = this.options;
    const { before, after, firstNumber, sharesSpecials } = template.image;
    const tokenCount = typeof tokensPerImage === 'number' ? tokensPerImage : tokensPerImage(image);
    if (!(Number.isInteger(tokenCount) && tokenCount > 0))
      throw new LayoutError(`expected at least one token for image ${image}, got ${tokenCount}`, path);
    const index = this.images.length;
    if (!(sharesSpecials && this.imageEnd === this.ids.length)) this.pieces(before, isInLoss, index + firstNumber);
    this.flush();
    this.images.push({ index, image, tokenStart: this.ids.length, tokenCount });
    for (let i = 0; i < tokenCount; i++) this.token(imageTokenId, false, 0);
    this.pieces(after, isInLoss, index + firstNumber);
    this.imageEnd = this.run === '' ? this.ids.length : -1;
  }

  private flush(): void {
    if (this.run === '') return;
    for (const id of this.options.tokenizer.encode(this.run)) {
      // The image token may be unmarked in a foreign tokenizer.json; a typed one must still not look like a slot.
      if (id === this.options.imageTokenId) {
        throw new LayoutError(
          `text became the image token ${id}: load the tokenizer with it among the reserved tokens`,
          'tokenizer',
        );
      }
      this.token(id, this.isRunInLoss, this.runWeight);
    }
    this.run = '';
  }

  private token(id: number, isInLoss: boolean, weight: number): void {
    this.ids.push(id);
    this.mask.push(isInLoss ? 1 : 0);
    this.weights.push(isInLoss ? weight : 0);
  }

  finish(): Layout {
    this.flush();
    return {
      ids: Int32Array.from(this.ids),
      lossMask: Uint8Array.from(this.mask),
      weights: Float32Array.from(this.weights),
      positions: Int32Array.from(this.ids.keys()),
      images: this.images,
    };
  }
}
