/** Whether a prompt fits: what bounds decide, and what is said with the exact numbers. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { checkFit, farTooLong, judge, type Wanted } from '../../../edge/chat/fit.ts';
import type { GenerateMessage } from '../../../shared/contract/backend.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import type { ModelCard } from '../../../shared/contract/models.ts';

const card = {
  id: 'm',
  contextTokens: 100,
  maxNewTokens: 50,
  textBounds: { longestTokenBytes: 10, mostTokensPerByte: 1, promptTokens: 5, messageTokens: 3, imageTokens: 2 },
} as ModelCard;
const model = { card, id: 'm' };
const user = (...texts: string[]): GenerateMessage[] => [
  { role: 'user', parts: texts.map((text) => ({ type: 'text', text })) },
];
const wanted = (maxNewTokens: number | null, options?: string[]): Wanted => ({
  maxNewTokens,
  field: 'max_tokens',
  ...(options === undefined ? {} : { options }),
});

describe('bounds', () => {
  it('decide at their own numbers', () => {
    // 5 for the prompt, 3 for the message, one for each byte.
    assert.equal(judge(card, user('x'.repeat(82)), [], wanted(10)).type, 'fits');
    assert.equal(judge(card, user('x'.repeat(83)), [], wanted(10)).type, 'unknown');
    assert.equal(judge(card, user('x'.repeat(900)), [], wanted(10)).type, 'unknown');
    assert.equal(judge(card, user('x'.repeat(901)), [], wanted(10)).type, 'too_long');
    assert.equal(judge(card, user('ä'.repeat(41)), [], wanted(10)).type, 'fits');
    assert.equal(judge(card, user('ä'.repeat(42)), [], wanted(10)).type, 'unknown');
  });
  it('count pictures exactly, with what the format puts around them', () => {
    assert.equal(judge(card, user('x'), [30, 30, 16], wanted(10)).type, 'unknown');
    assert.equal(judge(card, user('x'), [30, 30, 15], wanted(10)).type, 'fits');
    assert.equal(judge(card, user('x'), [50, 50], wanted(null)).type, 'too_long');
  });
  it('take the longest of given answers', () => {
    assert.equal(judge(card, user('x'.repeat(80)), [], wanted(null, ['a', 'b'.repeat(11)])).type, 'fits');
    assert.equal(judge(card, user('x'.repeat(80)), [], wanted(null, ['a', 'b'.repeat(13)])).type, 'unknown');
  });
  it('say nothing where the card says nothing', () => {
    const { textBounds: _, ...bare } = card;
    assert.equal(judge(bare as ModelCard, user('x'), [], wanted(1)).type, 'unknown');
  });
  it('never contradict the count', () => {
    const numbers = fc.record({
      // Tokens of as many bytes as the vocabulary has.
      lengths: fc.array(fc.integer({ min: 1, max: 10 }), { maxLength: 60 }),
      around: fc.nat(8),
      images: fc.array(fc.nat(40), { maxLength: 3 }),
      asked: fc.option(fc.integer({ min: 1, max: 60 }), { nil: null }),
    });
    fc.assert(
      fc.property(numbers, ({ lengths, around, images, asked }) => {
        const text = 'x'.repeat(lengths.reduce((sum, length) => sum + length, 0));
        const promptTokens = lengths.length + around + images.reduce((sum, tokens) => sum + tokens, 0);
        const unfit = checkFit(model, { promptTokens, imageTokens: images }, wanted(asked));
        const { type } = judge(card, user(text), images, wanted(asked));
        if (type === 'fits') assert.equal(unfit, null);
        if (type === 'too_long') assert.notEqual(unfit, null);
      }),
    );
  });
});

describe('what does not fit', () => {
  it('is told with what it takes and what there is', () => {
    const say = (promptTokens: number, imageTokens: number[], asked: number | null) =>
      checkFit(model, { promptTokens, imageTokens }, wanted(asked));
    assert.equal(say(90, [30, 30], 10), null);
    assert.equal(say(99, [30, 30], null), null);
    assert.deepEqual(say(90, [30, 30], 11), {
      code: 'context_length_exceeded',
      param: 'max_tokens',
      message:
        "max_tokens: expected prompt and answer within the 100 tokens of m's context, received a prompt of 90 tokens (30 of text + 2 images: 2 x 30) and 11 more for the answer. Send fewer images or less text, or lower max_tokens.",
    });
    assert.match(
      say(100, [30, 29], null)?.message ?? '',
      /a prompt of 100 tokens \(41 of text \+ 2 images: 30 \+ 29\)/,
    );
    assert.equal(say(130, [], 1)?.param, 'messages');
    const scored = checkFit(
      model,
      { promptTokens: 95, imageTokens: [], optionTokens: [3, 6] },
      wanted(null, ['a', 'b']),
    );
    assert.match(scored?.message ?? '', /95 tokens \(95 of text\) and 6 more of the longest option/);
  });
  it('is not counted where that would take long', () => {
    const far = judge(card, user('x'.repeat(LIMITS.request.maxCountedTextBytes + 1)), [], wanted(1));
    assert.ok(far.type === 'too_long' && !far.exact);
    assert.match(farTooLong(model, far.text, [30]).message, /at least 26245 tokens \(26215 of text \+ 1 image: 30\)/);
  });
});
