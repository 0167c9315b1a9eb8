/** Evaluations in OpenAI's form: what is asked and how it is judged (`eval`), doing it with one model (`eval.run`), and what came of each item. */
import * as z from 'zod/mini';
import { ImageUrl, JsonSchemaFormat, Metadata, ModelName, ResponseFormat } from './chat.ts';
import { BenchmarkRunSource, EvalBenchmark } from './evalBenchmarks.ts';
import { LIMITS } from './limits.ts';

const E = LIMITS.evals;

/** Text that may hold `{{item.field}}` and, where a model has answered, `{{sample.output_text}}`; see `evalTemplate.ts`. */
const Text = z.string().check(z.maxLength(E.maxTemplateChars));
const Name = z.string().check(z.minLength(1), z.maxLength(E.maxNameChars));

/** Accepted and of no effect here: pictures are read as the model's recipe says. */
const Detail = z.optional(z.string().check(z.maxLength(LIMITS.request.maxLabelChars)));

/**
 * One part of a templated message. Only these parts make image slots, and only by what the author of the template wrote: text of an item stays text. An
 * `image_url` is what chat takes (data URL, https address, `file-…`, `sha256:…`); `mantis.images` puts a list of them, in order.
 */
export const EvalPart = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('input_text'), text: Text }),
  z.strictObject({ type: z.literal('output_text'), text: Text }),
  z.strictObject({ type: z.literal('text'), text: Text }),
  /** One of the two. */
  z.strictObject({
    type: z.literal('input_image'),
    image_url: z.optional(z.nullable(Text)),
    file_id: z.optional(z.nullable(Text)),
    detail: Detail,
  }),
  z.strictObject({ type: z.literal('image_url'), image_url: z.extend(ImageUrl, { url: Text }) }),
  z.strictObject({ type: z.literal('image_file'), image_file: z.strictObject({ file_id: Text, detail: Detail }) }),
  /** `{{item.images}}`: a list of pictures, each in a slot of its own. */
  z.strictObject({ type: z.literal('mantis.images'), image_urls: Text }),
]);
export type EvalPart = z.infer<typeof EvalPart>;

export const EvalMessage = z.strictObject({
  type: z.optional(z.literal('message')),
  role: z.enum(['system', 'developer', 'user', 'assistant']),
  content: z.union([
    Text,
    EvalPart,
    z.array(z.union([Text, EvalPart])).check(z.minLength(1), z.maxLength(LIMITS.request.maxPartsPerMessage)),
  ]),
});
export type EvalMessage = z.infer<typeof EvalMessage>;

const Messages = z.array(EvalMessage).check(z.minLength(1), z.maxLength(E.maxPromptMessages));

const MaxTokens = z.optional(z.nullable(z.int().check(z.minimum(1))));

/** How answers are drawn; what is left out is as in chat, but for the temperature: 0. */
export const EvalSampling = z.strictObject({
  /** Both spellings that OpenAI's client has for judges. */
  max_completion_tokens: MaxTokens,
  max_completions_tokens: MaxTokens,
  temperature: z.optional(z.nullable(z.number().check(z.minimum(0), z.maximum(2)))),
  top_p: z.optional(z.nullable(z.number().check(z.minimum(0), z.maximum(1)))),
  seed: z.optional(z.nullable(z.int())),
  response_format: z.optional(ResponseFormat),
});
export type EvalSampling = z.infer<typeof EvalSampling>;

const Threshold = z.optional(z.nullable(z.number()));

/** 1 where it holds, else 0. `like`: the input contains the reference; `ilike`: whatever the case of letters. */
export const StringCheckGrader = z.strictObject({
  type: z.literal('string_check'),
  name: Name,
  input: Text,
  reference: Text,
  operation: z.enum(['eq', 'ne', 'like', 'ilike']),
});

/** Metrics whose formulas are known exactly; `cosine` wants embeddings and `meteor` a dictionary, which this product does not have. */
export const SIMILARITY_METRICS = [
  'fuzzy_match',
  'bleu',
  'gleu',
  'rouge_1',
  'rouge_2',
  'rouge_3',
  'rouge_4',
  'rouge_5',
  'rouge_l',
] as const;
export type SimilarityMetric = (typeof SIMILARITY_METRICS)[number];

