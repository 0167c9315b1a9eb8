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

/**
 * @param bytesOf bytes that an id writes; `null` for special tokens and ids without a token, which no text contains
 */
export function buildTokenTrie(vocabulary: number, bytesOf: (id: number) => Uint8Array | null): TokenTrie {
  const tokens: { readonly id: number; readonly bytes: Uint8Array; readonly key: string }[] = [];
  for (let id = 0; id < vocabulary; id++) {
    const bytes = bytesOf(id);
    if (bytes === null || bytes.length === 0 || bytes.length >= 2 ** 16) continue;
    // One character a byte: strings compare several times faster than arrays.
    tokens.push({ id, bytes, key: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1') });
  }
  tokens.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : a.id - b.id));

  let nodes = 1;
  let maxDepth = 0;
  let previous = new Uint8Array(0);
  for (const { bytes } of tokens) {
    nodes += bytes.length - commonPrefix(previous, bytes);
    maxDepth = Math.max(maxDepth, bytes.length);
    previous = bytes as Uint8Array<ArrayBuffer>;
  }
  const textStart = new Int32Array(new SharedArrayBuffer(4 * (vocabulary + 1)));
  for (const { id, bytes } of tokens) textStart[id + 1] = bytes.length;
  for (let id = 0; id < vocabulary; id++) textStart[id + 1]! += textStart[id]!;
  const text = new Uint8Array(new SharedArrayBuffer(textStart[vocabulary]!));
  for (const { id, bytes } of tokens) text.set(bytes, textStart[id]!);
  const trie = {
    vocabulary,
    text,
    textStart,
    byte: new Uint8Array(new SharedArrayBuffer(nodes)),
    depth: new Uint16Array(new SharedArrayBuffer(2 * nodes)),
    end: new Int32Array(new SharedArrayBuffer(4 * nodes)),
    token: new Int32Array(new SharedArrayBuffer(4 * nodes)).fill(-1),
    sibling: new Int32Array(new SharedArrayBuffer(4 * vocabulary)).fill(-1),
    maxDepth,
  };
  /** Nodes of the bytes before, by depth. */
  const path = new Int32Array(maxDepth + 1);
  let count = 1;
  previous = new Uint8Array(0);
  for (const { id, bytes } of tokens) {
    const shared = commonPrefix(previous, bytes);
    for (let depth = shared + 1; depth <= previous.length; depth++) trie.end[path[depth]!] = count;
    for (let depth = shared + 1; depth <= bytes.length; depth++) {
      trie.byte[count] = bytes[depth - 1]!;
      trie.depth[count] = depth;
      path[depth] = count++;
    }
    const node = path[bytes.length]!;
    if (trie.token[node] === -1) trie.token[node] = id;
    else {
      let last = trie.token[node]!;
      while (trie.sibling[last] !== -1) last = trie.sibling[last]!;
      trie.sibling[last] = id;
    }
    previous = bytes as Uint8Array<ArrayBuffer>;
  }
  for (let depth = 0; depth <= previous.length; depth++) trie.end[path[depth]!] = count;
  return trie;
}

/** Bytes that a token adds to a text. */
export function tokenText({ text, textStart }: TokenTrie, id: number): Uint8Array {
  return text.subarray(textStart[id]!, textStart[id + 1]!);
}

/** Which bytes are tokens by themselves. */
export function singleBytes(trie: TokenTrie): boolean[] {
  const has = Array.from({ length: 256 }, () => false);
  for (let node = 1; node < trie.byte.length; node++)
    if (trie.depth[node] === 1 && trie.token[node] !== -1) has[trie.byte[node]!] = true;
  return has;
}

function commonPrefix(a: Uint8Array, b: Uint8Array): number {
  const most = Math.min(a.length, b.length);
  let length = 0;
  while (length < most && a[length] === b[length]) length++;
  return length;
}
