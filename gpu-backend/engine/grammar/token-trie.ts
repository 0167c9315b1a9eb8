/** All tokens of a vocabulary by their bytes, so that one walk decides for every token whether it fits. */

/**
 * Nodes in depth-first order; node 0 is the empty text. In shared memory: one copy serves the server's and the engine's thread.
 */
export interface TokenTrie {
  readonly vocabulary: number;
  /** The byte that leads to the node, and how many bytes lead to it in all. */
  readonly byte: Uint8Array;
  readonly depth: Uint16Array;
  /** First node after the node's subtree. */
  readonly end: Int32Array;
  /** A token with exactly these bytes, or -1; further ones follow by `sibling`, indexed by token id. */
  readonly token: Int32Array;
  readonly sibling: Int32Array;
  readonly maxDepth: number;
  /** Node of the text of one byte (256 entries), or -1. */
  readonly firstByte: Int32Array;
  /** Bytes of token t: textStart[t] … textStart[t+1]-1; none where text cannot contain it. */
  readonly text: Uint8Array;
  readonly textStart: Int32Array;
}

/** Ids share a sort key with the first four bytes of their text: 21 + 32 bits. */
const MAX_VOCABULARY = 2 ** 21;

/**
 * @param vocabulary number of ids, at most 2^21
 * @param bytesOf bytes that an id writes; `null` for special tokens and ids without a token, which no text contains
 */
export function buildTokenTrie(vocabulary: number, bytesOf: (id: number) => Uint8Array | null): TokenTrie {
  if (vocabulary > MAX_VOCABULARY)
    throw new Error(`internal: expected a vocabulary of at most ${MAX_VOCABULARY} tokens, got ${vocabulary}`);
  const { text, textStart } = textsOf(vocabulary, bytesOf);
  const order = sortedIds(text, textStart);
  const lengthOf = (id: number) => textStart[id + 1]! - textStart[id]!;
  /** Leading bytes that a token has in common with the one before it in order. */
  const shared = new Uint16Array(order.length);
  let nodes = 1;
  let maxDepth = 0;
  for (const [index, id] of order.entries()) {
    if (index > 0) shared[index] = commonPrefix(text, textStart, order[index - 1]!, id);
    nodes += lengthOf(id) - shared[index]!;
    maxDepth = Math.max(maxDepth, lengthOf(id));
  }
  const byte = new Uint8Array(new SharedArrayBuffer(nodes));
  const depth = new Uint16Array(new SharedArrayBuffer(2 * nodes));
  const end = new Int32Array(new SharedArrayBuffer(4 * nodes));
  const token = new Int32Array(new SharedArrayBuffer(4 * nodes)).fill(-1);
  const sibling = new Int32Array(new SharedArrayBuffer(4 * vocabulary)).fill(-1);
  const firstByte = new Int32Array(new SharedArrayBuffer(4 * 256)).fill(-1);
  /** Nodes of the bytes before, by depth. */
  const path = new Int32Array(maxDepth + 1);
  let count = 1;
  let open = 0;
  let previous = -1;
  for (const [index, id] of order.entries()) {
    const start = textStart[id]!;
    const length = lengthOf(id);
    for (let level = shared[index]! + 1; level <= open; level++) end[path[level]!] = count;
    for (let level = shared[index]! + 1; level <= length; level++) {
      if (level === 1) firstByte[text[start]!] = count;
      byte[count] = text[start + level - 1]!;
      depth[count] = level;
      path[level] = count++;
    }
    const node = path[length]!;
    // Equal texts stand side by side, by id.
    if (token[node] === -1) token[node] = id;
    else sibling[previous] = id;
    previous = id;
    open = length;
  }
  for (let level = 0; level <= open; level++) end[path[level]!] = count;
  return { vocabulary, text, textStart, byte, depth, end, token, sibling, maxDepth, firstByte };
}

function textsOf(
  vocabulary: number,
  bytesOf: (id: number) => Uint8Array | null,
): Pick<TokenTrie, 'text' | 'textStart'> {
  const textStart = new Int32Array(new SharedArrayBuffer(4 * (vocabulary + 1)));
  const texts: (Uint8Array | null)[] = [];
  for (let id = 0; id < vocabulary; id++) {
    const bytes = bytesOf(id);
    const fits = bytes !== null && bytes.length < 2 ** 16;
    texts.push(fits ? bytes : null);
    textStart[id + 1] = textStart[id]! + (fits ? bytes.length : 0);
  }
  const text = new Uint8Array(new SharedArrayBuffer(textStart[vocabulary]!));
  for (const [id, bytes] of texts.entries()) if (bytes !== null) text.set(bytes, textStart[id]!);
  return { text, textStart };
}

/** Ids that write something, by their bytes, equals by id. The first four bytes are sorted as numbers, ten times as fast as texts. */
function sortedIds(text: Uint8Array, textStart: Int32Array): Int32Array {
  const keys: number[] = [];
  for (let id = 0; id + 1 < textStart.length; id++) {
    const [start, end] = [textStart[id]!, textStart[id + 1]!];
    if (start === end) continue;
    let key = 0;
    for (let at = start; at < start + 4; at++) key = key * 256 + (at < end ? text[at]! : 0);
    keys.push(key * MAX_VOCABULARY + id);
  }
  const sorted = Float64Array.from(keys).sort();
  const order = Int32Array.from(sorted, (key) => key % MAX_VOCABULARY);
  const byText = (a: number, b: number) => {
    const [aStart, bStart] = [textStart[a]!, textStart[b]!];
    const [aLength, bLength] = [textStart[a + 1]! - aStart, textStart[b + 1]! - bStart];
    const same = commonPrefix(text, textStart, a, b);
    if (same === aLength || same === bLength) return aLength - bLength || a - b;
    return text[aStart + same]! - text[bStart + same]!;
  };
  for (let from = 0; from < order.length; ) {
    const head = Math.floor(sorted[from]! / MAX_VOCABULARY);
    let to = from + 1;
    while (to < order.length && Math.floor(sorted[to]! / MAX_VOCABULARY) === head) to++;
    if (to - from > 1) order.subarray(from, to).sort(byText);
    from = to;
  }
  return order;
}

/** Bytes that a token adds to a text. */
export function tokenText({ text, textStart }: TokenTrie, id: number): Uint8Array {
  return text.subarray(textStart[id]!, textStart[id + 1]!);
}

/** Which bytes are tokens by themselves. */
export function singleBytes(trie: TokenTrie): boolean[] {
  return Array.from(trie.firstByte, (node) => node >= 0 && trie.token[node] !== -1);
}

function commonPrefix(text: Uint8Array, textStart: Int32Array, a: number, b: number): number {
  const [aStart, bStart] = [textStart[a]!, textStart[b]!];
  const most = Math.min(textStart[a + 1]! - aStart, textStart[b + 1]! - bStart);
  let length = 0;
  while (length < most && text[aStart + length] === text[bStart + length]) length++;
  return length;
}
