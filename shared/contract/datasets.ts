import * as z from 'zod/mini';
import { ContentPart } from './chat.ts';
import { LIMITS } from './limits.ts';
import { MantisOptions } from './training.ts';

const D = LIMITS.dataset;

/** A turn of a training example; the parts are those of a chat request. */
export const DatasetMessage = z.strictObject({
  role: z.enum(['system', 'user', 'assistant']),
  content: z.union([
    z.string().check(z.maxLength(LIMITS.request.maxTextChars)),
    z.array(ContentPart).check(z.minLength(1), z.maxLength(LIMITS.request.maxPartsPerMessage)),
  ]),
  name: z.optional(z.string()),
  /** 0: an assistant turn that is read and not learned from. */
  weight: z.optional(z.union([z.literal(0), z.literal(1)])),
});
export type DatasetMessage = z.infer<typeof DatasetMessage>;

/** One line of a training file (JSON Lines): a conversation whose assistant turns are learned. Pictures are in user turns only. */
export const DatasetLine = z.strictObject({
  messages: z.array(DatasetMessage).check(z.minLength(1), z.maxLength(LIMITS.request.maxMessages)),
  /** Ours, read in held-out files: examples of one group depend on each other, and intervals say so. Default: those that share their first pictures. */
  group: z.optional(z.string().check(z.minLength(1), z.maxLength(D.maxGroupChars))),
});
export type DatasetLine = z.infer<typeof DatasetLine>;

/** How records are written; containers (JSON Lines, a JSON array, Parquet) are told apart by their bytes. */
export const DatasetFormat = z.enum(['openai', 'mantis', 'llava', 'sharegpt']);
export type DatasetFormat = z.infer<typeof DatasetFormat>;

/** Mantis's four multi-image skills; what a record says, or its subset. */
export const Skill = z.enum(['co-reference', 'comparison', 'reasoning', 'temporal']);
export type Skill = z.infer<typeof Skill>;

/** One file of a dataset and what is taken of it: a row of Mantis's mixture configuration. */
export const Subset = z.strictObject({
  file_id: z.string().check(z.minLength(1)),
  name: z.optional(z.string().check(z.minLength(1), z.maxLength(64))),
  /** Default: found out. */
  format: z.optional(DatasetFormat),
  /** Most examples taken of it, after shuffling. */
  max_size: z.optional(z.int().check(z.minimum(1))),
  /** Examples with more pictures are left out. */
  max_num_images: z.optional(z.int().check(z.minimum(0))),
  /** Whether it is shuffled before `max_size` cuts it. Default true. */
  shuffle: z.optional(z.boolean()),
  /** Seed of that. Default 42. */
  seed: z.optional(z.int().check(z.minimum(0))),
  /** Records without any placeholder have their pictures put before the first user turn (NExT-QA, STAR, …). Default false: they are errors. */
  images_first: z.optional(z.boolean()),
  skill: z.optional(Skill),
});
export type Subset = z.infer<typeof Subset>;

const Name = z.string().check(z.minLength(1), z.maxLength(128));

/** `POST /v1/datasets`. A dataset is a list of files that jobs and schedules name by its id; it grows by `POST /v1/datasets/{id}/files`. */
export const CreateDatasetRequest = z.strictObject({
  name: Name,
  subsets: z.optional(z.array(Subset).check(z.maxLength(D.maxSubsets))),
  /** Mantis's balancing: subset i gets a share of the total in proportion to √nᵢ, repeating or leaving out examples. Default false. */
  balancing: z.optional(z.boolean()),
  metadata: z.optional(z.nullable(z.record(z.string(), z.string()))),
});
export type CreateDatasetRequest = z.infer<typeof CreateDatasetRequest>;

/** `POST /v1/datasets/{id}`: what is given replaces what was. */
export const UpdateDatasetRequest = z.strictObject({
  name: z.optional(Name),
  subsets: z.optional(z.array(Subset).check(z.maxLength(D.maxSubsets))),
  balancing: z.optional(z.boolean()),
  metadata: z.optional(z.nullable(z.record(z.string(), z.string()))),
});
export type UpdateDatasetRequest = z.infer<typeof UpdateDatasetRequest>;

export const Dataset = z.object({
  id: z.string(),
  object: z.literal('dataset'),
  name: z.string(),
  created_at: z.int(),
  updated_at: z.int(),
  /** Rises with every change of files or mixture. */
  version: z.int(),
  /** SHA-256 over the files' digests and the mixture, hex: equal means that training sees the same. */
  digest: z.string(),
  subsets: z.array(Subset),
  balancing: z.boolean(),
  bytes: z.int(),
  /** Examples that were counted when its files were last validated; null before. */
  examples: z.nullable(z.int()),
  metadata: z.nullable(z.record(z.string(), z.string())),
});
export type Dataset = z.infer<typeof Dataset>;

/** Which data: index into the job's list of training data, or by name. `held_out`: what checkpoints or a gate are asked. */
export const DataName = z.union([z.int(), z.enum(['validation', 'held_out'])]);
export type DataName = z.infer<typeof DataName>;

