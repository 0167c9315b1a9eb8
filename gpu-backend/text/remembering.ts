import type { Tokenizer } from './tokenizer.ts';

/** Longer texts do not repeat, and would take the room of many. */
const MOST_CHARS = 1024;

/**
 * A tokenizer that remembers short texts: an evaluation asks the same statement over several orders of pictures, with the same words around each.
 * @param texts how many it remembers, the most recently used
 */
export function remembering(tokenizer: Tokenizer, texts = 4096): Tokenizer {
  const known = new Map<string, readonly number[]>();
  return {
    ...tokenizer,
    encode: (text, options = {}) => {
      if (text.length > MOST_CHARS) return tokenizer.encode(text, options);
      const key = `${options.continues === true ? '+' : '-'}${text}`;
      const ids = known.get(key) ?? tokenizer.encode(text, options);
      known.delete(key);
      known.set(key, ids);
      if (known.size > texts) known.delete(known.keys().next().value as string);
      return [...ids];
    },
  };
}
