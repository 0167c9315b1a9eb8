import type { PromptPart } from '../task.ts';

const MARKER = /<image (\d{1,3})>/g;

/**
 * Text with its pictures in their places. `<image k>` is the place of picture k, counted from 1, where it stands first; further mentions stay as text. Pictures
 * that the text does not mention stand in front of it.
 * @param count how many pictures there are
 */
export function placePictures(text: string, count: number): PromptPart[] {
  const placed = new Set<number>();
  const pieces: PromptPart[] = [];
  let from = 0;
  for (const mention of text.matchAll(MARKER)) {
    const image = Number(mention[1]) - 1;
    if (image < 0 || image >= count || placed.has(image)) continue;
    placed.add(image);
    pieces.push(text.slice(from, mention.index), { image });
    from = mention.index + mention[0].length;
  }
  pieces.push(text.slice(from));
  const front = Array.from({ length: count }, (_, image) => ({ image })).filter(({ image }) => !placed.has(image));
  return [...front, ...pieces].filter((part) => part !== '');
}

/** Numbers the plain `<image>` markers of a question and its options through, so that options may move without taking another's picture. */
export function numberMarkers(texts: readonly string[]): { readonly texts: string[]; readonly count: number } {
  let count = 0;
  return { texts: texts.map((text) => text.replaceAll('<image>', () => `<image ${++count}>`)), count };
}
