import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { PrefixTree } from '../../../../gpu-backend/engine/kv/prefix-tree.ts';
import {
  commonLength,
  type PromptSymbols,
  sliceSymbols,
  symbolAt,
} from '../../../../gpu-backend/engine/kv/prompt-symbols.ts';
import type { KvSpan } from '../../../../gpu-backend/engine/kv/span.ts';
import { randomOf } from './random.ts';

const BYTES_PER_TOKEN = 4;
const PLACEHOLDER = 9;

function text(...ids: number[]): PromptSymbols {
  return { tokenIds: Int32Array.from(ids), images: [] };
}

/** Numbers are text, [key, tokens] an image. */
function prompt(...parts: (number | readonly [string, number])[]): PromptSymbols {
  const ids: number[] = [];
  const images: PromptSymbols['images'][number][] = [];
  for (const part of parts) {
    if (typeof part === 'number') ids.push(part);
    else {
      images.push({ start: ids.length, tokens: part[1], key: part[0] });
      ids.push(...new Array<number>(part[1]).fill(PLACEHOLDER));
    }
  }
  return { tokenIds: Int32Array.from(ids), images };
}

/** What a naive comparison sees: one string a position. */
function names(symbols: PromptSymbols): string[] {
  return [...symbols.tokenIds].map((id, at) => {
    const image = symbols.images.find(({ start, tokens }) => at >= start && at < start + tokens);
    return image === undefined ? `${id}` : `${image.key}#${image.tokens}#${at - image.start}`;
  });
}

/** A span that says which position of which prompt each of its numbers is. */
function spanOf(marks: readonly number[]): KvSpan {
  const plane = Float32Array.from(marks);
  return { tokens: marks.length, start: 0, bytes: plane.byteLength, planes: [plane] };
}

const marksOf = (hit: ReturnType<PrefixTree['lookup']>) =>
  hit.pieces.flatMap(({ span, from, to }) => [...span.planes[0]!.subarray(from, to)]);

describe('PromptSymbols', () => {
  const random = (next: () => number) =>
    prompt(
      ...Array.from({ length: Math.floor(next() * 6) }, () =>
        next() < 0.5
          ? Math.floor(next() * 2) + PLACEHOLDER - 1
          : ([next() < 0.5 ? 'a' : 'b', 1 + Math.floor(next() * 3)] as const),
      ),
    );

  it('compare as their positions do one by one', () => {
    const next = randomOf(2);
    for (let round = 0; round < 20_000; round++) {
      const [a, b] = [random(next), random(next)];
      const [namesA, namesB] = [names(a), names(b)];
      const fromA = Math.floor(next() * (namesA.length + 1));
      const fromB = Math.floor(next() * (namesB.length + 1));
      const limit = Math.floor(next() * (1 + Math.min(namesA.length - fromA, namesB.length - fromB)));
      let expected = 0;
      while (expected < limit && namesA[fromA + expected] === namesB[fromB + expected]) expected++;
      assert.equal(commonLength(a, fromA, b, fromB, limit), expected);
      const cut = sliceSymbols(a, fromA, namesA.length);
      assert.equal(commonLength(cut, 0, a, fromA, cut.tokenIds.length), cut.tokenIds.length);
      for (let at = 0; at < cut.tokenIds.length; at++) assert.equal(symbolAt(cut, at), symbolAt(a, fromA + at));
      if (fromA < namesA.length && fromB < namesB.length)
        assert.equal(symbolAt(a, fromA) === symbolAt(b, fromB), namesA[fromA] === namesB[fromB]);
    }
  });
});

