/** How a fine-tuning job trains: its stages, and what each of them moves and how. Lives under `method.supervised.mantis`. */
import * as z from 'zod/mini';
import { LIMITS } from './limits.ts';
import { TrainStage } from './models.ts';

const J = LIMITS.jobs;

/** Parts of a model that may have a rate of their own. `decoder` is its layers, `adapters` what is laid over them. */
export const ModelPart = z.enum(['vision', 'projector', 'embeddings', 'decoder', 'head', 'adapters']);
export type ModelPart = z.infer<typeof ModelPart>;

export const LoraOptions = z.strictObject({
  r: z.int().check(z.minimum(1), z.maximum(256)),
  alpha: z.number().check(z.gt(0)),
  dora: z.optional(
    z
      .boolean()
      .check(
        z.describe(
          'Weight-decomposed adapters (DoRA): each row of an adapted weight also learns its length. Slower to train. Default false.',
        ),
      ),
  ),
});
export type LoraOptions = z.infer<typeof LoraOptions>;

/** How the weights that do not move are held while adapters or a projector train (QLoRA's idea). */
export const BasePrecision = z.enum(['f32', 'f16', 'int8', 'int4']);
export type BasePrecision = z.infer<typeof BasePrecision>;

export const LearningRateSchedule = z.strictObject({
  kind: z.enum(['cosine', 'linear', 'constant']),
  /** Share of the stage's steps over which the rate rises from zero. Default 0.05. */
  warmup_ratio: z.optional(z.number().check(z.minimum(0), z.maximum(1))),
  /** Share of the peak that is left at the end; read by cosine and linear. Default 0.02. */
  floor_ratio: z.optional(z.number().check(z.minimum(0), z.maximum(1))),
});

/**
 * Several examples in one row of a micro-batch, none of which sees another (block-diagonal masks, positions from zero). Rows are filled until either
 * budget is used up; an example is never cut.
 */
export const PackingOptions = z.strictObject({
  /** Decoder positions of a row. Default: the micro-batch's. */
  max_tokens: z.optional(z.int().check(z.minimum(1))),
  /** Pictures of a row. Default 64. */
  max_images: z.optional(z.int().check(z.minimum(1))),
});

/** Ends a stage when the validation loss no longer falls. Needs a validation file. */
export const EarlyStopping = z.strictObject({
  /** Measurements (one a checkpoint) without a new best after which the stage ends. */
  patience: z.int().check(z.minimum(1), z.maximum(100)),
  /** What counts as better, nats a token. Default 0. */
  min_delta: z.optional(z.number().check(z.minimum(0))),
});

/**
 * Held-out questions that checkpoints of the job are asked: the last assistant turn of an example is the answer that counts, as in a schedule's gate. The
 * backend's engine asks, behind everything that somebody waits for, while the training waits; nothing of it changes what is trained.
 */
export const EvaluationOptions = z.strictObject({
  /** File or dataset. It is read before the training: a line with an error refuses the job. */
  held_out_file: z.string().check(z.minLength(1)),
  /** Which checkpoints. `epoch`: one is made at the end of each epoch, and those are asked. Default `checkpoint`: all. */
  every: z.optional(z.enum(['checkpoint', 'epoch', 'end'])),
  /** The first so many examples are asked. Default: all, up to the limit. */
  max_examples: z.optional(z.int().check(z.minimum(1), z.maximum(J.maxEvaluationExamples))),
  /** Answers to choose from: the most likely of them counts as the answer. Default: the answer is generated, greedily. */
  options: z.optional(
    z.array(z.string().check(z.minLength(1))).check(z.minLength(2), z.maxLength(LIMITS.request.maxOptions)),
  ),
  /** Orders of its pictures in which each question is asked, the given one first; for questions whose answer does not depend on it. Default 1. */
  image_orders: z.optional(z.int().check(z.minimum(1), z.maximum(J.maxImageOrders))),
  /** Asks every question without its pictures too, to show what the answers rest on. Default false. */
  text_only: z.optional(z.boolean()),
  /** Of the intervals. Default 0.95. */
  confidence: z.optional(z.number().check(z.minimum(0.5), z.maximum(0.999))),
  /** The checkpoint with the highest accuracy becomes the job's model, the earliest of equals. Default false: the last one. */
  keep_best: z.optional(z.boolean()),
  /** Ends the job after so many evaluations without a new best. */
  early_stop: z.optional(
    z.strictObject({
      patience: z.int().check(z.minimum(1), z.maximum(100)),
      /** By how much an accuracy must be higher to be a new best, 0…1. Default 0. */
      min_delta: z.optional(z.number().check(z.minimum(0), z.maximum(1))),
    }),
  ),
});
export type EvaluationOptions = z.infer<typeof EvaluationOptions>;

