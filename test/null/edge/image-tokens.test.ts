import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { checkTokens } from '../../../edge/chat/prompt.ts';
import { imageTokens, type ModelCard } from '../../../shared/contract/models.ts';

/** Patches of 10 pixels within 60 x 40, a newline after each row: at most 28 tokens. */
const card: ModelCard = {
  id: 'm',
  family: 'mantis-fuyu',
  created: 0,
  contextTokens: 50,
  tokensPerImage: 28,
  imageGrid: { width: 60, height: 40, patch: 10, rowEnd: 1 },
  imageWidth: 60,
  imageHeight: 40,
  maxImages: 10,
  maxNewTokens: 10,
  capabilities: { chat: true, fineTune: ['lora'] },
  digest: 'sha256:0',
};

describe('tokens of a picture by its size', () => {
  it('a grid counts patches and line ends of the picture as it is made to fit', () => {
    const count = (width: number, height: number) => imageTokens(card, { width, height });
    assert.equal(count(60, 40), 4 * 7);
    assert.equal(count(600, 400), 4 * 7);
    assert.equal(count(1, 1), 1 * 2);
    assert.equal(count(61, 10), 1 * 7); // 60 x 9
    assert.equal(count(5, 400), 4 * 2); // half a pixel wide is one
    assert.equal(count(41, 11), 2 * 6);
  });

  it('without a grid all take the same', () => {
    const { imageGrid: _, ...fixed } = card;
    assert.equal(imageTokens(fixed, { width: 1, height: 999 }), 28);
  });

  it('a sum that fills the context is refused, with every number', () => {
    assert.deepEqual(checkTokens([28, 12, 9], { card, id: 'm' }), []);
    const [refused, ...more] = checkTokens([28, 12, 10], { card, id: 'm' });
    assert.equal(refused?.code, 'context_length_exceeded');
    assert.match(
      refused?.message ?? '',
      /less than the 50 tokens of m's context.*3 images of 28 \+ 12 \+ 10 = 50 tokens.*smaller images/,
    );
    assert.deepEqual(more, []);
  });
});
