/**
 * The Unigram model of SentencePiece (Kudo, 2018): of all ways to cut a text into pieces of the vocabulary the one with the
 * largest sum of log probabilities. Ids are those of Hugging Face's Rust `tokenizers`, ties and rounding (float64) included.
 *
 * The JavaScript library has a Unigram model too, without byte fallback and with a tree of objects that takes hundreds of
 * megabytes at Fuyu's 262,144 pieces; normalizers, splitting and added tokens stay the library's.
 */

export interface UnigramJson {
  readonly type: 'Unigram';
  readonly unk_id?: number | null;
  /** Pieces with their log probabilities; the place is the id. */
  readonly vocab: readonly (readonly [string, number])[];
  /** A character that no piece covers is written as its UTF-8 bytes, `<0xE2>` and so on. Default false. */
  readonly byte_fallback?: boolean;
}

/** What a character without a piece costs more than the least likely piece. */
const UNKNOWN_PENALTY = 10;

export const BYTE_PIECE = /^<0x[0-9A-F]{2}>$/;
const utf8 = new TextEncoder();

export class UnigramModel {
  readonly idOf: ReadonlyMap<string, number>;
  readonly unknownId: number | undefined;
  private readonly unknownPiece: string | undefined;
  private readonly trie: PieceTrie;
  private readonly scores: Float64Array;
  private readonly unknownScore: number;
  private readonly bytePieces: readonly string[] | undefined;

  /** @throws Error when the entry of tokenizer.json is not a Unigram model */
  constructor(json: UnigramJson) {
    const { vocab, unk_id: unknownId } = json;
    const isVocab =
      Array.isArray(vocab) &&
      vocab.length > 0 &&
      vocab.every((row) => Array.isArray(row) && typeof row[0] === 'string' && typeof row[1] === 'number');
    if (!isVocab) throw new Error('expected model.vocab to be a list of [piece, log probability]');
    if (unknownId !== undefined && unknownId !== null && vocab[unknownId] === undefined)
      throw new Error(`expected model.unk_id to be one of ${vocab.length} ids, got ${JSON.stringify(unknownId)}`);
    this.unknownId = unknownId ?? undefined;
    this.unknownPiece = this.unknownId === undefined ? undefined : vocab[this.unknownId]?.[0];
    this.idOf = new Map(vocab.map(([piece], id) => [piece, id]));
    this.scores = Float64Array.from(vocab, ([, score]) => score);
    this.unknownScore =
      this.scores.reduce((least, score) => Math.min(least, score), Number.POSITIVE_INFINITY) - UNKNOWN_PENALTY;
    this.trie = new PieceTrie(this.idOf);
    const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
    const hasBytes = json.byte_fallback === true && bytes.some((piece) => this.idOf.has(piece));
    this.bytePieces = hasBytes ? bytes : undefined;
  }

  /** Ids of `pieces` as flags by id, for `encode`. */
  flags(pieces: Iterable<string>): Uint8Array {
    const flags = new Uint8Array(this.scores.length);
    for (const piece of pieces) {
      const id = this.idOf.get(piece);
      if (id !== undefined) flags[id] = 1;
    }
    return flags;
  }

  /**
   * Pieces of a normalised text, in order. Time grows with its length times that of the longest piece.
   * @param hidden pieces (see `flags`) that this text must not become; byte fallback may still use them
   * @throws Error when a character has no piece and the model no unknown token
   */
  encode(text: string, hidden: Uint8Array): string[] {
    const length = text.length;
    const best = new Float64Array(length + 1);
    const startOf = new Int32Array(length + 1).fill(-1);
    const isUnknown = new Uint8Array(length + 1);
    const offer = (start: number, end: number, score: number, unknown: 0 | 1): void => {
      if (startOf[end] !== -1 && !(score > best[end]!)) return;
      best[end] = score;
      startOf[end] = start;
      isUnknown[end] = unknown;
    };
    for (let at = 0, size = 1; at < length; at += size) {
      size = text.codePointAt(at)! > 0xffff ? 2 : 1;
      const before = best[at]!;
      let isCovered = false;
      for (let node = this.trie.next(0, text.charCodeAt(at)), end = at + 1; node !== 0; end++) {
        const id = this.trie.idAt(node);
        if (id >= 0 && hidden[id] !== 1) {
          offer(at, end, this.scores[id]! + before, 0);
          if (end === at + size) isCovered = true;
        }
        if (end === length) break;
        node = this.trie.next(node, text.charCodeAt(end));
      }
      if (!isCovered) offer(at, at + size, this.unknownScore + before, 1);
    }
    return this.writeOut(text, startOf, isUnknown);
  }

