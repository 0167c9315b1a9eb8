/** Published recipes, as data: what `preset` means. */
import type { MantisOptions, StageRequest } from './training.ts';

export type Recipe = { readonly stages: readonly StageRequest[] };

const published = {
  schedule: { kind: 'cosine', warmup_ratio: 0.03, floor_ratio: 0 },
  weight_decay: 0,
  max_grad_norm: 1,
} as const;

/**
 * `mantis`: the two stages of Mantis-CLIP and Mantis-SigLIP. Source: TIGER-AI-Lab/Mantis, mantis/train/scripts/{pretrain_mllava,train_mllava}.sh: projector
 * alignment at 1e-3 with batches of 256, then projector and decoder at 1e-5 with batches of 128, vision tower frozen, one epoch each.
 */
export const RECIPES: Readonly<Record<NonNullable<MantisOptions['preset']>, Recipe>> = {
  mantis: {
    stages: [
      { train: 'projector', n_epochs: 1, batch_size: 256, learning_rate: 1e-3, ...published },
      { train: 'full', n_epochs: 1, batch_size: 128, learning_rate: 1e-5, part_rates: { vision: 0 }, ...published },
    ],
  },
};
