import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import { CHARACTER_OF_BYTE } from './token-bytes.ts';
import { TokenizerError } from './tokenizer-error.ts';
import { BYTE_PIECE, type UnigramJson, UnigramModel } from './unigram.ts';

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
}

/** The parts of tokenizer.json that are read here; everything else is the library's business. */
export interface TokenizerJson {
  readonly added_tokens?: readonly AddedToken[];
  readonly decoder?: unknown;
  readonly pre_tokenizer?: unknown;
  readonly normalizer?: unknown;
  readonly model: BpeJson | UnigramJson;
}

export interface BpeJson {
  readonly type: 'BPE';
  readonly vocab: Record<string, number>;
  readonly merges: readonly (string | [string, string])[];
}

/** @param hidden pieces of a Unigram model that the text must not become */
export function buildLibrary(
  json: TokenizerJson,
  unigram: UnigramModel | undefined,
  hidden: readonly string[] = [],
): LibraryTokenizer {
  const rest = { normalizer: null, post_processor: null, pre_tokenizer: null, decoder: null, ...json };
  if (unigram === undefined) return new LibraryTokenizer(rest, {});
  const library = new LibraryTokenizer({ ...rest, model: { type: 'Unigram', vocab: [['', 0]], unk_id: 0 } }, {});
  const { model } = library;
  if (model === null) throw new TokenizerError('the tokenizer library built no model');
  const ids = new Map(unigram.idOf);
  for (const { content, id } of json.added_tokens ?? []) ids.set(content, id);
  const flags = unigram.flags(hidden);
  const isSplit = splitsWords(json.pre_tokenizer);
  model.tokens_to_ids = ids;
  model.fuse_unk = false;
  model.encode = (sections) =>
    sections.flatMap((section) =>
      (isSplit ? section.split(/(?=▁)/) : [section]).flatMap((text) => unigram.encode(text, flags)),
    );
  return library;
}

/** Whether the pre-tokenizer cuts at every "▁", which the library leaves out. */
function splitsWords(splitter: unknown): boolean {
  const { type, pretokenizers, split } = (splitter ?? {}) as NormalizerEntry;
  return pretokenizers?.some(splitsWords) ?? (type === 'Metaspace' && split !== false);
}

