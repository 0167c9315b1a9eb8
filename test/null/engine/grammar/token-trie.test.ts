import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { buildTokenTrie, singleBytes, tokenText } from '../../../../gpu-backend/engine/grammar/token-trie.ts';

describe('the trie of a vocabulary', () => {
  // Few different bytes, zero among them, so that texts share beginnings longer than a sort key, are equal, or are prefixes.
  const bytes = fc.uint8Array({ max: 2, maxLength: 9 });
  it('has every text once, in depth-first order, and every token at its text', () => {
    fc.assert(
      fc.property(fc.array(fc.option(bytes), { maxLength: 60 }), (vocabulary) => {
        const trie = buildTokenTrie(vocabulary.length, (id) => vocabulary[id]!);
        const found = new Map<number, string>();
        const texts: string[] = [];
        const path: number[] = [];
        for (let node = 1; node < trie.byte.length; node++) {
          path.length = trie.depth[node]! - 1;
          path.push(trie.byte[node]!);
          texts.push(path.join());
          const inside = trie.depth.findIndex((depth, at) => at > node && depth <= trie.depth[node]!);
          assert.equal(trie.end[node], inside < 0 ? trie.byte.length : inside);
          let last = -1;
          for (let id = trie.token[node]!; id !== -1; id = trie.sibling[id]!) {
            assert.ok(id > last);
            found.set(id, path.join());
            last = id;
          }
        }
        assert.equal(trie.end[0], trie.byte.length);
        assert.equal(new Set(texts).size, texts.length);
        const written = [...vocabulary.entries()].filter(([, text]) => text !== null && text.length > 0);
        assert.deepEqual(
          [...found].sort(([a], [b]) => a - b),
          written.map(([id, text]) => [id, text!.join()]),
        );
        const needed = new Set(
          written.flatMap(([, text]) => [...text!.keys()].map((n) => text!.slice(0, n + 1).join())),
        );
        assert.deepEqual(new Set(texts), needed);
        for (const [id, text] of written) assert.deepEqual([...tokenText(trie, id)], [...text!]);
        for (const [byte, has] of singleBytes(trie).entries())
          assert.equal(
            has,
            written.some(([, text]) => text!.length === 1 && text![0] === byte),
          );
        for (const [byte, node] of trie.firstByte.entries())
          assert.ok(node < 0 ? !needed.has(`${byte}`) : trie.depth[node] === 1 && trie.byte[node] === byte);
      }),
    );
  });
});
