/** The engine as an evaluation asks it: a tiny model with random weights, everything of a real one but sense. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import sharp from 'sharp';
import { ChoiceScorer } from '../../../gpu-backend/engine/choice-scorer.ts';
import { EngineEvalModel, type EngineEvalPrompt } from '../../../gpu-backend/engine/eval-model.ts';
import type { EvalModel } from '../../../gpu-backend/eval/task.ts';
import { sha256Hex } from '../../../gpu-backend/io/digest.ts';
import { preprocessImage } from '../../../gpu-backend/vision/preprocess.ts';
import { writeRandomNano } from '../../fixtures/random-nano.ts';

describe('the engine in an evaluation', () => {
  let dir: string;
  let model: EngineEvalModel;
  let prompts: EngineEvalPrompt[];
  const none = new AbortController().signal;

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'mantis-eval-model-'));
    await writeRandomNano(dir);
    model = await EngineEvalModel.open({ dir, threads: 1 });
    const images = await Promise.all(
      [0, 80, 160, 240].map(async (level) => {
        const background = { r: level, g: 255 - level, b: 90 };
        const bytes = await sharp({ create: { width: 50 + level, height: 40, channels: 3, background } })
          .png()
          .toBuffer();
        return { sha256: sha256Hex(bytes), bytes: async () => bytes };
      }),
    );
    prompts = Array.from({ length: 24 }, (_, i) => ({
      parts: [...Array.from({ length: i % 4 }, (__, image) => ({ image })), `Question ${'very '.repeat(i % 5)}${i}?`],
      images: images.slice(0, i % 4),
      maxTokens: 6,
      choices: ['true', 'false', 'There are two.'],
    }));
  });
  after(async () => {
    await model.close();
    await rm(dir, { recursive: true, force: true });
  });

  it('fits the form of a model that the evaluation knows', () => {
    const fits: EvalModel = model;
    assert.ok(fits.comparesChoices && fits.atOnce > 1);
  });

  it('gives a question the same bits in any company', async () => {
    const together = await Promise.all(prompts.map((prompt) => model.answer(prompt, none)));
    const inPairs = [];
    for (let i = 0; i < prompts.length; i += 2)
      inPairs.push(
        ...(
          await Promise.all(
            prompts
              .slice(i, i + 2)
              .reverse()
              .map((p) => model.answer(p, none)),
          )
        ).reverse(),
      );
    assert.deepEqual(inPairs, together);
    // On this thread, alone, as a run that goes on from the middle asks it.
    const scorer = await ChoiceScorer.create(dir, null, 1);
    const { parts, images, choices = [] } = prompts[7]!;
    const pictures = images.map((image) => ({
      key: image.sha256,
      picture: async () => preprocessImage(await image.bytes(), scorer.front.recipe),
    }));
    assert.deepEqual((await scorer.score([{ parts, images: pictures, choices }]))[0], together[7]?.logprobs);
    await scorer.close();
    assert.equal(new Set(together.map(({ logprobs }) => logprobs!.join())).size, prompts.length);
    for (const { text, logprobs, finishReason } of together) {
      assert.equal(finishReason, 'choice');
      assert.equal(text, prompts[0]!.choices![logprobs!.indexOf(Math.max(...logprobs!))]);
    }
  });

  it('fails a question alone where it does not fit, or its picture cannot be read', async () => {
    const long = { ...prompts[0]!, parts: ['word '.repeat(600)] };
    const broken = {
      ...prompts[1]!,
      images: [{ sha256: 'none', bytes: async () => new TextEncoder().encode('no picture') }],
    };
    const [a, b, c] = await Promise.allSettled([long, broken, prompts[3]!].map((prompt) => model.answer(prompt, none)));
    assert.match(String(a?.status === 'rejected' && a.reason), /tokens, the model's context is 512/);
    assert.match(String(b?.status === 'rejected' && b.reason), /expected a JPEG/);
    assert.equal(c?.status, 'fulfilled');
  });

  it('writes where nothing is to be compared, no more than is allowed or fits', async () => {
    const { choices: _, ...free } = prompts[2]!;
    const [one, again, most] = await Promise.all([
      model.answer(free, none),
      model.answer(free, none),
      model.answer({ ...free, maxTokens: 100_000, parts: [...free.parts, 'word '.repeat(60)] }, none),
    ]);
    assert.deepEqual(one.text, again.text);
    assert.ok(one.usage!.completionTokens <= 6 && one.usage!.promptTokens > 10);
    assert.ok(most.usage!.completionTokens <= 64);
    assert.ok(['stop', 'length'].includes(most.finishReason));
  });

  it('answers nothing to who has left', async () => {
    const leave = new AbortController();
    const asked = model.answer(prompts[5]!, leave.signal);
    leave.abort(new Error('enough'));
    await assert.rejects(asked, /enough/);
  });

  it('is another one with another word in its files', async () => {
    await writeFile(join(dir, 'generation_config.json'), JSON.stringify({ max_new_tokens: 63 }));
    assert.notEqual((await EngineEvalModel.open({ dir })).identity, model.identity);
    assert.notEqual(
      (await EngineEvalModel.open({ dir, compile: { kv: 'int8' } })).identity,
      (await EngineEvalModel.open({ dir })).identity,
    );
  });
});
