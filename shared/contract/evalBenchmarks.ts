/** Benchmarks that the product knows, and what a run may ask of them. */
import * as z from 'zod/mini';
import { ModelName } from './chat.ts';
import { LIMITS } from './limits.ts';

const E = LIMITS.evals;

/** By name: readers, prompts, parsers and scores in `gpu-backend/eval/tasks`. */
export const EvalBenchmark = z.enum([
  'nlvr2',
  'nlvr',
  'qbench2',
  'mantis-eval',
  'blink',
  'mvbench',
  'textvqa',
  'vqav2',
  'mmbench',
  'mmmu',
  'okvqa',
  'scienceqa',
  'mathvista',
  'muirbench',
  'mmiu',
  /** The four skills of Mantis on generated pictures: the one without files. */
  'skills',
]);
export type EvalBenchmark = z.infer<typeof EvalBenchmark>;

/** Ways in which a benchmark's questions are changed to learn what answers rest on; each is asked beside the questions as they are. */
export const BenchmarkControl = z.enum(['text-only', 'blank', 'shuffled', 'leave-one-out']);

export const BenchmarkRunSource = z.strictObject({
  type: z.literal('mantis.benchmark'),
  /**
   * Files as they were published, uploaded with the purpose `evals`. Where a benchmark has folders, the name that a file was uploaded with says which:
   * `Art_Style/val-00000-of-00001.parquet`; clients that upload without folders (OpenAI's does) say so here. None for `skills`, which makes its own questions.
   */
  file_ids: z.optional(
    z
      .array(
        z.union([
          z.string().check(z.minLength(1)),
          z.strictObject({
            id: z.string().check(z.minLength(1)),
            /** Within the folder of the benchmark, in place of the name it was uploaded with. */
            path: z.string().check(z.minLength(1), z.maxLength(LIMITS.files.maxNameChars)),
          }),
        ]),
      )
      .check(z.maxLength(E.maxBenchmarkFiles)),
  ),
  model: ModelName,
  /** Of `skills`: questions of each of its four skills (default 250), another set of the same kind (default 0), pictures of each question (default: as trained). */
  skills: z.optional(
    z.strictObject({
      per_skill: z.optional(z.int().check(z.minimum(1), z.maximum(E.maxPerSkill))),
      seed: z.optional(z.int().check(z.minimum(0), z.maximum(2 ** 31 - 1))),
      images: z.optional(z.int().check(z.minimum(2), z.maximum(9))),
    }),
  ),
  split: z.optional(z.string().check(z.minLength(1), z.maxLength(E.maxLabelChars))),
  /** The first so many records; all of them if left out. A record is asked in every order and with every control that is wished for. */
  max_items: z.optional(z.int().check(z.minimum(1), z.maximum(E.maxItems))),
  /** In place of the first: so many records that stand for all, from every category its share, drawn by `seed` (default 0). */
  sample: z.optional(
    z.strictObject({
      records: z.int().check(z.minimum(1), z.maximum(E.maxItems)),
      seed: z.optional(z.int().check(z.minimum(0), z.maximum(2 ** 31 - 1))),
    }),
  ),
  /** Pictures in their places, or pasted into one as the paper did for models of one picture. Default sequence. */
  mode: z.optional(z.enum(['sequence', 'merge'])),
  controls: z.optional(z.array(BenchmarkControl).check(z.maxLength(BenchmarkControl.options.length))),
  /** Orders of the pictures: the benchmark's own (default), every one (24 at most), or so many. */
  image_orders: z.optional(
    z.union([z.enum(['protocol', 'all']), z.int().check(z.minimum(1), z.maximum(E.maxVariants))]),
  ),
  /** Every question once for each rotation of its options, the right answer moving along. Default false. */
  rotate_options: z.optional(z.boolean()),
  /** Of questions with options: written and read as published (default), or the letter that the model finds most likely. */
  answer_by: z.optional(z.enum(['generation', 'likelihood'])),
});
export type BenchmarkRunSource = z.infer<typeof BenchmarkRunSource>;