export const TextSimilarityGrader = z.strictObject({
  type: z.literal('text_similarity'),
  name: Name,
  input: Text,
  reference: Text,
  evaluation_metric: z.enum(SIMILARITY_METRICS),
  /** Passed from here on. Needed as a testing criterion; within a formula it says nothing. */
  pass_threshold: Threshold,
});

/** A model chooses among the labels: its answer is one of them, whatever the model. */
export const LabelModelGrader = z.strictObject({
  type: z.literal('label_model'),
  name: Name,
  model: ModelName,
  input: Messages,
  labels: z
    .array(z.string().check(z.minLength(1), z.maxLength(E.maxLabelChars)))
    .check(z.minLength(1), z.maxLength(E.maxLabels)),
  passing_labels: z.array(z.string()).check(z.minLength(1), z.maxLength(E.maxLabels)),
  sampling_params: z.optional(EvalSampling),
});

/** A model gives a number within the range: its answer is `{"result": number}`, whatever the model. */
export const ScoreModelGrader = z.strictObject({
  type: z.literal('score_model'),
  name: Name,
  model: ModelName,
  input: Messages,
  /** Default [0, 1]. */
  range: z.optional(z.nullable(z.tuple([z.number(), z.number()]))),
  /** Default: the middle of the range. */
  pass_threshold: Threshold,
  sampling_params: z.optional(EvalSampling),
});

/**
 * The parser and score of a benchmark that the product knows (`gpu-backend/eval/tasks`), for one answer. `options` and `answers` are lists, given by one
 * reference each (`{{item.options}}`); `fields` are what else the benchmark's score looks at.
 */
export const BenchmarkGrader = z.strictObject({
  type: z.literal('mantis.benchmark'),
  name: Name,
  benchmark: EvalBenchmark,
  input: Text,
  question: z.optional(Text),
  options: z.optional(Text),
  answers: Text,
  category: z.optional(Text),
  fields: z.optional(z.record(z.string().check(z.maxLength(E.maxLabelChars)), Text)),
  /** Default 1: right. */
  pass_threshold: Threshold,
});

const SimpleGrader = z.discriminatedUnion('type', [
  StringCheckGrader,
  TextSimilarityGrader,
  LabelModelGrader,
  ScoreModelGrader,
  BenchmarkGrader,
]);
export type SimpleGrader = z.infer<typeof SimpleGrader>;

/** Scores of several graders in one formula: their names, numbers, + - * / ^, and min, max, abs, floor, ceil, exp, sqrt, log. */
export const MultiGrader = z.strictObject({
  type: z.literal('multi'),
  name: Name,
  graders: z.record(z.string().check(z.regex(/^[A-Za-z_]\w{0,63}$/, 'a name of letters, digits and _')), SimpleGrader),
  calculate_output: z.string().check(z.minLength(1), z.maxLength(E.maxFormulaChars)),
  /** Default 0.5. */
  pass_threshold: Threshold,
});
export type MultiGrader = z.infer<typeof MultiGrader>;

export const Grader = z.discriminatedUnion('type', [
  StringCheckGrader,
  TextSimilarityGrader,
  LabelModelGrader,
  ScoreModelGrader,
  BenchmarkGrader,
  MultiGrader,
]);
export type Grader = z.infer<typeof Grader>;

const JsonSchema = z.record(z.string(), z.unknown());

/** Items of one's own, described by a JSON schema. */
const CustomSource = z.strictObject({
  type: z.literal('custom'),
  item_schema: JsonSchema,
  /** Whether `sample` belongs to a line: each line of `jsonl` must then have one with an `output_text`. Criteria may look into answers either way. Default false. */
  include_sample_schema: z.optional(z.boolean()),
});

/** A benchmark that the product knows, read from files as it was published; its own parser and score are the criterion. */
const BenchmarkSource = z.strictObject({ type: z.literal('mantis.benchmark'), benchmark: EvalBenchmark });

export const CreateEvalRequest = z.strictObject({
  name: z.optional(z.nullable(z.string().check(z.maxLength(E.maxNameChars)))),
  metadata: z.optional(z.nullable(Metadata)),
  data_source_config: z.discriminatedUnion('type', [CustomSource, BenchmarkSource]),
  /** None for a benchmark: it brings its own. */
  testing_criteria: z.array(Grader).check(z.maxLength(E.maxCriteria)),
});
export type CreateEvalRequest = z.infer<typeof CreateEvalRequest>;