describe('PrefixTree', () => {
  it('gives the longest stored beginning and asks only for what is not stored', () => {
    const tree = new PrefixTree(1000);
    const asked: [number, number][] = [];
    const insert = (symbols: PromptSymbols, length = symbols.tokenIds.length) =>
      tree.insert('m', symbols, length, (from, to) => {
        asked.push([from, to]);
        return spanOf(Array.from({ length: to - from }, (_, at) => from + at));
      });
    insert(prompt(1, ['cat', 4], 2, 3));
    insert(prompt(1, ['cat', 4], 2, 4, 5));
    insert(prompt(1, ['cat', 4], 2, 4, 5));
    insert(prompt(1, ['dog', 4], 2), 3);
    assert.deepEqual(asked, [
      [0, 7],
      [6, 8],
      [1, 3],
    ]);
    assert.deepEqual(marksOf(tree.lookup('m', prompt(1, ['cat', 4], 2, 4, 5, 6))), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert.deepEqual(marksOf(tree.lookup('m', prompt(1, ['cat', 4], 2, 4, 5, 6), 7)), [0, 1, 2, 3, 4, 5, 6]);
    assert.equal(tree.lookup('m', prompt(1, ['cat', 4], 7)).length, 5);
    assert.equal(tree.lookup('m', prompt(1, ['dog', 4])).length, 3, 'a part of an image');
    assert.equal(tree.lookup('m', prompt(1, ['dog', 3])).length, 1, 'the same key with other tokens is another image');
    assert.equal(tree.lookup('m', prompt(1, PLACEHOLDER, PLACEHOLDER)).length, 1, 'text is never an image');
    assert.equal(tree.lookup('m', prompt(2)).length, 0);
    assert.equal(tree.lookup('other', prompt(1, ['cat', 4], 2)).length, 0, 'another scope sees nothing');
    assert.equal(tree.bytes, (7 + 2 + 2) * BYTES_PER_TOKEN);
    assert.deepEqual(tree.counters, {
      queries: 8,
      queryTokens: 9 + 7 + 6 + 5 + 4 + 3 + 1 + 6,
      hits: 6,
      hitTokens: 8 + 7 + 5 + 3 + 1 + 1,
      evictions: 0,
      refused: 0,
    });
  });

  it('evicts the least recently used leaf; a shared buffer counts until its last node goes', () => {
    const tree = new PrefixTree(12 * BYTES_PER_TOKEN);
    const insert = (...ids: number[]) =>
      tree.insert('m', text(...ids), ids.length, (from, to) => spanOf(ids.slice(from, to)));
    insert(1, 2, 3, 4, 5, 6);
    insert(1, 2, 3, 7, 8);
    assert.equal(tree.nodes, 3);
    assert.equal(tree.bytes, 8 * BYTES_PER_TOKEN);
    tree.lookup('m', text(1, 2, 3, 7, 8));
    insert(9, 9, 9, 9);
    assert.equal(tree.bytes, 12 * BYTES_PER_TOKEN);
    // [4 5 6] is oldest, but shares the buffer of [1 2 3]: dropping it frees nothing, so [7 8] goes too.
    insert(8);
    assert.equal(tree.counters.evictions, 2);
    assert.equal(tree.bytes, 11 * BYTES_PER_TOKEN);
    assert.equal(tree.lookup('m', text(1, 2, 3, 7, 8)).length, 3);
    assert.equal(tree.lookup('m', text(9, 9, 9, 9)).length, 4);
    insert(6, 6, 6, 6, 6);
    assert.equal(tree.bytes, 9 * BYTES_PER_TOKEN);
    assert.equal(tree.lookup('m', text(1)).length, 0, 'the buffer went with its last node');
  });

  it('refuses what does not fit at all, without evicting anything for it', () => {
    const tree = new PrefixTree(4 * BYTES_PER_TOKEN);
    const save = (from: number, to: number) => spanOf(new Array<number>(to - from).fill(0));
    assert.equal(tree.insert('m', text(1, 2, 3), 3, save), 3);
    assert.equal(tree.insert('m', text(5, 6, 7, 8, 9), 5, save), 0);
    assert.equal(tree.insert('m', text(1, 2, 3, 4, 5), 5, save), 0, 'not beside the beginning it extends');
    assert.deepEqual([tree.counters.refused, tree.counters.evictions, tree.bytes], [2, 0, 12]);
    assert.equal(new PrefixTree(0).insert('m', text(1), 1, save), 0);
  });

  it('what a lookup gave stays readable after its eviction', () => {
    const tree = new PrefixTree(100);
    tree.insert('m', text(1, 2), 2, () => spanOf([5, 6]));
    const hit = tree.lookup('m', text(1, 2));
    tree.shrinkTo(0);
    assert.equal(tree.bytes, 0);
    assert.deepEqual(marksOf(hit), [5, 6]);
  });

  it('drops one scope and leaves the others', () => {
    const tree = new PrefixTree(1000);
    for (const scope of ['a', 'b'])
      for (const last of [3, 4])
        tree.insert(scope, text(1, 2, last), 3, (from, to) => spanOf([1, 2, last].slice(from, to)));
    tree.drop('a');
    assert.equal(tree.lookup('a', text(1, 2, 3)).length, 0);
    assert.equal(tree.lookup('b', text(1, 2, 3)).length, 3);
    assert.equal(tree.bytes, 4 * BYTES_PER_TOKEN);
    tree.drop('b');
    assert.deepEqual([tree.bytes, tree.nodes], [0, 0]);
  });

  it('10^5 random operations against a plain map: exact, isolated, within budget, and flat in memory', () => {
    const next = randomOf(17);
    const pick = (below: number) => Math.floor(next() * below);
    const budget = 400 * BYTES_PER_TOKEN;
    const tree = new PrefixTree(budget);
    const roomy = new PrefixTree(Number.POSITIVE_INFINITY);
    /** Every stored beginning ever, by scope. `roomy` must have them all, `tree` nothing else. */
    let stored = new Map<string, number>();
    let nextMark = 0;
    const symbols = () =>
      prompt(
        ...Array.from({ length: 1 + pick(12) }, () =>
          next() < 0.7 ? pick(3) : (['xyz'[pick(3)]!, 1 + pick(3)] as const),
        ),
      );
    let heapAfterWarmUp = 0;
    for (let step = 0; step < 100_000; step++) {
      if (step % 5_000 === 0) {
        for (const scope of ['p', 'q', 'r']) roomy.drop(scope);
        for (const scope of ['p', 'q', 'r']) tree.drop(scope);
        stored = new Map();
        assert.deepEqual([tree.bytes, tree.nodes, roomy.bytes, roomy.nodes], [0, 0, 0, 0]);
      }
      const scope = 'pqr'[pick(3)]!;
      const one = symbols();
      const all = names(one);
      const prefix = (length: number) => `${scope}|${all.slice(0, length).join(' ')}`;
      const known = () => {
        let length = 0;
        while (length < all.length && stored.has(prefix(length + 1))) length++;
        return length;
      };
      if (next() < 0.5) {
        const length = pick(all.length + 1);
        const before = Math.min(known(), length);
        let calls = 0;
        roomy.insert(scope, one, length, (from, to) => {
          calls++;
          assert.ok(from === before && to === length);
          for (let at = from; at < to; at++) stored.set(prefix(at + 1), nextMark++);
          return spanOf(Array.from({ length: to - from }, (_, at) => stored.get(prefix(from + at + 1))!));
        });
        assert.equal(calls, before < length ? 1 : 0);
        tree.insert(scope, one, length, (from, to) =>
          spanOf(Array.from({ length: to - from }, (_, at) => stored.get(prefix(from + at + 1))!)),
        );
      } else {
        const limit = pick(all.length + 1);
        const hit = roomy.lookup(scope, one, limit);
        assert.equal(hit.length, Math.min(known(), limit));
        const marks = (length: number) => Array.from({ length }, (_, at) => stored.get(prefix(at + 1))).join();
        assert.equal(marksOf(hit).join(), marks(hit.length));
        const small = tree.lookup(scope, one, limit);
        assert.ok(small.length <= hit.length);
        assert.equal(marksOf(small).join(), marks(small.length));
      }
      assert.ok(tree.bytes <= budget);
      if (step === 30_000) heapAfterWarmUp = process.memoryUsage().heapUsed;
    }
    assert.ok(tree.counters.evictions > 1000, `${tree.counters.evictions} evictions`);
    const grown = process.memoryUsage().heapUsed - heapAfterWarmUp;
    assert.ok(grown < 40e6, `the heap grew by ${Math.round(grown / 1e6)} MB`);
  });
});
