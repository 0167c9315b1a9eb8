import type { TextBounds } from '../../shared/contract/models.ts';
import type { ChatTemplate, TemplatePiece, TurnFormat } from './templates.ts';
import type { Tokenizer } from './tokenizer.ts';

/** Digits of the largest image number. */
const NUMBER_DIGITS = 3;

/**
 * What conversations in this format can cost at least and at most, without tokenising them; `undefined` where it cannot be told: a checkpoint's own
 * template is a program, and a normalizer may make a text longer or shorter.
 */
export function textBounds(template: ChatTemplate, tokenizer: Tokenizer): TextBounds | undefined {
  const { mostTokensPerByte, leastTokensPerByte } = tokenizer;
  if (template.jinja !== undefined || mostTokensPerByte === null || leastTokensPerByte === null) return undefined;
  const cost = (pieces: readonly TemplatePiece[]): number => piecesCost(pieces, mostTokensPerByte);
  const { system, user, assistant, image, defaultSystem } = template;
  const turn = ({ before, beforeText = [], after }: TurnFormat): number =>
    Math.max(cost(before), cost(beforeText)) + cost(after);
  const message = Math.max(turn(system), turn(user), turn(assistant));
  return {
    longestTokenBytes: Math.ceil(1 / leastTokensPerByte),
    mostTokensPerByte,
    promptTokens:
      cost(template.start) +
      cost(template.generationPrompt) +
      (defaultSystem === null ? 0 : message + cost([{ text: defaultSystem }])),
    // A message's own text is one run more.
    messageTokens: message + 1,
    // The text after a picture is a run of its own.
    imageTokens: turn(image) + mostTokensPerByte * NUMBER_DIGITS + 1,
  };
}

/** Each piece may begin a run of text, and a run may get a space in front; specials that join one get it too. */
function piecesCost(pieces: readonly TemplatePiece[], mostTokensPerByte: number): number {
  return pieces.reduce(
    (sum, piece) =>
      sum + ('text' in piece ? mostTokensPerByte * new TextEncoder().encode(piece.text).byteLength + 1 : 2),
    1,
  );
}