  private writeOut(text: string, startOf: Int32Array, isUnknown: Uint8Array): string[] {
    const pieces: string[] = [];
    for (let end = text.length; end > 0; ) {
      let start = startOf[end]!;
      if (isUnknown[end] === 0) pieces.push(text.slice(start, end));
      else {
        // Unknown characters side by side are one unknown token (or the bytes of all of them).
        while (start > 0 && isUnknown[start] === 1) start = startOf[start]!;
        for (const piece of this.fallback(text.slice(start, end)).reverse()) pieces.push(piece);
      }
      end = start;
    }
    return pieces.reverse();
  }

  private fallback(text: string): string[] {
    if (this.bytePieces !== undefined) {
      const pieces = Array.from(utf8.encode(text), (byte) => this.bytePieces?.[byte] ?? '');
      if (pieces.every((piece) => this.idOf.has(piece))) return pieces;
    }
    if (this.unknownPiece === undefined)
      throw new Error(`the vocabulary has no piece for ${JSON.stringify(text.slice(0, 40))}, and no unknown token`);
    return [this.unknownPiece];
  }
}

/**
 * Prefix tree in flat arrays, ten bytes a node: the children of a node stand side by side in the order of their UTF-16 code
 * units. Node 0 is the root, and stands for "no such child" as an answer.
 */
class PieceTrie {
  private readonly unit: Uint16Array;
  /** Children of node n are first[n] … first[n + 1] - 1. */
  private readonly first: Int32Array;
  private readonly id: Int32Array;

  constructor(idOf: ReadonlyMap<string, number>) {
    const pieces = [...idOf.keys()].filter((piece) => piece !== '').sort();
    const unit: number[] = [0];
    const first: number[] = [];
    const id: number[] = [];
    // Breadth first: the pieces below a node are the range [low, high) of the sorted list.
    const low: number[] = [0];
    const high: number[] = [pieces.length];
    const depth: number[] = [0];
    for (let node = 0; node < low.length; node++) {
      const at = depth[node]!;
      let from = low[node]!;
      const to = high[node]!;
      const own = pieces[from]?.length === at && node > 0 ? pieces[from++] : undefined;
      id.push(own === undefined ? -1 : idOf.get(own)!);
      first.push(low.length);
      while (from < to) {
        const start = from;
        const character = pieces[start]!.charCodeAt(at);
        while (from < to && pieces[from]!.charCodeAt(at) === character) from++;
        unit.push(character);
        low.push(start);
        high.push(from);
        depth.push(at + 1);
      }
    }
    first.push(low.length);
    this.unit = Uint16Array.from(unit);
    this.first = Int32Array.from(first);
    this.id = Int32Array.from(id);
  }

  /** The child of `node` along a code unit, 0 where there is none. */
  next(node: number, unit: number): number {
    let low = this.first[node]!;
    let high = this.first[node + 1]! - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const found = this.unit[middle]!;
      if (found === unit) return middle;
      if (found < unit) low = middle + 1;
      else high = middle - 1;
    }
    return 0;
  }

  /** Id of the piece that ends at `node`, -1 where none does. */
  idAt(node: number): number {
    return this.id[node]!;
  }
}
