/** A run of an evaluation on the inner wire: what a backend is given, and what it says of each line. Not public: names are camelCase. */
import * as z from 'zod/mini';
import { BenchmarkRunSource } from './evalBenchmarks.ts';
import { EvalItemStatus, EvalResult, EvalSample, EvalSampling, Grader, InputMessages } from './evals.ts';
import { LIMITS } from './limits.ts';
import { UsageImage } from './usage.ts';

const Bytes = z.object({ id: z.string(), bytes: z.int(), sha256: z.string() });

/** Lines of `{item, sample}`, JSON Lines, from `GET /internal/tasks/{id}/lines`. */
export const EvalLines = z.object({
  /** An uploaded file, or the run itself where the lines came with its creation. */
  file: Bytes,
  schema: z.record(z.string(), z.unknown()),
  /** Answers are given and judged as they are. */
  hasSample: z.boolean(),
  /** Each line must have one. */
  needsSample: z.optional(z.boolean()),
});
export type EvalLines = z.infer<typeof EvalLines>;

export const EvaluateTask = z.object({
  kind: z.literal('evaluate'),
  /** A backend that takes the task serves all of `bases`; `baseModel` is the first of them. */
  baseModel: z.string(),
  bases: z.array(z.string()).check(z.minLength(1)),
  evalId: z.string(),
  evalName: z.string(),
  runName: z.string(),
  /** Of the run, Unix seconds, and what it was given along: for its report. Absent from edges of earlier versions. */
  createdAt: z.optional(z.int()),
  metadata: z.optional(z.record(z.string(), z.string())),
  /** Asked for the answers; null where they are given. */
  model: z.nullable(z.string()),
  source: z.discriminatedUnion('type', [
    z.object({
      type: z.literal('lines'),
      lines: EvalLines,
      prompt: z.nullable(InputMessages),
      sampling: EvalSampling,
    }),
    z.object({
      type: z.literal('benchmark'),
      benchmark: z.string(),
      files: z.array(z.extend(Bytes, { filename: z.string() })),
      options: BenchmarkRunSource,
    }),
  ]),
  /** `model` of judges is the name that was resolved; reports keep the one that was written. */
  criteria: z.array(Grader),
  /** Aliases and the models they stood for when the run was made. */
  models: z.record(z.string(), z.string()),
});
export type EvaluateTask = z.infer<typeof EvaluateTask>;

const ItemUsage = z.object({
  model: z.string(),
  promptTokens: z.int(),
  completionTokens: z.int(),
  cachedTokens: z.int(),
  imageTokens: z.int(),
  /** Of the pictures, in reading order. Absent from backends of earlier versions. */
  images: z.optional(z.array(UsageImage)),
  durationMs: z.optional(z.int()),
});
export type EvalItemUsage = z.infer<typeof ItemUsage>;

export const EvalItemReport = z.object({
  line: z.int().check(z.nonnegative()),
  status: EvalItemStatus,
  datasourceItem: z.record(z.string(), z.unknown()),
  results: z.array(EvalResult),
  sample: EvalSample,
  /** False: asked beside the questions of the run, as a control is; it counts in its own criterion alone. Default true. */
  isCounted: z.optional(z.boolean()),
  /** One entry an answer: the model's own, then those of judges. */
  usage: z.array(ItemUsage),
});
export type EvalItemReport = z.infer<typeof EvalItemReport>;

/** `POST /internal/tasks/{id}/items`. `total`: lines of the data, once they are counted. A line that is there already counts once. */
export const EvalItemsRequest = z.object({
  token: z.int(),
  total: z.nullable(z.int()),
  items: z.array(EvalItemReport).check(z.maxLength(LIMITS.evals.maxResultsPerCall)),
});
export type EvalItemsRequest = z.infer<typeof EvalItemsRequest>;

/** `GET /internal/tasks/{id}/items`: lines that are written, as ranges, both ends included. */
export const EvalDone = z.object({ done: z.array(z.tuple([z.int(), z.int()])) });

/** `GET /internal/tasks/{id}/items?after=n`: a page of what is written, for the report. */
export const EvalItemsPage = z.object({
  items: z.array(
    z.object({
      line: z.int(),
      status: EvalItemStatus,
      datasourceItem: z.record(z.string(), z.unknown()),
      results: z.array(EvalResult),
      sample: EvalSample,
    }),
  ),
});
export type EvalItemsPage = z.infer<typeof EvalItemsPage>;

const Staged = z.object({ key: z.string(), bytes: z.int(), sha256: z.string() });

export const EvaluateResult = z.object({
  /** Staged by `PUT /internal/tasks/{id}/problems`. */
  reportJson: z.nullable(Staged),
  reportHtml: z.nullable(Staged),
});
export type EvaluateResult = z.infer<typeof EvaluateResult>;

/** `POST /internal/tasks/{id}/report`: of a run that was cancelled while this lease was on it. */
export const EvalReportRequest = z.object({ token: z.int(), result: EvaluateResult });
export type EvalReportRequest = z.infer<typeof EvalReportRequest>;
