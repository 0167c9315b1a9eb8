/** What a leased task comes to, by its kind: the `result` of `TaskFinishRequest`. */
import * as z from 'zod/mini';
import { LeftOut, StagedFile, StagedObject } from './backend.ts';
import { DatasetReport } from './datasets.ts';

export const ValidateResult = z.object({
  report: DatasetReport,
  leftOut: LeftOut,
  trainingExamples: z.array(z.int()),
  /** All problems, as JSON Lines, where there are more than the report lists: sent before, becomes a file with the result. */
  allProblems: z.nullable(StagedObject),
});
export type ValidateResult = z.infer<typeof ValidateResult>;

/** Counts of a paired comparison by exact answers. */
export const CompareResult = z.object({
  examples: z.int(),
  /** Groups of questions that depend on each other. */
  groups: z.optional(z.int()),
  /** The smallest difference that so many questions show four times of five. */
  detectableDifference: z.optional(z.nullable(z.number())),
  /** Every question with both answers, and the report. */
  files: z.optional(z.array(StagedFile)),
  currentRight: z.int(),
  candidateRight: z.int(),
  /** Right by the one and wrong by the other. */
  onlyCurrent: z.int(),
  onlyCandidate: z.int(),
  /** Accuracy of the candidate less that of the current model, and its interval at the task's confidence. */
  difference: z.number(),
  interval: z.tuple([z.number(), z.number()]),
  confidence: z.number(),
  /** Exact two-sided sign test (McNemar). */
  pValue: z.number(),
});
export type CompareResult = z.infer<typeof CompareResult>;
