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
 *
 * `mantis-small` is ours: the same stages, decay, schedule and frozen tower, with batches and epochs for some hundred conversations (the 100 examples of
 * the Mantis authors are 13 steps an epoch), packed rows, and learning rates by the decoder's width, where 1e-5 would hardly move a small one.
 */
export const RECIPES: Readonly<Record<NonNullable<MantisOptions['preset']>, Recipe>> = {
  mantis: {
    stages: [
      { train: 'projector', n_epochs: 1, batch_size: 256, learning_rate: 1e-3, ...published },
      { train: 'full', n_epochs: 1, batch_size: 128, learning_rate: 1e-5, part_rates: { vision: 0 }, ...published },
    ],
  },
  'mantis-small': {
    stages: [
      { train: 'projector', n_epochs: 1, batch_size: 8, packing: true, ...published },
      { train: 'full', n_epochs: 10, batch_size: 8, part_rates: { vision: 0 }, packing: true, ...published },
    ],
  },
};
