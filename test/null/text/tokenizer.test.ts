import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { parseTokenizer } from '../../../gpu-backend/text/tokenizer.ts';
import { TokenizerError } from '../../../gpu-backend/text/tokenizer-error.ts';
import { verifyTokenizer } from '../../../gpu-backend/text/verify-tokenizer.ts';
import { createSmallTokenizer, LLAMA3_SPECIALS, SMALL_MERGES, smallTokenizerJson } from './small-tokenizer.ts';

const tokenizer = createSmallTokenizer();
const anyText = fc.string({ unit: 'binary', maxLength: 60 });
const textWithSpecials = fc
  .array(
    fc.oneof(
      fc.constantFrom(...LLAMA3_SPECIALS, '<|', '|>', '<image', 'image>', '\u200b', ' '),
      fc.string({ maxLength: 6 }),
    ),
    { maxLength: 12 },
  )
  .map((pieces) => pieces.join(''));

test('text comes back from its ids', () => {
  fc.assert(
    fc.property(fc.oneof(anyText, textWithSpecials), (text) =>
      assert.equal(tokenizer.decode(tokenizer.encode(text)), text),
    ),
    { numRuns: 1000 },
  );
});

test('typed specials stay text; in the other mode they are one id', () => {
  fc.assert(
    fc.property(textWithSpecials, (text) => assert.ok(!tokenizer.encode(text).some(tokenizer.isSpecial))),
    { numRuns: 1000 },
  );
  for (const special of LLAMA3_SPECIALS) {
    assert.ok(tokenizer.encode(special).length > 1);
    assert.deepEqual(tokenizer.encodeWithSpecials(special), [tokenizer.requireId(special)]);
  }
});

test('a stream gives the same text as decoding at once, and only whole characters', () => {
  fc.assert(
    fc.property(fc.array(fc.nat(tokenizer.vocabSize + 2), { maxLength: 40 }), (ids) => {
      const stream = tokenizer.createStream();
      const pieces = ids.map((id) => stream.push(id));
      assert.equal(pieces.join('') + stream.finish(), tokenizer.decode(ids));
      for (const piece of pieces) assert.equal(Buffer.from(piece).toString(), piece);
    }),
    { numRuns: 1000 },
  );
  const stream = tokenizer.createStream();
  const pieces = tokenizer.encode('é😀').map((id) => stream.push(id));
  assert.deepEqual(pieces, ['', 'é', '', '', '', '😀']);
  assert.equal(stream.finish(), '');
});

test('specials are left out of decoded text unless asked for', () => {
  const ids = [tokenizer.requireId('<|begin_of_text|>'), ...tokenizer.encode('a'), tokenizer.requireId('<|eot_id|>')];
  assert.equal(tokenizer.decode(ids), 'a');
  assert.equal(tokenizer.decode(ids, { keepSpecials: true }), '<|begin_of_text|>a<|eot_id|>');
  assert.equal(tokenizer.decode([tokenizer.vocabSize + 5]), '\ufffd');
  assert.equal(tokenizer.decode([]), '');
});

test('a missing token is named', () => {
  assert.equal(tokenizer.idOf('<|nope|>'), undefined);
  assert.throws(() => tokenizer.requireId('<|nope|>'), /<\|nope\|>/);
});

test('a special that the vocabulary also lists, with merges that lead to it, stays out of reach of text', () => {
  const merges: [string, string][] = [
    ['<', 's'],
    ['<s', '>'],
    ['<', '/'],
    ['</', 's'],
    ['</s', '>'],
  ];
  const json = smallTokenizerJson(merges, []) as { added_tokens: object[]; model: { vocab: Record<string, number> } };
  json.added_tokens = ['<s>', '</s>'].map((content) => ({ id: json.model.vocab[content], content, special: true }));
  const old = parseTokenizer(json);
  assert.deepEqual(old.encodeWithSpecials('<s>'), [old.requireId('<s>')]);
  assert.ok(!old.encode('<s> </s>').some(old.isSpecial));
  assert.equal(old.decode(old.encode('<s> </s>')), '<s> </s>');
});

test('an added token that is not marked special can be reserved', () => {
  const json = smallTokenizerJson(SMALL_MERGES) as { added_tokens: { content: string; special: boolean }[] };
  for (const token of json.added_tokens) token.special = token.content !== '<image>';
  assert.equal(parseTokenizer(json).encode('<image>').length, 1);
  assert.ok(parseTokenizer(json, { reserved: ['<image>'] }).encode('<image>').length > 1);
});

test('metaspace tokenizers decode spaces and byte tokens', () => {
  const vocab = Object.fromEntries(['▁', 'a', '▁a', '<0xC3>', '<0xA9>', 'b'].map((token, id) => [token, id]));
  const llama = parseTokenizer({
    added_tokens: [],
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 0 },
      ],
    },
    model: { type: 'BPE', vocab, merges: ['▁ a'], byte_fallback: true },
  });
  assert.equal(llama.decode([2, 3, 4, 2, 5]), 'aé ab');
});

test('what is not a BPE tokenizer, or would lose text, is refused', () => {
  assert.throws(() => parseTokenizer({ model: { type: 'Unigram', vocab: [] } }), TokenizerError);
  assert.throws(() => parseTokenizer(null), TokenizerError);
  const json = smallTokenizerJson([]) as { model: { vocab: Record<string, number> } };
  delete json.model.vocab.a;
  assert.throws(() => parseTokenizer(json), /lacks byte 0x61/);
});

// A quadratic merge loop would need hours; the limit only ends a hang.
test('a million repeated characters are encoded and come back', { timeout: 120_000 }, () => {
  for (const text of ['x', ' ', '\n ', "'", 'é'].map((unit) => unit.repeat(200_000))) {
    assert.equal(tokenizer.decode(tokenizer.encode(text)), text);
  }
});

const oracle = new URL('../../../../shared/oracles/tokenizer', import.meta.url).pathname;
test('ids equal the reference tokenizer in both modes', {
  skip: existsSync(oracle) ? false : `${oracle} is absent`,
}, () => {
  const rows = verifyTokenizer(oracle);
  assert.ok(rows.length > 100);
  assert.deepEqual(
    rows.filter(({ ok }) => !ok),
    [],
  );
});