/** Something that is wrong, or odd, with an example. `error`: the example cannot be trained on; `warning`: it can. */
export const DatasetProblem = z.object({
  severity: z.enum(['error', 'warning']),
  /** From the table of errors where it is one of a request too (`invalid_image_format`), else a name of its own (`near_duplicate`). */
  code: z.string(),
  message: z.string(),
  data: DataName,
  /** Name of the subset, where there are several. */
  subset: z.nullable(z.string()),
  /** Line of the file, or record of a JSON array or Parquet file, from 1; null: about the whole. */
  line: z.nullable(z.int()),
  /** Indices into `messages` and its parts; null where it is not about one. */
  message_index: z.nullable(z.int()),
  part_index: z.nullable(z.int()),
  /** Path of the field, as in requests. */
  param: z.nullable(z.string()),
});
export type DatasetProblem = z.infer<typeof DatasetProblem>;

const Spread = z.object({ total: z.int(), min: z.int(), median: z.int(), p95: z.int(), max: z.int() });
const Histogram = z.record(z.string(), z.int());

/** What validation found in one list of examples. */
export const DataSummary = z.object({
  examples: z.int(),
  usable: z.int(),
  bad: z.int(),
  /** Usable examples that a mixture's limits left out. */
  not_taken: z.int(),
  /** Decoder positions of an example, pictures included. */
  tokens: Spread,
  /** Of these, positions that are learned. */
  supervised_tokens: z.int(),
  image_tokens: z.int(),
  /** Pictures referred to, and different ones among them by their pixels. */
  images: z.int(),
  unique_images: z.int(),
  /** Examples by their number of pictures, of turns, by skill and by subset. */
  images_per_example: Histogram,
  turns_per_example: Histogram,
  skills: Histogram,
  subsets: Histogram,
});
export type DataSummary = z.infer<typeof DataSummary>;

/** What the training would take, measured and computed on the backend that validated. */
export const TrainingEstimate = z.object({
  steps: z.int(),
  /** Decoder positions over all stages and epochs. */
  tokens: z.int(),
  /** Peak memory of the trainer, bytes. */
  memory_bytes: z.int(),
  seconds: z.number(),
  tokens_per_second: z.number(),
  stages: z.array(
    z.object({
      train: z.string(),
      steps: z.int(),
      tokens: z.int(),
      trained_parameters: z.int(),
      memory_bytes: z.int(),
      seconds: z.number(),
    }),
  ),
  backend: z.string(),
});
export type TrainingEstimate = z.infer<typeof TrainingEstimate>;

export const DatasetReport = z.object({
  object: z.literal('dataset.report'),
  verdict: z.enum(['accepted', 'refused']),
  /** Share of bad examples, and the largest that is accepted. */
  bad_share: z.number(),
  max_bad_share: z.number(),
  training: z.array(DataSummary),
  validation: z.nullable(DataSummary),
  /** The held-out data that checkpoints are asked, and then a gate's where that is another; absent where there is none. */
  held_out: z.optional(z.array(DataSummary)),
  /** All are counted; the first so many are listed. The file of all is `problems_file`. */
  problem_counts: Histogram,
  problems: z.array(DatasetProblem),
  problems_file: z.nullable(z.string()),
  /** Lines that are left out, by data, ascending, at most so many. */
  left_out: z.array(z.object({ data: DataName, lines: z.array(z.int()), total: z.int() })),
  duplicates: z.object({ exact: z.int(), near: z.int() }),
  /** Pictures and examples of the validation data that are in the training data too. */
  leakage: z.object({
    images: z.int(),
    examples: z.int(),
    /** Likewise of the held-out data: what a model has been trained on says little about it. */
    held_out_images: z.optional(z.int()),
    held_out_examples: z.optional(z.int()),
  }),
  estimate: z.nullable(TrainingEstimate),
});
export type DatasetReport = z.infer<typeof DatasetReport>;

/** `POST /v1/dataset_validations`: a dry run of a job. */
export const CreateDatasetValidationRequest = z.strictObject({
  model: z.string().check(z.minLength(1)),
  /** File or dataset. */
  training_file: z.string().check(z.minLength(1)),
  validation_file: z.optional(z.nullable(z.string().check(z.minLength(1)))),
  /** As in a job: decides context, stages and the estimate. */
  mantis: z.optional(MantisOptions),
  hyperparameters: z.optional(z.strictObject({ n_epochs: z.optional(z.int()), batch_size: z.optional(z.int()) })),
});
export type CreateDatasetValidationRequest = z.infer<typeof CreateDatasetValidationRequest>;

/** How far a validation is: bytes of the files read, examples compared, stages measured. */
export const ValidationProgress = z.object({
  phase: z.enum(['reading', 'comparing', 'estimating']),
  done: z.int(),
  total: z.int(),
  problems: z.int(),
});
export type ValidationProgress = z.infer<typeof ValidationProgress>;

export const DatasetValidation = z.object({
  id: z.string(),
  object: z.literal('dataset.validation'),
  created_at: z.int(),
  finished_at: z.nullable(z.int()),
  status: z.enum(['queued', 'running', 'succeeded', 'failed', 'cancelled']),
  model: z.string(),
  training_file: z.string(),
  validation_file: z.nullable(z.string()),
  /** The job it was made for, or null. */
  fine_tuning_job: z.nullable(z.string()),
  /** Last heard of; null before. */
  progress: z.nullable(ValidationProgress),
  report: z.nullable(DatasetReport),
  error: z.nullable(z.object({ code: z.string(), message: z.string(), param: z.nullable(z.string()) })),
});
export type DatasetValidation = z.infer<typeof DatasetValidation>;
