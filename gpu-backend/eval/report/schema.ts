import { z } from 'zod';

/**
 * What an evaluation run came to, as `report.json`. Everything in it follows from the run's items and the records: no times, no paths, no counts of cached
 * answers, so that a run that was killed and went on writes the same bytes. Numbers are rounded to six digits.
 */
export const REPORT_VERSION = 2;
/** Of every interval in a report. */
export const REPORT_CONFIDENCE = 0.95;

const json: z.ZodType<unknown> = z.json();
const interval = z.tuple([z.number(), z.number()]);
const estimate = z.object({
  mean: z.number(),
  standardError: z.number().nullable(),
  interval,
  items: z.int(),
  clusters: z.int(),
  effectiveItems: z.number(),
  /** `wilson`: score interval on the effective number of items; `none`: a single cluster, nothing can be said. */
  method: z.enum(['wilson', 'none']),
});
const difference = z.object({
  difference: z.number(),
  interval,
  standardError: z.number().nullable(),
  pValue: z.number(),
  test: z.enum(['exact McNemar', 'exact sign-flip', 'sign-flip']),
});
const power = z.object({
  power: z.number(),
  confidence: z.number(),
  /** Null where no difference is large enough to be likely to be seen. */
  smallestDifference: z.number().nullable(),
  needed: z.array(z.object({ points: z.number(), items: z.int(), clusters: z.int() })),
});

/** Of what whole the asked records are a part; absent where they are all of the benchmark. */
export const evalPartSchema = z.object({
  chosen: z
    .discriminatedUnion('how', [
      z.object({ how: z.literal('first'), of: z.int().nullable() }),
      z.object({ how: z.literal('sample'), of: z.int(), seed: z.int() }),
    ])
    .optional(),
  published: z.int().nullable(),
  parts: z.object({ asked: z.int(), of: z.int(), missing: z.array(z.string()) }).optional(),
});

export const evalSpecSchema = z.object({
  task: z.string(),
  version: z.int(),
  protocol: z.record(z.string(), json),
  aggregate: z.enum(['records', 'categories', 'groups']),
  data: z.object({ digest: z.string(), records: z.int(), part: evalPartSchema.optional() }),
  mode: z.enum(['sequence', 'merge']),
  variants: z.record(z.string(), json),
});
const model = z.object({ name: z.string(), identity: z.string() });

const question = z.object({
  record: z.string(),
  category: z.string().nullable(),
  question: z.string(),
  options: z.array(z.string()),
  /** Digests of the pictures, in the order in which they were shown. */
  images: z.array(z.string()),
  /** Null where no criterion has one. */
  reference: z.string().nullable(),
});
const given = z.object({ answer: z.string(), parsed: z.string().nullable(), rule: z.string(), score: z.number() });
const wrongAnswer = question.extend({
  ...given.shape,
  error: z.string().nullable(),
  /** Of so many askings of this question so many were wrong. */
  asked: z.int(),
  wrong: z.int(),
});

