/**
 * From a token's written form to the bytes it stands for, so that decoding is concatenation and no decoder of the tokenizer
 * library runs in the token loop. Two written forms exist: byte-level (each byte is one printable character, GPT-2's
 * table) and metaspace with byte fallback ("▁" for a space, "<0x0A>" for a byte; Llama 1/2, Mistral).
 */
export interface TokenBytes {
  bytes(token: string): Uint8Array;
  /** The metaspace form puts a space in front of the whole text; decoding takes it off again. */
  readonly stripsLeadingSpace: boolean;
}

/** GPT-2's table: printable Latin-1 characters stand for themselves, the other bytes for U+0100 and on. */
export const CHARACTER_OF_BYTE: readonly string[] = (() => {
  const isPrintable = (byte: number): boolean =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
})();

const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = new Map(
  CHARACTER_OF_BYTE.map((character, byte) => [character, byte]),
);
const utf8 = new TextEncoder();

const byteLevel: TokenBytes = {
  stripsLeadingSpace: false,
  bytes(token) {
    const out: number[] = [];
    for (const character of token) {
      const byte = BYTE_OF_CHARACTER.get(character);
      if (byte === undefined) out.push(...utf8.encode(character));
      else out.push(byte);
    }
    return Uint8Array.from(out);
  },
};

const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/;

function metaspace(stripsLeadingSpace: boolean): TokenBytes {
  return {
    stripsLeadingSpace,
    bytes(token) {
      const hex = BYTE_TOKEN.exec(token)?.[1];
      return hex ? Uint8Array.of(Number.parseInt(hex, 16)) : utf8.encode(token.replaceAll('▁', ' '));
    },
  };
}

/** The pieces of a `decoder` entry of tokenizer.json that matter here; a Sequence nests them. */
interface DecoderEntry {
  readonly type?: string;
  readonly decoders?: readonly DecoderEntry[];
  readonly prepend_scheme?: string;
  readonly start?: number;
  readonly content?: string;
}

/**
 * @param decoder the `decoder` entry of tokenizer.json
 * @throws Error when the entry is of a kind other than the two above
 */
export function tokenBytesFor(decoder: unknown): TokenBytes {
  const flat = flatten(decoder as DecoderEntry | null);
  const types = flat.map(({ type }) => type);
  if (types.includes('ByteLevel')) return byteLevel;
  const space = flat.find(({ type }) => type === 'Metaspace');
  if (space) return metaspace(space.prepend_scheme !== 'never');
  if (types.includes('ByteFallback')) {
    return metaspace(flat.some(({ type, start, content }) => type === 'Strip' && content === ' ' && start === 1));
  }
  throw new Error(
    `expected a tokenizer with a ByteLevel, Metaspace or ByteFallback decoder, got ${types.join(', ') || 'none'}`,
  );
}

function flatten(decoder: DecoderEntry | null): DecoderEntry[] {
  if (!decoder) return [];
  return decoder.decoders ? decoder.decoders.flatMap(flatten) : [decoder];
}
