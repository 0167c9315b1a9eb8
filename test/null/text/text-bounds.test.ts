/** What the card says about the length of texts holds for whatever people type. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { layoutConversation, type Message } from '../../../gpu-backend/text/layout.ts';
import { LayoutError } from '../../../gpu-backend/text/layout-error.ts';
import { bindTemplate, reservedTokens, templateByName } from '../../../gpu-backend/text/templates.ts';
import { textBounds } from '../../../gpu-backend/text/text-bounds.ts';
import { loadTokenizer, parseTokenizer } from '../../../gpu-backend/text/tokenizer.ts';

const fixtures = join(import.meta.dirname, '../../fixtures/tokenizers');
const utf8 = new TextEncoder();
const TOKENS_PER_IMAGE = 5;

const CASES = [
  ['byte-level.json', 'llama-3'],
  ['metaspace.json', 'vicuna'],
  ['metaspace.json', 'idefics2'],
  ['metaspace.json', 'idefics2-chat'],
  ['metaspace.json', 'fuyu'],
  ['metaspace-first.json', 'vicuna'],
] as const;

const text = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.string({ unit: 'grapheme', maxLength: 40 }),
  fc.constantFrom(
    '',
    ' ',
    '  ',
    '\n\n',
    'How many blue squares are in image 1?',
    ' a a a',
    '▁▁',
    '😀😀',
    '\u0958\u1100\u1161',
  ),
);

for (const [file, name] of CASES) {
  test(`bounds of ${name} on ${file}`, () => {
    const format = templateByName(name);
    const tokenizer = loadTokenizer(join(fixtures, file), { reserved: reservedTokens(format) });
    const template = bindTemplate(format, tokenizer);
    const bounds = textBounds(template, tokenizer) ?? assert.fail('there are bounds');
    const imageTokenId = tokenizer.requireId(name === 'fuyu' ? '|SPEAKER|' : '<image>');
    const part = fc.oneof(
      { weight: 3, arbitrary: text.map((value) => ({ type: 'text' as const, text: value })) },
      fc.constant({ type: 'image' as const, image: 0 }),
    );
    const message = (role: Message['role']) =>
      fc.array(part, { maxLength: 4 }).map((parts): Message => ({ role, parts }));
    const conversation = fc
      .tuple(
        fc.option(message('system'), { nil: null }),
        fc.array(fc.tuple(message('user'), message('assistant')), { maxLength: 2 }),
        message('user'),
      )
      .map(([system, turns, last]) => [...(system === null ? [] : [system]), ...turns.flat(), last]);
    let counted = 0;
    fc.assert(
      fc.property(conversation, (messages) => {
        let ids: Int32Array;
        try {
          const options = {
            tokenizer,
            template,
            imageTokenId,
            tokensPerImage: TOKENS_PER_IMAGE,
            addGenerationPrompt: true,
          };
          ({ ids } = layoutConversation(messages, options));
        } catch (error) {
          if (error instanceof LayoutError) return; // a character that this vocabulary has no way to write
          throw error;
        }
        counted++;
        const parts = messages.flatMap((one) => one.parts);
        const images = parts.filter(({ type }) => type === 'image').length;
        const bytes = parts.reduce((sum, one) => sum + (one.type === 'text' ? utf8.encode(one.text).length : 0), 0);
        const textTokens = ids.length - images * TOKENS_PER_IMAGE;
        const most =
          bounds.promptTokens +
          messages.length * bounds.messageTokens +
          images * bounds.imageTokens +
          bytes * bounds.mostTokensPerByte;
        assert.ok(textTokens <= most, `${textTokens} tokens, at most ${most} expected`);
        assert.ok(textTokens >= bytes / bounds.longestTokenBytes, `${textTokens} tokens for ${bytes} bytes`);
      }),
      { numRuns: 300 },
    );
    assert.ok(counted > 100, `${counted} conversations could be laid out`);
  });
}

test('nothing is said where texts are rewritten in unknown ways', () => {
  const vocab = Object.fromEntries(
    Array.from({ length: 128 }, (_, i) => [`<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`, i]),
  );
  const json = (normalizer: unknown) => ({
    added_tokens: [],
    normalizer,
    decoder: { type: 'Sequence', decoders: [{ type: 'ByteFallback' }, { type: 'Fuse' }] },
    model: { type: 'BPE', vocab, merges: [], byte_fallback: true },
  });
  assert.equal(parseTokenizer(json(null)).mostTokensPerByte, 1);
  assert.equal(parseTokenizer(json({ type: 'NFC' })).mostTokensPerByte, 3);
  assert.equal(parseTokenizer(json({ type: 'NFKC' })).mostTokensPerByte, null);
});
