import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type ChoiceQuestion, ChoiceScorer } from '../../../gpu-backend/engine/choice-scorer.ts';
import { uniform } from '../../../gpu-backend/engine/random.ts';
import { loadCheckpoint } from '../../../gpu-backend/models/load.ts';
import { causalBias, forwardGraph } from '../../../gpu-backend/models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../../../gpu-backend/runtime/session.ts';
import { layoutConversation } from '../../../gpu-backend/text/layout.ts';
import { writeRandomNano } from '../../fixtures/random-nano.ts';

const SIDE = 40;
const picture = (seed: number) => Float32Array.from({ length: 3 * SIDE * SIDE }, (_, i) => uniform(seed, i) * 2 - 1);

function question(index: number): ChoiceQuestion {
  const count = index % 3;
  return {
    parts: [...Array.from({ length: count }, (_, image) => ({ image })), `Question ${index}: how many?`],
    images: Array.from({ length: count }, (_, n) => ({
      key: `p${(index + n) % 4}`,
      picture: async () => ({ pixels_CHW: picture((index + n) % 4), width: SIDE, height: SIDE }),
    })),
    choices: ['true', 'false', 'There are two.', 'There are ten.'],
  };
}

describe('ChoiceScorer', () => {
  let dir: string;
  let scorer: ChoiceScorer;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'mantis-scorer-'));
    await writeRandomNano(dir);
    scorer = await ChoiceScorer.create(dir, null, 1);
  });
  after(() => rm(dir, { recursive: true, force: true }));

  /** One choice by definition: the whole sequence through the model from pixels, and the sum over the choice's tokens. */
  async function byDefinition({ parts, images, choices }: ChoiceQuestion): Promise<number[]> {
    const { config, weights } = loadCheckpoint(dir);
    const { graph, weights: needed } = forwardGraph(config, { images: images.length > 0 ? 'pixels' : 'none' });
    const session = await Session.create(graph);
    const { tokenizer, template, slots, imageTokenId } = scorer.front;
    const layout = layoutConversation(
      [
        {
          role: 'user',
          parts: parts.map((part) =>
            typeof part === 'string' ? { type: 'text', text: part } : { type: 'image', ...part },
          ),
        },
      ],
      { tokenizer, template, tokensPerImage: slots.mostTokens, imageTokenId, addGenerationPrompt: true },
    );
    const scores: number[] = [];
    for (const choice of choices) {
      const answer = tokenizer.encode(choice);
      const ids = [...layout.ids, ...answer];
      const S = ids.length;
      const feeds: Record<string, Tensor> = {
        ids: ints(ids, [1, S]),
        positions: ints([...ids.keys()], [1, S]),
        causal_bias: f32(causalBias(S), [S, S]),
      };
      if (images.length > 0) {
        const pixels = await Promise.all(
          layout.images.map(async ({ image }) => [...(await images[image]!.picture()).pixels_CHW]),
        );
        feeds.pixel_values = f32(Float32Array.from(pixels.flat()), [pixels.length, 3, SIDE, SIDE]);
        const rows = layout.images.flatMap(({ tokenStart, tokenCount }) =>
          Array.from({ length: tokenCount }, (_, t) => tokenStart + t),
        );
        feeds.image_rows = ints(rows, [rows.length]);
      }
      for (const name of needed.keys()) feeds[name] = weights.get(name)!;
      const { data, shape } = (await session.run(feeds)).logits!;
      const V = shape.at(-1)!;
      let score = 0;
      for (const [t, id] of answer.entries()) {
        const row = (data as Float32Array).subarray((layout.ids.length - 1 + t) * V, (layout.ids.length + t) * V);
        const most = Math.max(...row);
        score += row[id]! - most - Math.log(row.reduce((sum, value) => sum + Math.exp(value - most), 0));
      }
      scores.push(score);
    }
    return scores;
  }

  it('a batch of ragged questions gives each the log-probabilities it has alone, by definition', async () => {
    const questions = Array.from({ length: 7 }, (_, i) => question(i));
    const together = await scorer.score(questions);
    for (const [i, one] of questions.entries()) {
      const expected = await byDefinition(one);
      for (const [c, value] of expected.entries())
        assert.ok(
          Math.abs(value - together[i]![c]!) < 1e-4,
          `question ${i}, choice ${c}: ${value} and ${together[i]![c]}`,
        );
    }
  });

  it('refuses what exceeds the context, by number', async () => {
    const long: ChoiceQuestion = { ...question(0), parts: ['How many blue squares are in image 1? '.repeat(60)] };
    await assert.rejects(scorer.score([long]), /question 0 takes \d+ tokens, the model's context is 512/);
  });
});