export function unigramOf({ model }: TokenizerJson): UnigramModel | undefined {
  if (model.type !== 'Unigram') return undefined;
  try {
    return new UnigramModel(model);
  } catch (cause) {
    throw new TokenizerError(`tokenizer.json: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

export function vocabularyId(
  model: TokenizerJson['model'],
  unigram: UnigramModel | undefined,
  token: string,
): number | undefined {
  if (unigram !== undefined || model.type === 'Unigram') return unigram?.idOf.get(token);
  return Object.hasOwn(model.vocab, token) ? model.vocab[token] : undefined;
}

/**
 * The same tokenizer without its special tokens: they are not split off, and where the model's own vocabulary lists them
 * (older checkpoints do) no merge can lead there.
 */
export function withoutSpecials(json: TokenizerJson, specials: ReadonlyMap<string, number>): TokenizerJson {
  const added_tokens = (json.added_tokens ?? []).filter(({ content }) => !specials.has(content));
  if (json.model.type === 'Unigram') return { ...json, added_tokens };
  const { vocab, merges } = json.model;
  // Byte tokens stay: no merge leads to them, only their byte itself, which `encode` refuses by name.
  const isRemoved = (token: string): boolean => specials.has(token) && !BYTE_PIECE.test(token);
  if (![...specials.keys()].some((token) => Object.hasOwn(vocab, token))) return { ...json, added_tokens };
  const model = {
    ...json.model,
    vocab: Object.fromEntries(Object.entries(vocab).filter(([token]) => !isRemoved(token))),
    merges: merges.filter(
      (merge) => !specials.has(typeof merge === 'string' ? merge.replace(' ', '') : merge.join('')),
    ),
  };
  return { ...json, added_tokens, model };
}

interface NormalizerEntry {
  readonly type?: string;
  readonly normalizers?: readonly NormalizerEntry[];
  readonly pretokenizers?: readonly NormalizerEntry[];
  readonly prepend_scheme?: string;
  readonly split?: boolean;
  readonly content?: string;
  readonly pattern?: { readonly String?: string };
}

/**
 * By how much the normalizer may make a text longer or shorter, UTF-8 bytes to bytes; a space for a space counts as nothing. NFC takes at most three
 * times as many bytes (U+1D160 and its like) and at least a third (Hangul from its letters). `null`: nothing is known.
 */
export function rewriteFactor({ normalizer }: TokenizerJson): number | null {
  const entry = normalizer as NormalizerEntry | null | undefined;
  let factor = 1;
  for (const { type, content, pattern } of entry?.normalizers ?? (entry ? [entry] : [])) {
    const isSpace = type === 'Replace' && pattern?.String === ' ' && content === '\u2581';
    if (type === 'NFC') factor *= 3;
    else if (type !== 'Prepend' && !isSpace) return null;
  }
  return factor;
}

/** The same tokenizer without the space that it puts in front of a text; the same object where it puts none. */
export function withoutPrefix(json: TokenizerJson): TokenizerJson {
  const isPrepend = ({ type }: NormalizerEntry): boolean => type === 'Prepend';
  const isMetaspace = ({ type, prepend_scheme }: NormalizerEntry): boolean =>
    type === 'Metaspace' && prepend_scheme !== 'never';
  const normalizer = json.normalizer as NormalizerEntry | null | undefined;
  const splitter = json.pre_tokenizer as NormalizerEntry | null | undefined;
  const normalizers = normalizer?.normalizers ?? (normalizer ? [normalizer] : []);
  const splitters = splitter?.pretokenizers ?? (splitter ? [splitter] : []);
  if (!normalizers.some(isPrepend) && !splitters.some(isMetaspace)) return json;
  return {
    ...json,
    normalizer: { type: 'Sequence', normalizers: normalizers.filter((entry) => !isPrepend(entry)) },
    pre_tokenizer:
      splitters.length === 0
        ? null
        : {
            type: 'Sequence',
            pretokenizers: splitters.map((entry) =>
              isMetaspace(entry) ? { ...entry, prepend_scheme: 'never', add_prefix_space: false } : entry,
            ),
          },
  };
}

export function checkTokenizerJson(json: unknown): TokenizerJson {
  const candidate = json as Partial<TokenizerJson> | null;
  const model = candidate?.model;
  if (JSON.stringify(candidate?.normalizer ?? null).includes('"Precompiled"'))
    throw new TokenizerError(
      "a Precompiled normalizer (SentencePiece's own character map) is not supported: the ids could differ from the reference unnoticed",
    );
  if (model?.type === 'Unigram') return candidate as TokenizerJson;
  if (model?.type !== 'BPE') {
    throw new TokenizerError(
      `expected a tokenizer.json whose model is BPE or Unigram, got ${JSON.stringify((model as { type?: unknown } | undefined)?.type) ?? 'no model'}`,
    );
  }
  if (typeof model.vocab !== 'object' || !Array.isArray(model.merges)) {
    throw new TokenizerError('expected model.vocab (an object) and model.merges (a list) in tokenizer.json');
  }
  if (JSON.stringify(candidate?.pre_tokenizer ?? null).includes('"ByteLevel"')) {
    const missing = CHARACTER_OF_BYTE.findIndex(
      (character, byte) => canOccurInUtf8(byte) && !Object.hasOwn(model.vocab, character),
    );
    if (missing >= 0) {
      throw new TokenizerError(
        `the byte-level vocabulary lacks byte 0x${missing.toString(16)}: text with it would lose characters`,
      );
    }
  }
  return candidate as TokenizerJson;
}

function canOccurInUtf8(byte: number): boolean {
  return byte !== 0xc0 && byte !== 0xc1 && byte < 0xf5;
}
