import type { VlmConfig } from '../../models/config.ts';
import { nanoConfig } from '../../models/presets.ts';
import type { Tokenizer } from '../../text/tokenizer.ts';
import { type ImageRecipe, nanoRecipe } from '../../vision/recipes.ts';
import type { LearningRateSchedule } from '../schedule.ts';
import { continuedCurriculum, nanoCurriculum } from './curriculum.ts';
import type { Phase } from './samples.ts';

/** Everything that decides what a nano run computes, beside its length and its seed. */
export interface NanoRecipe {
  /** Entries of the vocabulary. */
  readonly vocab: number;
  readonly patchSize: number;
  readonly imageSize: number;
  readonly visionHidden: number;
  readonly visionLayers: number;
  readonly visionHeads: number;
  readonly visionIntermediate: number;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly intermediate: number;
  /** Optimizer steps of stage 0, in which the vision tower alone learns to see (tower.ts); 0 leaves it out. */
  readonly towerSteps: number;
  /** Factor on the tower's learning rate beside the decoder's, so that an untrained decoder does not undo what stage 0 saw. */
  readonly towerRate: number;
  /** Conversations of one optimizer step. */
  readonly dialogues: number;
  /** Largest micro-batch, tokens with padding. */
  readonly microBatchTokens: number;
  /** What updates the hidden matrices (muon.ts); all other tensors are AdamW's. */
  readonly optimizer: 'adamw' | 'muon';
  readonly schedule: LearningRateSchedule;
  readonly weightDecay: number;
  readonly beta2: number;
  readonly maxNorm: number;
  /** Chat template by name (text/templates.ts). */
  readonly template: string;
}

/** The recipe of a new run; that of the shipped weights stands in their run.json. */
export const NANO_RECIPE: NanoRecipe = {
  vocab: 640,
  patchSize: 20,
  imageSize: 100,
  visionHidden: 160,
  visionLayers: 4,
  visionHeads: 5,
  visionIntermediate: 448,
  hidden: 160,
  layers: 6,
  heads: 5,
  kvHeads: 5,
  intermediate: 448,
  towerSteps: 5000,
  towerRate: 0.1,
  dialogues: 32,
  microBatchTokens: 1500,
  optimizer: 'muon',
  schedule: { kind: 'trapezoid', peak: 1.5e-3, warmupShare: 0.01, floorShare: 0.01, decayShare: 0.6 },
  weightDecay: 0.05,
  beta2: 0.98,
  maxNorm: 1,
  template: 'compact',
};

/**
 * How pictures come in: as they are, with the boxes' grey background at exactly zero, so that an empty patch is a zero patch
 * (loss after 200 steps of captions 0.918 against 0.975 with the mean at 0.5).
 */
export function nanoImageRecipe(imageSize: number): ImageRecipe {
  const grey = BACKGROUND_GREY / 255;
  return { ...nanoRecipe(imageSize), mean: [grey, grey, grey] };
}

const BACKGROUND_GREY = 211;

/** Which kinds of dialogue come when, for a run of so many dialogues. @param continued from a trained model */
export function nanoPhases(dialogues: number, continued = false): Phase[] {
  return (continued ? continuedCurriculum : nanoCurriculum)(dialogues);
}

/** The recipe of a run that goes on from a trained model: Muon, a lower rate, and a tower that learns along. */
export const NANO_CONTINUED: NanoRecipe = {
  ...NANO_RECIPE,
  optimizer: 'muon',
  towerSteps: 0,
  towerRate: 0.3,
  schedule: { kind: 'trapezoid', peak: 1.2e-3, warmupShare: 0.02, floorShare: 0.01, decayShare: 0.5 },
};

export function nanoModelConfig(recipe: NanoRecipe, tokenizer: Tokenizer): VlmConfig {
  return nanoConfig({
    vocab: tokenizer.vocabSize,
    imageToken: tokenizer.requireId('<image>'),
    bosToken: tokenizer.requireId('<|begin_of_text|>'),
    eosTokens: [tokenizer.requireId('<|eot_id|>'), tokenizer.requireId('<|end_of_text|>')],
    padToken: tokenizer.requireId('<|pad|>'),
    imageSize: recipe.imageSize,
    patchSize: recipe.patchSize,
    visionHidden: recipe.visionHidden,
    visionLayers: recipe.visionLayers,
    visionHeads: recipe.visionHeads,
    visionIntermediate: recipe.visionIntermediate,
    hidden: recipe.hidden,
    layers: recipe.layers,
    heads: recipe.heads,
    kvHeads: recipe.kvHeads,
    intermediate: recipe.intermediate,
  });
}