export const evalReportSchema = z.object({
  object: z.literal('mantis.eval_report'),
  version: z.literal(REPORT_VERSION),
  specHash: z.string(),
  spec: evalSpecSchema,
  title: z.string(),
  model,
  /** Of a run that has a name, a date (seconds since 1970) or labels of its own. */
  run: z
    .object({ name: z.string(), createdAt: z.int().nullable(), metadata: z.record(z.string(), z.string()) })
    .nullable(),
  counts: z.object({
    records: z.int(),
    /** Of those, questions that have pictures. */
    withPictures: z.int(),
    /** Asked questions, variants and controls included. */
    items: z.int(),
    /** Those that make the headline. */
    scored: z.int(),
    /** Without an answer of the model, or without a verdict on it: they score 0. */
    errors: z.int(),
    /** Answers in which the parser read nothing. */
    unparsed: z.int(),
    /** Without a published reference: they count in no number. */
    withoutReference: z.int(),
  }),
  /** What stood in the way of answers and verdicts, the commonest first, numbers in it as in the first of them. */
  errors: z.array(z.object({ cause: z.string(), items: z.int() })),
  /** Graders of one's own evaluation; empty for a benchmark, which has one score. */
  criteria: z.array(
    z.object({
      name: z.string(),
      type: z.string(),
      passed: z.int(),
      failed: z.int(),
      errored: z.int(),
      /** Of the scores; null where there is none. The interval only for scores between 0 and 1. */
      mean: z.number().nullable(),
      interval: interval.nullable(),
    }),
  ),
  /** Null where no reference is published. */
  headline: estimate.nullable(),
  /** Percentile bootstrap over clusters, to check the headline's interval by another way. */
  bootstrap: interval.nullable(),
  baseline: z.object({
    /** Guessing among the options. */
    chance: z.number().nullable(),
    /** Always giving the commonest reference. */
    majority: z.number().nullable(),
    majorityAnswer: z.string().nullable(),
  }),
  /** Published scores of others on this benchmark, 0 … 1. */
  anchors: z.array(
    z.object({ name: z.string(), value: z.number(), kind: z.enum(['model', 'mantis', 'random']), source: z.string() }),
  ),
  categories: z.array(estimate.extend({ name: z.string() })),
  imageOrder: z
    .object({
      orders: z.array(estimate.extend({ order: z.string() })),
      /** Best order's accuracy less the worst's. */
      spread: z.number(),
      /** Questions that got the same answer in every order. */
      sameAnswer: estimate,
      /** Other orders whose answer differs from that to the first one. */
      flipped: estimate,
      /** Questions that are right in every order. */
      allRight: estimate,
      /** Groups in which every question is right in every order (NLVR's consistency). */
      groupsAllRight: estimate,
    })
    .nullable(),
  optionRotation: z
    .object({
      rotations: z.array(estimate.extend({ by: z.int() })),
      /** Questions that are right under every rotation (circular evaluation). */
      circular: estimate,
      /** Share of the answers that are this letter, of the references that are, and of the latter the share that was found. */
      letters: z.array(z.object({ letter: z.string(), given: z.number(), expected: z.number(), found: z.number() })),
      /** Standard deviation of `found` over letters: 0 for a model that has no favourite place (Zheng et al. 2024, arXiv 2309.03882). */
      recallDeviation: z.number().nullable(),
    })
    .nullable(),
  controls: z.array(
    estimate.extend({
      control: z.enum(['text-only', 'blank', 'shuffled', 'leave-one-out']),
      /** The control less the questions as they are. */
      change: difference,
    }),
  ),
  leaveOneOut: z
    .array(
      z.object({
        /** 1 for the first picture. */
        picture: z.int(),
        /** Share of answers that change when this picture alone is grey. */
        changed: estimate,
        /** Of the right ones, the share that is lost. */
        lost: estimate.nullable(),
      }),
    )
    .nullable(),
  vision: z
    .object({
      verdict: z.enum(['yes', 'partly', 'no', 'unclear']),
      summary: z.string(),
      checks: z.array(z.object({ name: z.string(), outcome: z.enum(['yes', 'no', 'unclear']), words: z.string() })),
    })
    .nullable(),
  answers: z.object({
    rules: z.array(z.object({ rule: z.string(), items: z.int(), accuracy: z.number() })),
    /** Commonest answers as parsed, and how often each is the reference. */
    distribution: z.array(z.object({ answer: z.string(), given: z.int(), expected: z.int() })),
    /** Of other answers. */
    others: z.object({ given: z.int(), expected: z.int() }),
    /** Rows: reference; columns: parsed answer, the last one without any. */
    confusion: z.object({ labels: z.array(z.string()), counts: z.array(z.array(z.int())) }).nullable(),
  }),
  calibration: z
    .object({
      bins: z.array(
        z.object({ from: z.number(), to: z.number(), items: z.int(), confidence: z.number(), accuracy: z.number() }),
      ),
      /** Mean over answers of the distance between confidence and accuracy of their bin. */
      expectedError: z.number(),
      brier: z.number(),
      meanConfidence: z.number(),
    })
    .nullable(),
  /** Null where nothing can be said: too few groups for any test, or answers that all scored alike. */
  power: z
    .object({
      intraclassCorrelation: z.number().nullable(),
      /** Scored questions over effective ones: how many times more of them are asked than they are worth. */
      designEffect: z.number(),
      /** Against another model on the same questions, their means taken as correlated by 0.5. */
      sameQuestions: power,
      /** Against a score on other questions of the same kind. */
      otherQuestions: power,
    })
    .nullable(),
  usage: z.object({ promptTokens: z.int(), completionTokens: z.int() }).nullable(),
  /** `total`: questions with an answer that is wrong; `unanswered`: those without an answer or a verdict. Both are among those shown. */
  wrong: z.object({ total: z.int(), unanswered: z.int(), shown: z.array(wrongAnswer) }),
});
export type EvalReport = z.infer<typeof evalReportSchema>;
export type ReportEstimate = z.infer<typeof estimate>;
export type ReportPower = z.infer<typeof power>;
export type ReportDifference = z.infer<typeof difference>;
export type WrongAnswer = z.infer<typeof wrongAnswer>;

const side = z.object({
  /** What the run is called beside the other one: its name, or its model's, with what tells the two apart. */
  label: z.string(),
  model,
  specHash: z.string(),
  mean: z.number(),
  interval,
});
const pairedAnswer = question.extend({ first: given, second: given });

export const evalComparisonSchema = z.object({
  object: z.literal('mantis.eval_comparison'),
  version: z.literal(REPORT_VERSION),
  title: z.string(),
  spec: evalSpecSchema,
  first: side,
  second: side,
  /** Where the two runs did different things; empty where their hashes are equal. */
  specDifferences: z.array(z.object({ path: z.string(), first: z.string(), second: z.string() })),
  /** Pairs of answers, and those of either run that have no partner and were left out. */
  pairs: z.int(),
  clusters: z.int(),
  unpaired: z.object({ first: z.int(), second: z.int() }),
  change: difference.extend({ correlation: z.number().nullable() }),
  counts: z.object({ both: z.int(), onlyFirst: z.int(), onlySecond: z.int(), neither: z.int() }).nullable(),
  categories: z.array(
    difference.extend({
      name: z.string(),
      pairs: z.int(),
      first: z.number(),
      second: z.number(),
      /** Holm's over the categories. */
      adjustedPValue: z.number(),
    }),
  ),
  power: power.nullable(),
  verdict: z.object({ outcome: z.enum(['first', 'second', 'unclear', 'equal']), words: z.string() }),
  /** Right by the second alone, and by the first alone. */
  wins: z.object({ total: z.int(), shown: z.array(pairedAnswer) }),
  losses: z.object({ total: z.int(), shown: z.array(pairedAnswer) }),
});
export type EvalComparison = z.infer<typeof evalComparisonSchema>;
export type PairedAnswer = z.infer<typeof pairedAnswer>;
