import { readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import { CHARACTER_OF_BYTE, tokenBytesFor } from './token-bytes.ts';

/** Turns text into token ids and back. Ids are those of the checkpoint's tokenizer.json. */
export interface Tokenizer {
  /** One more than the largest id. */
  readonly vocabSize: number;
  /** Written form → id of every token that ordinary text can never become. */
  readonly specials: ReadonlyMap<string, number>;
  /**
   * Ids of text as it stands: "<|eot_id|>" or "<image>" typed by a user becomes several ordinary tokens. `continues`: the text
   * goes on within a longer one, so a tokenizer that puts a space in front of a text leaves it out.
   * @throws TokenizerError where a character can only be written as a reserved token (a control character with byte fallback)
   */
  encode(text: string, options?: { readonly continues?: boolean }): number[];
  /** Ids with written special tokens recognised: for templates and tests, never for what a user typed. */
  encodeWithSpecials(text: string): number[];
  /** Id of a token in its written form, special or not. */
  idOf(token: string): number | undefined;
  /** As `idOf`. @throws TokenizerError that names the token when it is missing */
  requireId(token: string): number;
  isSpecial(id: number): boolean;
  /** Text of the ids; malformed byte sequences become U+FFFD. Special tokens are left out unless `keepSpecials`. */
  decode(ids: Iterable<number>, options?: { readonly keepSpecials?: boolean }): string;
  /** A decoder for ids that arrive one by one. */
  createStream(options?: { readonly keepSpecials?: boolean }): DetokenizerStream;
}

/** Text of a growing sequence of ids; never hands out a part of a character. */
export interface DetokenizerStream {
  /** The text this id completes; '' while a character still misses bytes. */
  push(id: number): string;
  /** What is left: '' or U+FFFD for a character that never became whole. */
  finish(): string;
}

export class TokenizerError extends Error {
  override readonly name = 'TokenizerError';
}

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
}

/** The parts of tokenizer.json that are read here; everything else is the library's business. */
interface TokenizerJson {
  readonly added_tokens?: readonly AddedToken[];
  readonly decoder?: unknown;
  readonly pre_tokenizer?: unknown;
  readonly normalizer?: unknown;
  readonly model: {
    readonly type?: string;
    readonly vocab: Record<string, number>;
    readonly merges: readonly (string | [string, string])[];
  };
}

export interface TokenizerOptions {
  /** Tokens that text must never become although the file does not mark them special, e.g. an unmarked "<image>". */
  readonly reserved?: readonly string[];
}

/**
 * Loads `tokenizer.json` (or the folder that holds it, whose tokenizer_config.json may add tokens).
 * @throws TokenizerError
 */
export function loadTokenizer(path: string, options: TokenizerOptions = {}): Tokenizer {
  const file = statSync(path).isDirectory() ? join(path, 'tokenizer.json') : path;
  const json = readJson(file) as TokenizerJson;
  const config = readJson(join(dirname(file), 'tokenizer_config.json'), true) as {
    added_tokens_decoder?: Record<string, Omit<AddedToken, 'id'>>;
  } | null;
  const known = new Set((json.added_tokens ?? []).map(({ content }) => content));
  const further = Object.entries(config?.added_tokens_decoder ?? {})
    .map(([id, token]) => ({ ...token, id: Number(id) }))
    .filter(({ content }) => !known.has(content));
  return parseTokenizer({ ...json, added_tokens: [...(json.added_tokens ?? []), ...further] }, options);
}

