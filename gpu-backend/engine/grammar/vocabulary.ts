/** What constraints need to know of a model's tokens. Some 50 ms of work for 50,000 tokens: done when a model is loaded. */
import { createHash } from 'node:crypto';
import type { Tokenizer } from '../../text/tokenizer.ts';
import { buildTokenTrie, singleBytes, type TokenTrie } from './token-trie.ts';

/** What writes the answers. */
export interface Writer {
  readonly tokenizer: Tokenizer;
  /** Tokens that end an answer, so no text contains them. */
  readonly stopIds: readonly number[];
}

export interface Vocabulary {
  /** Equal digests mean equal vocabularies. */
  readonly digest: string;
  readonly trie: TokenTrie;
  /** Which bytes are tokens by themselves (256 entries). */
  readonly hasByte: readonly boolean[];
  /** Decoding takes one space off the front of a text. */
  readonly skipsFirstSpace: boolean;
}

/** By tokenizer, then by the tokens that end answers: tunes of a model share one. */
const known = new WeakMap<Tokenizer, Map<string, Vocabulary>>();

/** The vocabulary of a model, made when first asked for. */
export function vocabularyOf({ tokenizer, stopIds }: Writer): Vocabulary {
  const byEnds = known.get(tokenizer) ?? new Map<string, Vocabulary>();
  known.set(tokenizer, byEnds);
  const key = stopIds.join();
  let vocabulary = byEnds.get(key);
  if (vocabulary === undefined) {
    const ends = new Set(stopIds);
    const trie = buildTokenTrie(tokenizer.vocabSize, (id) => (ends.has(id) ? null : tokenizer.bytesOf(id)));
    const skipsFirstSpace = tokenizer.stripsLeadingSpace;
    const digest = createHash('sha256')
      .update(`${skipsFirstSpace} `)
      .update(trie.text)
      .update(new Uint8Array(trie.textStart.buffer))
      .digest('hex');
    vocabulary = { digest, trie, hasByte: singleBytes(trie), skipsFirstSpace };
    byEnds.set(key, vocabulary);
  }
  return vocabulary;
}