/** `POST /v1/evals/{id}`: what is left out stays. */
export const UpdateEvalRequest = z.strictObject({
  name: z.optional(z.nullable(z.string().check(z.maxLength(E.maxNameChars)))),
  metadata: z.optional(z.nullable(Metadata)),
});
export type UpdateEvalRequest = z.infer<typeof UpdateEvalRequest>;

export const Eval = z.object({
  id: z.string(),
  object: z.literal('eval'),
  name: z.string(),
  created_at: z.int(),
  metadata: z.nullable(z.record(z.string(), z.string())),
  /** `schema` is what a line of a run's data must be: `{item, sample}`. */
  data_source_config: z.union([
    z.object({ type: z.literal('custom'), schema: JsonSchema }),
    z.object({ type: z.literal('mantis.benchmark'), benchmark: z.string() }),
  ]),
  testing_criteria: z.array(Grader),
});
export type Eval = z.infer<typeof Eval>;

/** One line of data. `sample` is an answer that was given elsewhere: `{"output_text": "…"}`. */
export const EvalLine = z.strictObject({
  item: z.record(z.string(), z.unknown()),
  sample: z.optional(z.nullable(z.record(z.string(), z.unknown()))),
});
export type EvalLine = z.infer<typeof EvalLine>;

const FileContent = z.strictObject({
  type: z.literal('file_content'),
  content: z.array(EvalLine).check(z.minLength(1), z.maxLength(E.maxInlineItems)),
});
const FileId = z.strictObject({ type: z.literal('file_id'), id: z.string().check(z.minLength(1)) });
const LineSource = z.discriminatedUnion('type', [FileContent, FileId]);

/** Answers that were given elsewhere are judged. */
const JsonlRunSource = z.strictObject({ type: z.literal('jsonl'), source: LineSource });

export const InputMessages = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('template'), template: Messages }),
  /** `item.input`: the item holds the conversation, as chat takes it. */
  z.strictObject({
    type: z.literal('item_reference'),
    item_reference: z.string().check(z.regex(/^item\.[\w.]{1,256}$/, 'a path such as item.input')),
  }),
]);
export type InputMessages = z.infer<typeof InputMessages>;

/** A model answers each item. */
const CompletionsRunSource = z.strictObject({
  type: z.literal('completions'),
  source: LineSource,
  model: ModelName,
  input_messages: InputMessages,
  sampling_params: z.optional(EvalSampling),
});

/** The same in the words of the Responses API, as OpenAI's guide writes it. */
const ResponsesRunSource = z.strictObject({
  type: z.literal('responses'),
  source: LineSource,
  model: ModelName,
  input_messages: InputMessages,
  sampling_params: z.optional(
    z.strictObject({
      max_completion_tokens: MaxTokens,
      temperature: z.optional(z.nullable(z.number().check(z.minimum(0), z.maximum(2)))),
      top_p: z.optional(z.nullable(z.number().check(z.minimum(0), z.maximum(1)))),
      seed: z.optional(z.nullable(z.int())),
      text: z.optional(
        z.strictObject({
          format: z.optional(
            z.discriminatedUnion('type', [
              z.strictObject({ type: z.literal('text') }),
              z.strictObject({ type: z.literal('json_object') }),
              z.extend(JsonSchemaFormat, { type: z.literal('json_schema') }),
            ]),
          ),
        }),
      ),
    }),
  ),
});

/**
 * What an earlier run of the same evaluation was asked: its answers are taken over, and what is missing or has errors is asked again, by the same models as they
 * are now. The run shows that run's data source.
 */
const RetryRunSource = z.strictObject({ type: z.literal('mantis.retry'), run_id: z.string().check(z.minLength(1)) });

export const CreateEvalRunRequest = z.strictObject({
  name: z.optional(z.nullable(z.string().check(z.maxLength(E.maxNameChars)))),
  metadata: z.optional(z.nullable(Metadata)),
  data_source: z.discriminatedUnion('type', [
    JsonlRunSource,
    CompletionsRunSource,
    ResponsesRunSource,
    BenchmarkRunSource,
    RetryRunSource,
  ]),
});
export type CreateEvalRunRequest = z.infer<typeof CreateEvalRunRequest>;
/** What a run was asked; of a retried run what the first one was. */
export type EvalDataSource = Exclude<CreateEvalRunRequest['data_source'], { type: 'mantis.retry' }>;

