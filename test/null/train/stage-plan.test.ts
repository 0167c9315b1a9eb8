import assert from 'node:assert/strict';
import test from 'node:test';
import { expectedWeights } from '../../../gpu-backend/models/load.ts';
import { nanoConfig } from '../../../gpu-backend/models/presets.ts';
import { learningRateAt } from '../../../gpu-backend/train/schedule.ts';
import {
  defaultLearningRate,
  groupBlocksAt,
  planStage,
  type StagePlan,
} from '../../../gpu-backend/train/stage-plan.ts';
import { RECIPES } from '../../../shared/contract/recipes.ts';
import type { Stage } from '../../../shared/contract/training.ts';

const config = nanoConfig({
  vocab: 40,
  imageToken: 38,
  bosToken: 1,
  eosTokens: [2],
  padToken: 39,
  hidden: 32,
  heads: 4,
  kvHeads: 2,
});
const names = [...expectedWeights(config).keys()];
const plan = (stage: Partial<Stage> & Pick<Stage, 'train'>, model = config): StagePlan =>
  planStage(model, names, { n_epochs: 1, batch_size: 4, learning_rate_multiplier: 1, data: 0, ...stage }, 0, true);

test('what is not said has a default by what is trained and by the model', () => {
  const full = plan({ train: 'full' });
  assert.deepEqual(full.schedule, {
    kind: 'cosine',
    peak: defaultLearningRate('full', 32),
    warmupShare: 0.05,
    floorShare: 0.02,
  });
  assert.deepEqual([full.weightDecay, full.maxGradNorm, full.microBatchTokens, full.maxTokens], [0.01, 1, 1500, 2048]);
  assert.deepEqual(
    [full.packing, full.checkpointing, full.trainsVision, full.needsImages],
    [undefined, 'none', false, false],
  );
  assert.deepEqual([full.alsoTrain, full.freeze], [[], []]);
  const lora = plan({ train: 'lora' });
  assert.deepEqual([lora.lora?.r, lora.lora?.alpha, lora.weightDecay], [16, 32, 0]);
  assert.deepEqual(lora.alsoTrain, ['language_model.lm_head.weight'], 'the head of a small vocabulary');
  assert.equal(plan({ train: 'projector' }).needsImages, true);
});

test('rates by part are factors, and 0 takes the part out', () => {
  const { rateFactor, freeze, alsoTrain, trainsVision } = plan({
    train: 'full',
    part_rates: { vision: 0.1, projector: 2, embeddings: 0 },
  });
  assert.equal(rateFactor('multi_modal_projector.linear_1.weight'), 2);
  assert.equal(rateFactor('vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight'), 0.1);
  assert.equal(rateFactor('language_model.model.layers.0.mlp.up_proj.weight'), 1);
  assert.deepEqual(freeze, ['language_model.model.embed_tokens.weight']);
  assert.ok(trainsVision && alsoTrain.length > 0 && alsoTrain.every((name) => name.startsWith('vision_tower.')));
});

test('the schedule is what the stage says', () => {
  const { schedule } = plan({
    train: 'lora',
    learning_rate: 0.01,
    learning_rate_multiplier: 2,
    schedule: { kind: 'linear', warmup_ratio: 0.1, floor_ratio: 0.5 },
  });
  const rates = [0.05, 0.1, 0.55, 1].map((at) => learningRateAt(schedule, at));
  for (const [i, rate] of [0.01, 0.02, 0.015, 0.01].entries())
    assert.ok(Math.abs((rates[i] ?? 0) - rate) < 1e-9, `${rates}`);
  const constant = plan({
    train: 'lora',
    learning_rate: 0.01,
    schedule: { kind: 'constant', warmup_ratio: 0 },
  }).schedule;
  assert.deepEqual(
    [0, 0.5, 1].map((at) => learningRateAt(constant, at)),
    [0.01, 0.01, 0.01],
  );
});

test('packing has the budgets that are said, and those of the micro-batch and 64 pictures', () => {
  assert.deepEqual(plan({ train: 'full', packing: true }).packing, { tokens: Number.POSITIVE_INFINITY, images: 64 });
  assert.deepEqual(plan({ train: 'full', packing: { max_tokens: 800, max_images: 6 } }).packing, {
    tokens: 800,
    images: 6,
  });
  assert.equal(plan({ train: 'full', packing: false }).packing, undefined);
  for (const length of [1, 511, 512, 1024, 9000]) assert.equal(groupBlocksAt(length).length, 2);
});

test('every stage of every recipe is one that a model can do', () => {
  for (const { stages } of Object.values(RECIPES))
    for (const stage of stages) {
      const { schedule, weightDecay, trainsVision } = plan({
        n_epochs: 1,
        batch_size: 1,
        learning_rate_multiplier: 1,
        ...stage,
      } as Stage);
      assert.deepEqual([schedule.warmupShare, schedule.floorShare, weightDecay, trainsVision], [0.03, 0, 0, false]);
    }
  const [first, second] = RECIPES.mantis.stages;
  assert.deepEqual([first?.train, first?.learning_rate, first?.batch_size], ['projector', 1e-3, 256]);
  assert.deepEqual([second?.train, second?.learning_rate, second?.batch_size], ['full', 1e-5, 128]);
});
