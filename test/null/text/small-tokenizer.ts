import { CHARACTER_OF_BYTE } from '../../../gpu-backend/text/token-bytes.ts';
import { parseTokenizer, type Tokenizer } from '../../../gpu-backend/text/tokenizer.ts';

/** The pattern of Llama-3's pre-tokenizer. */
const LLAMA3_PATTERN =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

export const LLAMA3_SPECIALS = [
  '<|begin_of_text|>',
  '<|end_of_text|>',
  '<|start_header_id|>',
  '<|end_header_id|>',
  '<|eot_id|>',
  '<image>',
  '<|pad|>',
];

/** Content of a tokenizer.json: ids 0–255 are the bytes, 256… the merges in the order given, then the specials. */
export function smallTokenizerJson(
  merges: readonly [string, string][],
  specials: readonly string[] = LLAMA3_SPECIALS,
): object {
  const tokens = [...CHARACTER_OF_BYTE, ...merges.map(([a, b]) => a + b)];
  return {
    added_tokens: specials.map((content, i) => ({ id: tokens.length + i, content, special: true })),
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: LLAMA3_PATTERN }, behavior: 'Isolated', invert: false },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges },
  };
}

/** Merges for the words the golden sequences use; "Ċ" is the newline byte, "Ġ" the space. */
export const SMALL_MERGES: [string, string][] = [
  ['u', 's'],
  ['e', 'r'],
  ['us', 'er'],
  ['Ċ', 'Ċ'],
  ['i', 'm'],
  ['a', 'g'],
  ['im', 'ag'],
  ['imag', 'e'],
  ['I', 'm'],
  ['Im', 'ag'],
  ['Imag', 'e'],
];

export function createSmallTokenizer(specials?: readonly string[]): Tokenizer {
  return parseTokenizer(smallTokenizerJson(SMALL_MERGES, specials));
}
