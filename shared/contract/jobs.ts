import * as z from 'zod/mini';
import { LIMITS } from './limits.ts';
import { MantisOptions } from './training.ts';

const J = LIMITS.jobs;

/** OpenAI's six, and `pausing` (the worker saves a checkpoint), `paused`. */
export const JobStatus = z.enum([
  'validating_files',
  'queued',
  'running',
  'pausing',
  'paused',
  'succeeded',
  'failed',
  'cancelled',
]);
export type JobStatus = z.infer<typeof JobStatus>;

const auto = z.literal('auto');
/** What a client may ask for; `auto` and absent are resolved at creation and shown resolved in the job. */
export const HyperparametersRequest = z.strictObject({
  n_epochs: z.optional(z.union([auto, z.int().check(z.minimum(1), z.maximum(J.maxEpochs))])),
  batch_size: z.optional(z.union([auto, z.int().check(z.minimum(1), z.maximum(J.maxBatchSize))])),
  learning_rate_multiplier: z.optional(z.union([auto, z.number().check(z.gt(0), z.maximum(1000))])),
});

/** As decided; `batch_size` is `auto` until validation has counted the examples. */
export const Hyperparameters = z.object({
  n_epochs: z.int(),
  batch_size: z.union([z.int(), auto]),
  learning_rate_multiplier: z.number(),
});
export type Hyperparameters = z.infer<typeof Hyperparameters>;

export const MethodRequest = z.strictObject({
  type: z.literal('supervised'),
  supervised: z.optional(
    z.strictObject({ hyperparameters: z.optional(HyperparametersRequest), mantis: z.optional(MantisOptions) }),
  ),
});

const Metadata = z.record(z.string().check(z.maxLength(64)), z.string().check(z.maxLength(512)));

/** `POST /v1/fine_tuning/jobs`. */
export const CreateJobRequest = z.strictObject({
  model: z.string().check(z.minLength(1)),
  training_file: z.string().check(z.minLength(1)),
  validation_file: z.optional(z.nullable(z.string().check(z.minLength(1)))),
  suffix: z.optional(
    z.nullable(
      z
        .string()
        .check(
          z.minLength(1),
          z.maxLength(J.maxSuffixChars),
          z.regex(/^[A-Za-z0-9_-]+$/, 'letters, digits, "-" or "_"'),
        ),
    ),
  ),
  seed: z.optional(z.nullable(z.int().check(z.minimum(0), z.maximum(2_147_483_647)))),
  hyperparameters: z.optional(HyperparametersRequest),
  method: z.optional(z.nullable(MethodRequest)),
  metadata: z.optional(z.nullable(Metadata)),
  integrations: z.optional(z.nullable(z.array(z.never()))),
});
export type CreateJobRequest = z.infer<typeof CreateJobRequest>;

export const JobError = z.object({ code: z.string(), message: z.string(), param: z.nullable(z.string()) });
export type JobError = z.infer<typeof JobError>;

export const FineTuningJob = z.object({
  id: z.string(),
  object: z.literal('fine_tuning.job'),
  created_at: z.int(),
  finished_at: z.nullable(z.int()),
  model: z.string(),
  fine_tuned_model: z.nullable(z.string()),
  organization_id: z.string(),
  status: JobStatus,
  hyperparameters: Hyperparameters,
  method: z.object({
    type: z.literal('supervised'),
    supervised: z.object({ hyperparameters: Hyperparameters, mantis: MantisOptions }),
  }),
  training_file: z.string(),
  validation_file: z.nullable(z.string()),
  result_files: z.array(z.string()),
  trained_tokens: z.nullable(z.int()),
  seed: z.int(),
  error: z.nullable(JobError),
  estimated_finish: z.nullable(z.int()),
  integrations: z.array(z.never()),
  metadata: z.nullable(Metadata),
  user_provided_suffix: z.nullable(z.string()),
  /** Id of the dataset validation whose report says what the job trains on; null before there is one. */
  validation: z.nullable(z.string()),
  /** The schedule that made it, or null. */
  schedule: z.nullable(z.string()),
});
export type FineTuningJob = z.infer<typeof FineTuningJob>;

export const JobEvent = z.object({
  id: z.string(),
  object: z.literal('fine_tuning.job.event'),
  created_at: z.int(),
  level: z.enum(['info', 'warn', 'error']),
  message: z.string(),
  type: z.enum(['message', 'metrics']),
  data: z.nullable(z.record(z.string(), z.unknown())),
});
export type JobEvent = z.infer<typeof JobEvent>;

/** What a checkpoint answered right of the held-out questions, and beside the model that the job started from. Shares 0…1. */
export const EvaluationMetrics = z.object({
  eval_accuracy: z.number(),
  /** Of the accuracy, with questions of one group taken as dependent. */
  eval_interval: z.tuple([z.number(), z.number()]),
  eval_confidence: z.number(),
  /** Questions, and groups of them that share pictures or their beginning, or say the same `group`. */
  eval_examples: z.int(),
  eval_groups: z.int(),
  /** Of the model that the job started from, the difference to it, and the difference's interval and p-value, paired by question. */
  eval_base_accuracy: z.number(),
  eval_difference: z.number(),
  eval_difference_interval: z.tuple([z.number(), z.number()]),
  eval_p_value: z.number(),
  /** The smallest difference to the base that so many questions show four times of five; null where it cannot be said. */
  eval_detectable_difference: z.nullable(z.number()),
  /** Share of questions that were answered alike in all orders of their pictures; where several were asked. */
  eval_order_consistency: z.optional(z.number()),
  /** Without pictures, where that was asked. */
  eval_text_only_accuracy: z.optional(z.number()),
  eval_text_only_interval: z.optional(z.tuple([z.number(), z.number()])),
});
export type EvaluationMetrics = z.infer<typeof EvaluationMetrics>;

export const CheckpointMetrics = z.object({
  step: z.int(),
  train_loss: z.optional(z.number()),
  train_mean_token_accuracy: z.optional(z.number()),
  valid_loss: z.optional(z.number()),
  valid_mean_token_accuracy: z.optional(z.number()),
  full_valid_loss: z.optional(z.number()),
  full_valid_mean_token_accuracy: z.optional(z.number()),
  /** Ours: of a checkpoint that was evaluated by its answers. */
  ...z.partial(EvaluationMetrics).shape,
  /** With `keep_best`, of the one that became the model: it had the highest accuracy of so many, on the same questions, which makes that number optimistic. */
  eval_best_of: z.optional(z.int()),
});
export type CheckpointMetrics = z.infer<typeof CheckpointMetrics>;

export const JobCheckpoint = z.object({
  id: z.string(),
  object: z.literal('fine_tuning.job.checkpoint'),
  created_at: z.int(),
  fine_tuning_job_id: z.string(),
  fine_tuned_model_checkpoint: z.string(),
  step_number: z.int(),
  metrics: CheckpointMetrics,
  /** File of its evaluation: a line a question, with the answer and whether it was right. Null before, and where there is none. */
  evaluation_file: z.nullable(z.string()),
});
export type JobCheckpoint = z.infer<typeof JobCheckpoint>;
