import { strip, words } from './python-text.ts';
import { ARTICLES, CONTRACTIONS, NUMBER_WORDS, PUNCTUATION } from './vqa-words.ts';

/** A comma between digits: the number, not the sentence, holds it. */
const COMMA_IN_NUMBER = /(?<=\p{Nd}),+(?=\p{Nd})/u;
/** A full stop that no digit follows. (The published pattern means to look behind as well, and does not.) */
const FULL_STOP = /\.(?!\p{Nd})/gu;
/** The published call hands `re.UNICODE`, which is 32, to the place of `count`: the first 32 full stops go, others stay. */
const MAX_FULL_STOPS = 32;

/**
 * Punctuation of the VQA evaluation: a mark beside a space, or any mark where a comma stands within a number, is dropped; any other becomes a space.
 */
export function withoutPunctuation(text: string): string {
  const hasNumberComma = COMMA_IN_NUMBER.test(text);
  let out = text;
  for (const mark of PUNCTUATION) {
    const goes = hasNumberComma || text.includes(`${mark} `) || text.includes(` ${mark}`);
    out = out.replaceAll(mark, goes ? '' : ' ');
  }
  let stops = 0;
  return out.replace(FULL_STOP, (stop) => (stops++ < MAX_FULL_STOPS ? '' : stop));
}

/** Lower case, number words to digits, articles dropped, contractions with their apostrophes, one space between words. */
export function plainWords(text: string): string {
  return words(text.toLowerCase())
    .map((word) => NUMBER_WORDS.get(word) ?? word)
    .filter((word) => !ARTICLES.has(word))
    .map((word) => CONTRACTIONS.get(word) ?? word)
    .join(' ');
}

/** VQAv2's normalisation: line breaks to spaces, then punctuation and words (github.com/GT-Vision-Lab/VQA, vqaEval.py). */
export function normalizeVqa(text: string): string {
  return plainWords(withoutPunctuation(strip(text.replace(/[\n\t]/g, ' '))));
}

/**
 * EvalAI's normalisation, used for TextVQA and OK-VQA: before VQAv2's, commas and question marks go and `'s` becomes a word of its own
 * (MMF's EvalAIAnswerProcessor).
 */
export function normalizeEvalAi(text: string): string {
  const tokens = strip(text.toLowerCase().replace(/[,?]/g, '').replaceAll("'s", " 's"));
  return plainWords(withoutPunctuation(strip(tokens.replace(/[\n\t]/g, ' '))));
}

/**
 * VQA accuracy: min(1, matches among the other annotators / 3), averaged over leaving out each annotator in turn. Ten annotators give 0, 0.3, 0.6, 0.9 or 1 for
 * none, one, two, three and more that agree. All texts are normalised already.
 */
export function vqaAccuracy(answer: string, references: readonly string[]): number {
  const matches = references.filter((reference) => reference === answer).length;
  // Whole numbers until the one division, so that 0.3 is the 0.3 that others print.
  const thirds = references.reduce((sum, one) => sum + Math.min(3, matches - (one === answer ? 1 : 0)), 0);
  return references.length === 0 ? 0 : thirds / (3 * references.length);
}
