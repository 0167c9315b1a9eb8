import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type ChoiceQuestion, ChoiceScorer } from '../../../gpu-backend/engine/choice-scorer.ts';
import type { ModelFront } from '../../../gpu-backend/engine/model-front.ts';
import { uniform } from '../../../gpu-backend/engine/random.ts';
import { familyOf, type Picture } from '../../../gpu-backend/models/family.ts';
import { loadCheckpoint } from '../../../gpu-backend/models/load.ts';
import { causalBias, forwardGraph } from '../../../gpu-backend/models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../../../gpu-backend/runtime/session.ts';
import { layoutConversation } from '../../../gpu-backend/text/layout.ts';
import { preprocessRgb } from '../../../gpu-backend/vision/preprocess.ts';
import type { ImageRecipe } from '../../../gpu-backend/vision/recipes.ts';
import { writeRandomFamily } from '../../fixtures/random-families.ts';
import { writeRandomNano } from '../../fixtures/random-nano.ts';

/** Pictures of four sizes, as files would hold them. */
const SIZES = [
  [40, 40],
  [64, 48],
  [30, 75],
  [52, 26],
] as const;

function picture(seed: number, recipe: ImageRecipe): Picture {
  const [width, height] = SIZES[seed]!;
  const pixels_HWC = Uint8Array.from({ length: 3 * width * height }, (_, i) => uniform(seed, i) * 256);
  return preprocessRgb({ width, height, pixels_HWC }, recipe);
}

function question(index: number, recipe: ImageRecipe): ChoiceQuestion {
  const count = index % 3;
  return {
    parts: [...Array.from({ length: count }, (_, image) => ({ image })), `Question ${index}: how many?`],
    images: Array.from({ length: count }, (_, n) => ({
      key: `p${(index + n) % 4}`,
      picture: async () => picture((index + n) % 4, recipe),
    })),
    choices: ['true', 'false', 'There are two.', 'There are ten.'],
  };
}

/** One choice by definition: the whole sequence through the model from pixels, and the sum over the choice's tokens. */
async function byDefinition(
  { parts, images, choices }: ChoiceQuestion,
  dir: string,
  front: ModelFront,
): Promise<number[]> {
  const { config, weights } = loadCheckpoint(dir);
  const { graph, weights: needed } = forwardGraph(config, { images: images.length > 0 ? 'pixels' : 'none' });
  const session = await Session.create(graph);
  const { tokenizer, template, slots, imageTokenId } = front;
  const pictures = await Promise.all(images.map((image) => image.picture()));
  const layout = layoutConversation(
    [
      {
        role: 'user',
        parts: parts.map((part) =>
          typeof part === 'string' ? { type: 'text', text: part } : { type: 'image', ...part },
        ),
      },
    ],
    {
      tokenizer,
      template,
      tokensPerImage: (image) => slots.idsOf(pictures[image]!),
      imageTokenId,
      addGenerationPrompt: true,
    },
  );
  const scores: number[] = [];
  for (const choice of choices) {
    const answer = tokenizer.encode(choice);
    const ids = [...layout.ids, ...answer];
    const S = ids.length;
    const feeds: Record<string, Tensor> = {
      ids: ints(ids, [1, S]),
      positions: ints([...ids.keys()], [1, S]),
      causal_bias: f32(causalBias(S, 1, config.text.slidingWindow), [S, S]),
    };
    if (images.length > 0) {
      const shown = layout.images.map(({ image }) => pictures[image]!);
      Object.assign(feeds, familyOf(config).pictureFeeds(config, shown));
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
  await session.release();
  return scores;
}

describe('ChoiceScorer', () => {
  let root: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'mantis-scorer-'));
    await writeRandomNano(join(root, 'nano'));
    await writeRandomFamily(join(root, 'idefics2'), 'idefics2');
    await writeRandomFamily(join(root, 'fuyu'), 'fuyu');
  });
  after(() => rm(root, { recursive: true, force: true }));

  for (const [name, count] of [
    ['nano', 7],
    ['idefics2', 3],
    ['fuyu', 3],
  ] as const)
    it(`${name}: a batch of ragged questions gives each the log-probabilities it has alone, by definition`, async () => {
      const dir = join(root, name);
      const scorer = await ChoiceScorer.create(dir, null, 1);
      const questions = Array.from({ length: count }, (_, i) => question(i, scorer.front.recipe));
      const together = await scorer.score(questions);
      for (const [i, one] of questions.entries()) {
        const expected = await byDefinition(one, dir, scorer.front);
        for (const [c, value] of expected.entries())
          assert.ok(
            Math.abs(value - together[i]![c]!) < 1e-4,
            `question ${i}, choice ${c}: ${value} and ${together[i]![c]}`,
          );
      }
    });

  it('refuses what exceeds the context, by number', async () => {
    const scorer = await ChoiceScorer.create(join(root, 'nano'), null, 1);
    const long: ChoiceQuestion = {
      ...question(0, scorer.front.recipe),
      parts: ['How many blue squares are in image 1? '.repeat(60)],
    };
    await assert.rejects(scorer.score([long]), /question 0 takes \d+ tokens, the model's context is 512/);
  });
});
