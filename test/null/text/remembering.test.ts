import assert from 'node:assert/strict';
import { test } from 'node:test';
import { remembering } from '../../../gpu-backend/text/remembering.ts';
import { parseTokenizer } from '../../../gpu-backend/text/tokenizer.ts';
import { smallTokenizerJson } from './small-tokenizer.ts';

function counted() {
  const tokenizer = parseTokenizer(smallTokenizerJson([]));
  let calls = 0;
  const encode: typeof tokenizer.encode = (text, options) => {
    calls++;
    return tokenizer.encode(text, options);
  };
  return { tokenizer, counting: { ...tokenizer, encode }, calls: () => calls };
}

test('the same ids as without a memory, of repeated texts at once, and nobody can change what is remembered', () => {
  const { tokenizer, counting, calls } = counted();
  const quick = remembering(counting);
  for (const text of ['a b', 'b a', '', 'a b'])
    for (const options of [{}, { continues: true }, { continues: false }]) {
      const ids = quick.encode(text, options);
      assert.deepEqual(ids, tokenizer.encode(text, options));
      ids.push(0);
    }
  assert.equal(calls(), 6, 'three texts, at the beginning and within');
});

test('the least recently used go, and long texts are not kept', () => {
  const { counting, calls } = counted();
  const quick = remembering(counting, 2);
  for (const text of ['a', 'b', 'a', 'a a', 'a']) quick.encode(text);
  assert.equal(calls(), 3, 'a stays, b goes');
  quick.encode('b');
  assert.equal(calls(), 4);
  for (let i = 0; i < 2; i++) quick.encode('a'.repeat(2000));
  assert.equal(calls(), 6);
});