/** One l in `canceled`, as OpenAI writes it here. */
export const EvalRunStatus = z.enum(['queued', 'in_progress', 'completed', 'failed', 'canceled']);
export type EvalRunStatus = z.infer<typeof EvalRunStatus>;

const Usage = z.object({
  prompt_tokens: z.int(),
  completion_tokens: z.int(),
  cached_tokens: z.int(),
  total_tokens: z.int(),
});

export const EvalRun = z.object({
  id: z.string(),
  object: z.literal('eval.run'),
  eval_id: z.string(),
  name: z.string(),
  created_at: z.int(),
  finished_at: z.nullable(z.int()),
  status: EvalRunStatus,
  /** Of the answers; empty where answers were given elsewhere. */
  model: z.string(),
  metadata: z.nullable(z.record(z.string(), z.string())),
  /** As it was asked for. Lists leave the lines of `file_content` out. */
  data_source: z.looseObject({ type: z.string() }),
  /** `param`: the field of the request that is at fault, where one is. */
  error: z.nullable(z.object({ code: z.string(), message: z.string(), param: z.nullable(z.string()) })),
  /**
   * `errored`: no answer, or no verdict; `total`: all lines of the data, once they have been counted. Of a benchmark, questions as its protocol asks them: what is
   * asked beside them (controls, rotated options, other orders) has criteria of its own.
   */
  result_counts: z.object({ total: z.int(), passed: z.int(), failed: z.int(), errored: z.int() }),
  per_model_usage: z.array(z.extend(Usage, { model_name: z.string(), invocation_count: z.int() })),
  per_testing_criteria_results: z.array(z.object({ testing_criteria: z.string(), passed: z.int(), failed: z.int() })),
  /**
   * A page for people, with numbers, intervals and wrong answers: a link that opens in a browser without a key, for about a day; the run, retrieved again, has a new
   * one. Who has the link can read the report. `?format=json` for programs.
   */
  report_url: z.string(),
});
export type EvalRun = z.infer<typeof EvalRun>;

export const EvalItemStatus = z.enum(['pass', 'fail', 'error']);
export type EvalItemStatus = z.infer<typeof EvalItemStatus>;

/** What a criterion said. `sample` is the judge's answer where there was one. */
export const EvalResult = z.object({
  name: z.string(),
  type: z.string(),
  passed: z.boolean(),
  score: z.number(),
  /** Why there is no verdict. */
  error: z.optional(z.string()),
  sample: z.optional(z.nullable(z.record(z.string(), z.unknown()))),
});
export type EvalResult = z.infer<typeof EvalResult>;

const SampleMessage = z.object({ role: z.string(), content: z.string() });

/** The answer that was judged. Pictures stand in `input` as `[image sha256:…]`. */
export const EvalSample = z.object({
  input: z.array(SampleMessage),
  output: z.array(SampleMessage),
  finish_reason: z.string(),
  model: z.string(),
  usage: z.nullable(Usage),
  error: z.nullable(z.object({ code: z.string(), message: z.string() })),
  temperature: z.nullable(z.number()),
  max_completion_tokens: z.nullable(z.int()),
  top_p: z.nullable(z.number()),
  seed: z.nullable(z.int()),
});
export type EvalSample = z.infer<typeof EvalSample>;

/** Pictures that the line gave as data URLs stand in `datasource_item` as `sha256:…`. */
export const EvalOutputItem = z.object({
  id: z.string(),
  object: z.literal('eval.run.output_item'),
  created_at: z.int(),
  run_id: z.string(),
  eval_id: z.string(),
  status: EvalItemStatus,
  /** Number of the line, from 0. */
  datasource_item_id: z.int(),
  datasource_item: z.record(z.string(), z.unknown()),
  results: z.array(EvalResult),
  sample: EvalSample,
});
export type EvalOutputItem = z.infer<typeof EvalOutputItem>;

/** OpenAI's spelling: the ids have names of their own here. */
export const DeletedEval = z.object({
  object: z.literal('eval.deleted'),
  deleted: z.literal(true),
  eval_id: z.string(),
});
export const DeletedEvalRun = z.object({
  object: z.literal('eval.run.deleted'),
  deleted: z.literal(true),
  run_id: z.string(),
});
export type DeletedEval = z.infer<typeof DeletedEval>;
export type DeletedEvalRun = z.infer<typeof DeletedEvalRun>;
