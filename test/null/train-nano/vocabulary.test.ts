import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Tokenizer } from '@huggingface/tokenizers';
import { nanoSpecialTokens, trainTokenizer } from '../../../gpu-backend/train/nano/vocabulary.ts';

const corpus = Array.from({ length: 50 }, (_, i) => [
  `(image ${1 + (i % 6)}: <Image>`,
  '</Image>)',
  'There is a box with two yellow circles.',
  'true',
  'false',
]).flat();
const size = 328;
const file = trainTokenizer(corpus, size);
const tokenizer = new Tokenizer(file, {});

test('the file has the asked size, specials last', () => {
  assert.equal(Object.keys(file.model.vocab).length + nanoSpecialTokens.length, size);
  assert.deepEqual(
    file.added_tokens.map(({ content }) => content),
    [...nanoSpecialTokens],
  );
  assert.equal(file.added_tokens.at(-1)?.id, size - 1);
});

test('words and the image wrapper are single tokens for the reference implementation', () => {
  assert.deepEqual(tokenizer.encode(' yellow').tokens.length, 1);
  assert.deepEqual(tokenizer.encode('(image 3: <Image>').tokens.length, 1);
  assert.deepEqual(tokenizer.encode('(image 3: <Image><image></Image>)').tokens.length, 3);
});

test('any text comes back from its tokens', () => {
  for (const text of ['There is', 'naïve – 図 12345\n\n x', "don't (image 12: <Image>", '  two  blanks ']) {
    assert.equal(tokenizer.decode(tokenizer.encode(text).ids), text);
  }
});

test('too little text for the size is refused with the reachable size', () => {
  assert.throws(() => trainTokenizer(['ab ab'], 300), /support only \d+ of 300/);
});
