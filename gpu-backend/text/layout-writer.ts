import type { ImageSlot, Layout, LayoutOptions, Message } from './layout.ts';
import { LayoutError } from './layout-error.ts';
import type { TemplatePiece } from './templates.ts';
import { TokenizerError } from './tokenizer-error.ts';

/** An assistant turn's loss weight, 1 by default. */
export function checkWeight(weight: number | undefined, path: string): number {
  const value = weight ?? 1;
  if (!(Number.isFinite(value) && value >= 0))
    throw new LayoutError(`expected a weight of 0 or more, got ${value}`, `${path}.weight`);
  return value;
}

/** Collects tokens; text is held back until something that is not text comes, then tokenised as one run. */
export class LayoutWriter {
  weight = 0;
  private readonly ids: number[] = [];
  private readonly mask: number[] = [];
  private readonly weights: number[] = [];
  private readonly images: ImageSlot[] = [];
  private run = '';
  private isRunInLoss = false;
  private runWeight = 0;
  /** The next run goes on right after a special token that joins. */
  private isJoined = false;
  /** Nothing of the current text has been written. */
  private isTextStart = true;
  /** Number of tokens right after the last image's closing pieces; -1 once text follows. */
  private imageEnd = -1;

  constructor(private readonly options: LayoutOptions) {}

  pieces(pieces: readonly TemplatePiece[], isInLoss: boolean, k?: number): void {
    for (const piece of pieces) {
      if ('text' in piece) this.text(k === undefined ? piece.text : piece.text.replace('{k}', String(k)), isInLoss);
      else {
        this.flush();
        const { tokenizer } = this.options;
        const joins = piece.joins === true && !tokenizer.cutsText(piece.special);
        if (joins && this.isTextStart) for (const id of tokenizer.leadIds) this.token(id, false, 0);
        this.token(tokenizer.requireId(piece.special), isInLoss, this.weight);
        this.isJoined = joins;
        this.isTextStart = !joins;
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

  /** Ordinary text of a template or a message. */
  text(text: string, isInLoss: boolean): void {
    if (text === '') return;
    // A run has one loss flag: where it changes, the boundary must be a token boundary, in training and in serving alike.
    if (this.run !== '' && this.isRunInLoss !== isInLoss) this.flush();
    if (this.run === '') this.runWeight = this.weight;
    this.run += text;
    this.isRunInLoss = isInLoss;
    this.imageEnd = -1;
  }

  /** One image with what stands around it. */
  image(image: number, isInLoss: boolean, path: string): void {
    const { template, tokensPerImage, imageTokenId } = this.options;
    const { before, after, firstNumber, numbers, sharesSpecials } = template.image;
    const slot = typeof tokensPerImage === 'number' ? tokensPerImage : tokensPerImage(image);
    const tokenCount = typeof slot === 'number' ? slot : slot.length;
    if (!(Number.isInteger(tokenCount) && tokenCount > 0))
      throw new LayoutError(`expected at least one token for image ${image}, got ${tokenCount}`, path);
    const index = this.images.length;
    const number = numbers?.[index] ?? index + firstNumber;
    if (!(sharesSpecials && this.imageEnd === this.ids.length)) this.pieces(before, isInLoss, number);
    this.flush();
    this.images.push({ index, image, tokenStart: this.ids.length, tokenCount });
    this.isTextStart = true;
    for (let i = 0; i < tokenCount; i++) this.token(typeof slot === 'number' ? imageTokenId : slot[i]!, false, 0);
    this.pieces(after, isInLoss, number);
    this.imageEnd = this.run === '' ? this.ids.length : -1;
  }

  private flush(): void {
    if (this.run === '') return;
    for (const id of this.encode(this.run)) {
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
    this.isJoined = false;
    this.isTextStart = false;
  }

  private encode(text: string): number[] {
    try {
      return this.options.tokenizer.encode(text, { continues: this.isJoined });
    } catch (error) {
      if (!(error instanceof TokenizerError)) throw error;
      throw new LayoutError(error.message, 'messages');
    }
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
