import type { PromptPart } from '../task.ts';

const PLACEHOLDER = '<image>';

/**
 * A text with `<image>` placeholders as pieces of text and pictures, as the Mantis evaluation cuts it: what placeholders are too few go in front of everything;
 * those that are too many vanish; pieces of newlines and spaces alone are left out.
 */
export function interleave(text: string, images: number): PromptPart[] {
  const marked = text.split(PLACEHOLDER).length - 1;
  const pieces = (PLACEHOLDER.repeat(Math.max(0, images - marked)) + text).split(PLACEHOLDER);
  return pieces.flatMap((piece, i): PromptPart[] => [
    ...(/^[\n ]*$/.test(piece) ? [] : [piece]),
    ...(i < images ? [{ image: i }] : []),
  ]);
}

/** The text for a single picture, as the Mantis evaluation writes it: the pieces between placeholders without newlines and spaces around them, joined by a space. */
export function withoutMarks(text: string): string {
  return text
    .split(PLACEHOLDER)
    .filter((piece) => piece.trim() !== '')
    .map((piece) => piece.replace(/^[ \n]+|[ \n]+$/g, ''))
    .join(' ');
}

/** All pictures, then the text as one piece. */
export function picturesFirst(text: string, images: number): PromptPart[] {
  return [...Array.from({ length: images }, (_, image) => ({ image })), text];
}