/** Settings of a stage; all optional. At the top of `mantis` they are the defaults of every stage. */
const stageSettings = {
  /** Rank and alpha of the adapters, read with `lora` only. Default r 16, alpha 32. */
  lora: z.optional(LoraOptions),
  base_precision: z.optional(BasePrecision),
  /** Peak, before the multiplier. Default: by what is trained and the decoder's width. */
  learning_rate: z.optional(z.number().check(z.gt(0), z.maximum(1))),
  /** Factors on the rate by part; 0 freezes the part. Default of `lora` after a `projector` stage: the projector learns on beside the adapters. */
  part_rates: z.optional(z.partialRecord(ModelPart, z.number().check(z.minimum(0), z.maximum(1000)))),
  schedule: z.optional(LearningRateSchedule),
  weight_decay: z.optional(z.number().check(z.minimum(0), z.maximum(10))),
  /** Largest global norm of a gradient; longer ones are scaled down to it. Default 1. */
  max_grad_norm: z.optional(z.number().check(z.gt(0))),
  packing: z.optional(z.union([z.boolean(), PackingOptions])),
  /** Examples of more decoder positions are left out and said so; never cut. Default: the model's context. */
  max_tokens: z.optional(z.int().check(z.minimum(1))),
  /** Decoder positions, padding included, that one forward and backward pass takes; a step's gradients are accumulated over as many passes as it needs. */
  micro_batch_tokens: z.optional(z.int().check(z.minimum(1))),
  /** Activations are recomputed layer by layer instead of kept. Default: where the decoder is wide. */
  gradient_checkpointing: z.optional(z.boolean()),
  early_stopping: z.optional(EarlyStopping),
};

/** One stage of a job. What it does not say, the job says. */
export const StageRequest = z.strictObject({
  /** Which weights move. */
  train: TrainStage,
  /** File or dataset of this stage. Default: the job's. */
  training_file: z.optional(z.string().check(z.minLength(1))),
  n_epochs: z.optional(z.int().check(z.minimum(1), z.maximum(J.maxEpochs))),
  batch_size: z.optional(z.int().check(z.minimum(1), z.maximum(J.maxBatchSize))),
  learning_rate_multiplier: z.optional(z.number().check(z.gt(0), z.maximum(1000))),
  ...stageSettings,
});
export type StageRequest = z.infer<typeof StageRequest>;

/** What only this product knows. One stage by `stage`, several by `stages`, Mantis's published recipe by `preset`. */
export const MantisOptions = z.strictObject({
  /**
   * `mantis`: the paper's two stages, projector alignment and then instruction tuning. `mantis-small`: the same in a size for small decoders on a processor
   * and some hundred conversations. Settings beside it win; `stage` and `stages` cannot stand beside it.
   */
  preset: z.optional(z.enum(['mantis', 'mantis-small'])),
  /** The single stage of a job without `stages`. Default `lora`. */
  stage: z.optional(TrainStage),
  stages: z.optional(z.array(StageRequest).check(z.minLength(1), z.maxLength(J.maxStages))),
  ...stageSettings,
  /** Optimizer steps between checkpoints. Default: ten checkpoints a job. */
  checkpoint_every: z.optional(z.int().check(z.minimum(1))),
  /** Newest checkpoints that are kept, the last of the job among them. Default: all. */
  checkpoints_kept: z.optional(z.int().check(z.minimum(1), z.maximum(1000))),
  /** Largest share of lines with errors; beyond it the job fails, up to it exactly the good lines are trained on. Default 0.1. */
  max_bad_share: z.optional(z.number().check(z.minimum(0), z.maximum(1))),
  /** The job fails (`time_limit`) when it has run for so many seconds; its checkpoints stay. Default: no limit. */
  max_duration_s: z.optional(z.int().check(z.minimum(1))),
  evaluation: z.optional(EvaluationOptions),
});
export type MantisOptions = z.infer<typeof MantisOptions>;

/** A stage with everything decided that does not depend on the backend. */
export const Stage = z.object({
  ...stageSettings,
  train: TrainStage,
  n_epochs: z.int(),
  batch_size: z.int(),
  learning_rate_multiplier: z.number(),
  /** Index into the job's list of training data. */
  data: z.int(),
});
export type Stage = z.infer<typeof Stage>;

/** A stage before validation has counted the examples: `batch_size` null is `autoBatchSize` of their number. */
export const StageDraft = z.extend(Stage, { batch_size: z.nullable(z.int()) });
export type StageDraft = z.infer<typeof StageDraft>;

/** Batches of at most 8 that give every epoch at least eight steps where there are examples for it. */
export function autoBatchSize(examples: number): number {
  return Math.min(8, Math.max(1, Math.floor(examples / 8)));
}

/** @param examples usable ones of each list of training data */
export function decideStages(stages: readonly StageDraft[], examples: readonly number[]): Stage[] {
  return stages.map((stage) => ({
    ...stage,
    batch_size: stage.batch_size ?? autoBatchSize(examples[stage.data] ?? 0),
  }));
}