function readJson(path: string, isOptional = false): unknown {
  if (isOptional && !statSync(path, { throwIfNoEntry: false })) return null;
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw new TokenizerError(`expected JSON in ${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/**
 * Builds a tokenizer from the content of tokenizer.json: a BPE model, byte-level or metaspace with byte fallback.
 * @throws TokenizerError when it is something else, or when some text would have no ids
 */
export function parseTokenizer(json: unknown, options: TokenizerOptions = {}): Tokenizer {
  const source = checkTokenizerJson(json);
  const added = source.added_tokens ?? [];
  const reserved = new Set(options.reserved ?? []);
  const ownReserved = [...reserved].flatMap((token): [string, number][] => {
    const id = Object.hasOwn(source.model.vocab, token) ? source.model.vocab[token] : undefined;
    return id === undefined ? [] : [[token, id]];
  });
  const specials = new Map([
    // Older checkpoints list their specials in the model's own vocabulary only.
    ...ownReserved,
    ...added
      .filter(({ special, content }) => special || reserved.has(content))
      .map(({ content, id }): [string, number] => [content, id]),
  ]);
  const specialIds = new Set(specials.values());
  const addedIds = new Set(added.map(({ id }) => id));
  const withSpecials = build(source);
  const plain = withoutSpecials(source, specials);
  const textOnly = build(plain);
  const continued = withoutPrefix(plain);
  const textContinued = continued === plain ? textOnly : build(continued);

  const written: (string | undefined)[] = [];
  for (const [token, id] of Object.entries(source.model.vocab)) written[id] = token;
  for (const { content, id } of added) written[id] = content;
  const form = tokenBytesFor(source.decoder);
  const utf8 = new TextEncoder();
  const replacement = utf8.encode('\ufffd');
  const bytesOfId: (Uint8Array | undefined)[] = [];
  const bytesOf = (id: number): Uint8Array => {
    const token = written[id];
    // An id that no token has (a padded vocabulary) must be visible in the text rather than vanish.
    // Added tokens are written as they read; only the model's own are in the encoded form.
    bytesOfId[id] ??= token === undefined ? replacement : addedIds.has(id) ? utf8.encode(token) : form.bytes(token);
    return bytesOfId[id];
  };

  const createStream = ({ keepSpecials = false } = {}): DetokenizerStream => {
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
    let isAtStart = form.stripsLeadingSpace;
    return {
      push(id) {
        if (!keepSpecials && specialIds.has(id)) return '';
        const text = decoder.decode(bytesOf(id), { stream: true });
        if (!isAtStart || text === '') return text;
        isAtStart = false;
        return text.startsWith(' ') ? text.slice(1) : text;
      },
      finish: () => decoder.decode(),
    };
  };

  return {
    vocabSize: written.length,
    specials,
    encode(text, { continues = false } = {}) {
      const { ids } = (continues ? textContinued : textOnly).encode(text, { add_special_tokens: false });
      for (const id of ids) {
        if (specialIds.has(id))
          throw new TokenizerError(
            `the text holds a character that this model can only write as its reserved token ${written[id]}: leave it out`,
          );
      }
      return ids;
    },
    encodeWithSpecials: (text) => withSpecials.encode(text, { add_special_tokens: false }).ids,
    idOf: (token) => withSpecials.token_to_id(token),
    requireId(token) {
      const id = withSpecials.token_to_id(token);
      if (id === undefined) throw new TokenizerError(`expected the token ${token} in the tokenizer, it is not there`);
      return id;
    },
    isSpecial: (id) => specialIds.has(id),
    decode(ids, decodeOptions) {
      const stream = createStream(decodeOptions);
      let text = '';
      for (const id of ids) text += stream.push(id);
      return text + stream.finish();
    },
    createStream,
  };
}

function build(json: TokenizerJson): LibraryTokenizer {
  return new LibraryTokenizer(
    { normalizer: null, post_processor: null, pre_tokenizer: null, decoder: null, ...json },
    {},
  );
}

/**
 * The same tokenizer without its special tokens: they are not split off, and where the model's own vocabulary lists them
 * (older checkpoints do) no merge can lead there.
 */
function withoutSpecials(json: TokenizerJson, specials: ReadonlyMap<string, number>): TokenizerJson {
  const added_tokens = (json.added_tokens ?? []).filter(({ content }) => !specials.has(content));
  const { vocab, merges } = json.model;
  // Byte tokens stay: no merge leads to them, only their byte itself, which `encode` refuses by name.
  const isRemoved = (token: string): boolean => specials.has(token) && !/^<0x[0-9A-F]{2}>$/.test(token);
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
}

/** The same tokenizer without the space that it puts in front of a text; the same object where it puts none. */
function withoutPrefix(json: TokenizerJson): TokenizerJson {
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

function checkTokenizerJson(json: unknown): TokenizerJson {
  const candidate = json as Partial<TokenizerJson> | null;
  const model = candidate?.model;
  if (model?.type !== 'BPE') {
    throw new TokenizerError(
      `expected a tokenizer.json whose model is BPE, got ${JSON.stringify(model?.type) ?? 'no model'}`,
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
