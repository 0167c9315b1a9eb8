import { readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { tokenBytesFor } from './token-bytes.ts';
import { TokenizerError } from './tokenizer-error.ts';
import {
  type AddedToken,
  type BpeJson,
  buildLibrary,
  checkTokenizerJson,
  rewriteFactor,
  type TokenizerJson,
  unigramOf,
  vocabularyId,
  withoutPrefix,
  withoutSpecials,
} from './tokenizer-json.ts';
import { BYTE_PIECE } from './unigram.ts';

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
  /**
   * Whether text is cut at this written token and what follows is a new text (an added token of the file). A token that is only
   * a piece of the vocabulary stands within a text like a word.
   */
  cutsText(token: string): boolean;
  /** What a text gets in front that begins with a piece instead of a word: the ids of the leading space, [] where there is none. */
  readonly leadIds: readonly number[];
  /** Bytes that an ordinary token adds to a text; `null` for special tokens and for ids without a token. */
  bytesOf(id: number): Uint8Array | null;
  /** Decoding takes one space off the front of a text. */
  readonly stripsLeadingSpace: boolean;
  /**
   * Bounds of how many tokens a text of n UTF-8 bytes takes, apart from one that may stand in front of it; `null` where the tokenizer rewrites texts
   * in ways that tell nothing about their length.
   */
  readonly mostTokensPerByte: number | null;
  readonly leastTokensPerByte: number | null;
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

/** How a space is written in vocabularies with metaspace. */
const SPACE = '\u2581';

/**
 * Builds a tokenizer from the content of tokenizer.json: a BPE model, byte-level or metaspace with byte fallback, or a Unigram
 * model (SentencePiece), with byte fallback or without.
 * @throws TokenizerError when it is something else, or when some text would have no ids
 */
export function parseTokenizer(json: unknown, options: TokenizerOptions = {}): Tokenizer {
  const source = checkTokenizerJson(json);
  const added = source.added_tokens ?? [];
  const unigram = unigramOf(source);
  const pieceId = (token: string): number | undefined => vocabularyId(source.model, unigram, token);
  const reserved = new Set(options.reserved ?? []);
  const ownReserved = [...reserved].flatMap((token): [string, number][] => {
    const id = pieceId(token);
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
  const addedContents = new Set(added.map(({ content }) => content));
  const withSpecials = buildLibrary(source, unigram, []);
  const plain = withoutSpecials(source, specials);
  // Byte pieces are in a Unigram vocabulary like words: a typed "<0x0A>" must not become one.
  const hidden = unigram && [
    ...specials.keys(),
    ...[...unigram.idOf].flatMap(([piece, id]) => (BYTE_PIECE.test(piece) || id === unigram.unknownId ? [piece] : [])),
  ];
  const textOnly = buildLibrary(plain, unigram, hidden);
  const continued = withoutPrefix(plain);
  const textContinued = continued === plain ? textOnly : buildLibrary(continued, unigram, hidden);

  const written: (string | undefined)[] = [];
  for (const [token, id] of unigram?.idOf ?? Object.entries(source.model.vocab as BpeJson['vocab']))
    written[id] = token;
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

  const rewrites = rewriteFactor(source);
  // Where ordinary added tokens cut a text, each section may get a space in front.
  const hasSections = added.some(({ content }) => !specials.has(content)) ? 2 : 1;
  const hasSpace = form.stripsLeadingSpace && pieceId(SPACE) === undefined ? utf8.encode(SPACE).length : 1;
  let longest = 1;
  for (const id of written.keys()) if (!specialIds.has(id)) longest = Math.max(longest, bytesOf(id).length);

  return {
    vocabSize: written.length,
    specials,
    mostTokensPerByte: rewrites === null ? null : rewrites * hasSections * hasSpace,
    leastTokensPerByte: rewrites === null ? null : 1 / (rewrites * longest),
    encode(text, { continues = false } = {}) {
      const { ids } = (continues ? textContinued : textOnly).encode(text, { add_special_tokens: false });
      for (const id of ids) {
        if (specialIds.has(id) || id === unigram?.unknownId)
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
    cutsText: (token) => addedContents.has(token),
    bytesOf: (id) => (specialIds.has(id) || written[id] === undefined ? null : bytesOf(id)),
    stripsLeadingSpace: form.stripsLeadingSpace,
    leadIds: continued === plain ? [] : textContinued.encode(' ', { add_special_tokens: false }).ids,
    decode(ids, decodeOptions) {
      const stream = createStream(decodeOptions);
      let text = '';
      for (const id of ids) text += stream.push(id);
      return text + stream.finish();
    },
    createStream,
  };
}
