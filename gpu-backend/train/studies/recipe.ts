import type { VlmConfig } from '../../models/config.ts';
import type { Tokenizer } from '../../text/tokenizer.ts';
import { NANO_RECIPE, type NanoRecipe, nanoModelConfig } from '../nano/recipe.ts';
import type { LearningRateSchedule } from '../schedule.ts';

/** The model of a study and how it is trained; the same in all of its arms. */
export interface StudyRecipe {
  /** Nano's tower under a decoder small enough that an arm takes minutes. */
  readonly model: Pick<NanoRecipe, 'hidden' | 'layers' | 'heads' | 'kvHeads' | 'intermediate'>;
  /** Of each part of an arm, from its beginning. */
  readonly schedule: LearningRateSchedule;
  /** Factor on the rate of the vision tower, which has been trained before. */
  readonly towerRate: number;
  readonly optimizer: NanoRecipe['optimizer'];
  readonly weightDecay: number;
  readonly beta2: number;
  readonly maxNorm: number;
  /** Largest micro-batch, tokens with padding. */
  readonly microBatchTokens: number;
  /** Decides the weights that are random at the start. */
  readonly seed: number;
}

export const STUDY_RECIPE: StudyRecipe = {
  model: { hidden: 96, layers: 4, heads: 3, kvHeads: 3, intermediate: 256 },
  schedule: { kind: 'trapezoid', peak: 3e-3, warmupShare: 0.03, floorShare: 0.02, decayShare: 0.5 },
  towerRate: 0.3,
  optimizer: 'muon',
  weightDecay: 0.05,
  beta2: 0.98,
  maxNorm: 1,
  microBatchTokens: 2500,
  seed: 1,
};

/** @param tower the config whose vision tower is taken over */
export function studyConfig({ model }: StudyRecipe, tower: VlmConfig, tokenizer: Tokenizer): VlmConfig {
  if (tower.family !== 'llava')
    throw new Error(`expected a model of LLaVA type to take the vision tower of, got ${tower.family}`);
  const { vision } = tower;
  return nanoModelConfig(
    {
      ...NANO_RECIPE,
      ...model,
      imageSize: vision.imageSize,
      patchSize: vision.patchSize,
      visionHidden: vision.hidden,
      visionLayers: vision.layers,
      visionHeads: vision.heads,
      visionIntermediate: vision.intermediate,
    },
    tokenizer,
  );
}
