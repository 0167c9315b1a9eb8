/** Byte-pair training for a small byte-level vocabulary, written as a Hugging Face `tokenizer.json`. */

/**
 * How text is cut before pairs are merged: the two halves of the image wrapper stay whole, so that `(image 1: <Image>` can become one token;
 * the rest is Llama-3's rule (a word with its leading blank, up to three digits, runs of signs, line ends, blanks), but a number keeps its
 * leading blank too.
 */
const splitPattern =
  '\\(image \\p{N}{1,3}: <Image>|</Image>\\)|' +
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+| ?\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** The tokens that are no text, in id order after the merged ones. */
export const nanoSpecialTokens = [
  '<|begin_of_text|>',
  '<|end_of_text|>',
  '<|start_header_id|>',
  '<|end_header_id|>',
  '<|eot_id|>',
  '<|user|>',
  '<|assistant|>',
  '<image>',
  '<|pad|>',
] as const;

/** GPT-2's printable stand-in for each byte value. */
function byteLetters(): string[] {
  const printable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
}

function splitText(text: string): string[] {
  // The inline flag group of the pattern is spelled out, because this runtime's regular expressions know no `(?i:…)`.
  const pattern = splitPattern.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])");
  return text.match(new RegExp(pattern, 'gu')) ?? [];
}

interface Word {
  symbols: string[];
  count: number;
}

function mostFrequentPair(words: readonly Word[]): [string, string, number] | undefined {
  const counts = new Map<string, [string, string, number]>();
  for (const { symbols, count } of words) {
    for (let i = 1; i < symbols.length; i++) {
      const [left, right] = [symbols[i - 1] as string, symbols[i] as string];
      const key = `${left} ${right}`;
      const entry = counts.get(key);
      if (entry) entry[2] += count;
      else counts.set(key, [left, right, count]);
    }
  }
  let best: [string, string, number] | undefined;
  for (const entry of counts.values()) {
    const wins = !best || entry[2] > best[2] || (entry[2] === best[2] && entry[0] + entry[1] < best[0] + best[1]);
    if (wins) best = entry;
  }
  return best;
}

function mergePair(symbols: string[], left: string, right: string): string[] {
  if (!symbols.includes(left)) return symbols;
  const merged: string[] = [];
  for (let i = 0; i < symbols.length; i++) {
    const joins = symbols[i] === left && symbols[i + 1] === right;
    merged.push(joins ? left + right : (symbols[i] as string));
    if (joins) i++;
  }
  return merged;
}

/**
 * Learns merges from texts (Sennrich et al. 2016 over bytes, as GPT-2): joins the most frequent neighbours until the vocabulary is full.
 * @param vocabSize entries in all, special tokens included; at least 256 bytes + specials
 * @returns the object to write as tokenizer.json
 * @throws when the texts run out of pairs that occur twice, with the size that was reached
 */
export function trainTokenizer(
  texts: Iterable<string>,
  vocabSize: number,
  specials: readonly string[] = nanoSpecialTokens,
) {
  const letters = byteLetters();
  const counts = new Map<string, number>();
  for (const text of texts) for (const piece of splitText(text)) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  const encoder = new TextEncoder();
  const words = Array.from(
    counts,
    ([piece, count]): Word => ({
      symbols: Array.from(encoder.encode(piece), (byte) => letters[byte] as string),
      count,
    }),
  );
  const tokens = letters.toSorted();
  const merges: [string, string][] = [];
  while (tokens.length + specials.length < vocabSize) {
    const pair = mostFrequentPair(words);
    if (!pair || pair[2] < 2) {
      throw new Error(
        `trainTokenizer: the texts support only ${tokens.length + specials.length} of ${vocabSize} entries; give more text or a smaller size`,
      );
    }
    const [left, right] = pair;
    merges.push([left, right]);
    if (!tokens.includes(left + right)) tokens.push(left + right);
    for (const word of words) word.symbols = mergePair(word.symbols, left, right);
  }
  return tokenizerFile(tokens, merges, specials);
}

function tokenizerFile(tokens: readonly string[], merges: readonly [string, string][], specials: readonly string[]) {
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: specials.map((content, i) => ({
      id: tokens.length + i,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: splitPattern }, behavior: 'Isolated', invert: false },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  };
}
