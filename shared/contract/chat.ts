import * as z from 'zod/mini';
import { ImageUsage } from './images.ts';
import { LIMITS } from './limits.ts';

const R = LIMITS.request;

/** Text that is kept or ignored but never read by a model. */
const Label = z.string().check(z.maxLength(R.maxLabelChars));
/** OpenAI's: up to 16 pairs of short strings. */
export const Metadata = z
  .record(z.string().check(z.maxLength(R.maxMetadataKeyChars)), z.string().check(z.maxLength(R.maxMetadataValueChars)))
  .check(z.refine((pairs) => Object.keys(pairs).length <= R.maxMetadataPairs, `at most ${R.maxMetadataPairs} pairs`));
/** Id of a model, as `GET /v1/models` lists it. */
export const ModelName = z.string().check(z.minLength(1), z.maxLength(R.maxModelChars));

/** `url` is a data URL (`data:image/png;base64,…`), an https address, the id of an uploaded file (`file-…`) or its digest (`sha256:…`). */
export const ImageUrl = z.strictObject({
  url: z.string(),
  detail: z.optional(z.enum(['auto', 'low', 'high'])),
});

export const TextPart = z.strictObject({
  type: z.literal('text'),
  text: z.string().check(z.maxLength(R.maxTextChars)),
});
export const ImageUrlPart = z.strictObject({
  type: z.literal('image_url'),
  image_url: ImageUrl,
  /** vLLM's cache hint; accepted, never trusted. */
  uuid: z.optional(Label),
});
/** OpenAI's other spelling for uploaded pictures. */
export const ImageFilePart = z.strictObject({
  type: z.literal('image_file'),
  image_file: z.strictObject({ file_id: z.string(), detail: z.optional(z.enum(['auto', 'low', 'high'])) }),
});

export const ContentPart = z.discriminatedUnion('type', [TextPart, ImageUrlPart, ImageFilePart]);
export type ContentPart = z.infer<typeof ContentPart>;

export const ChatRole = z.enum(['system', 'developer', 'user', 'assistant']);
export type ChatRole = z.infer<typeof ChatRole>;

export const ChatMessage = z.strictObject({
  role: ChatRole,
  content: z.union([
    z.string().check(z.maxLength(R.maxTextChars)),
    z.array(ContentPart).check(z.minLength(1), z.maxLength(R.maxPartsPerMessage)),
  ]),
  name: z.optional(Label),
  /** Answers are sent back as history with these; null only, we neither refuse nor speak. */
  refusal: z.optional(z.null()),
  audio: z.optional(z.null()),
});
export type ChatMessage = z.infer<typeof ChatMessage>;

/** OpenAI's fields that would change the answer and are not built: refused by name. */
export const UNSUPPORTED_CHAT_FIELDS: ReadonlySet<string> = new Set([
  'audio',
  'function_call',
  'functions',
  'guided_choice',
  'guided_grammar',
  'guided_json',
  'guided_regex',
  'parallel_tool_calls',
  'prediction',
  'reasoning_effort',
  'tool_choice',
  'tools',
  'verbosity',
  'web_search_options',
]);

/** A JSON schema of the supported keywords; the backend checks it and names what it does not understand. */
const JsonSchema = z.record(z.string(), z.unknown());

/** OpenAI's structured output. Answers fit the schema whether `strict` is said or not. */
export const JsonSchemaFormat = z.strictObject({
  name: z.string().check(z.regex(/^[A-Za-z0-9_-]{1,64}$/, '1 to 64 letters, digits, _ or -')),
  description: z.optional(z.string().check(z.maxLength(R.maxTextChars))),
  schema: JsonSchema,
  strict: z.optional(z.nullable(z.boolean())),
});

export const ResponseFormat = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('text') }),
  z.strictObject({ type: z.literal('json_object') }),
  z.strictObject({
    type: z.literal('json_schema'),
    json_schema: JsonSchemaFormat,
  }),
]);

/** vLLM's structured output: exactly one of them. */
export const StructuredOutputs = z.strictObject({
  json: z.optional(JsonSchema),
  json_object: z.optional(z.literal(true)),
  /** The whole answer matches; JavaScript's syntax without look-around and back references. */
  regex: z.optional(z.string().check(z.minLength(1), z.maxLength(R.maxConstraintChars))),
  choice: z.optional(
    z.array(z.string().check(z.minLength(1))).check(z.minLength(1), z.maxLength(R.maxConstraintChoices)),
  ),
});
export type StructuredOutputs = z.infer<typeof StructuredOutputs>;

/** `POST /v1/chat/completions`. Fields that change the answer but are not built yet are refused, not ignored. */
export const ChatRequest = z.strictObject({
  model: ModelName,
  messages: z.array(ChatMessage).check(z.minLength(1), z.maxLength(R.maxMessages)),
  stream: z.optional(z.nullable(z.boolean())),
  stream_options: z.optional(
    z.nullable(
      z.strictObject({ include_usage: z.optional(z.boolean()), include_obfuscation: z.optional(z.boolean()) }),
    ),
  ),
  /** New tokens at most; default: what fits, up to the model's `max_new_tokens`. */
  max_tokens: z.optional(z.nullable(z.int().check(z.minimum(1)))),
  max_completion_tokens: z.optional(z.nullable(z.int().check(z.minimum(1)))),
  /** 0 is greedy. Default 1. */
  temperature: z.optional(z.nullable(z.number().check(z.minimum(0), z.maximum(2)))),
  top_p: z.optional(z.nullable(z.number().check(z.minimum(0), z.maximum(1)))),
  top_k: z.optional(z.nullable(z.int().check(z.minimum(1)))),
  /** Tokens less than this share as likely as the likeliest are not drawn. */
  min_p: z.optional(z.nullable(z.number().check(z.minimum(0), z.maximum(1)))),
  /** Choice i of several draws with a seed derived from this one; choice 0 with this one itself. */
  seed: z.optional(z.nullable(z.int())),
  stop: z.optional(
    z.nullable(
      z.union([
        z.string().check(z.minLength(1), z.maxLength(R.maxStopChars)),
        z.array(z.string().check(z.minLength(1), z.maxLength(R.maxStopChars))).check(z.maxLength(R.maxStopSequences)),
      ]),
    ),
  ),
  logprobs: z.optional(z.nullable(z.boolean())),
  top_logprobs: z.optional(z.nullable(z.int().check(z.minimum(0), z.maximum(R.maxTopLogprobs)))),
  n: z.optional(z.nullable(z.int().check(z.minimum(1), z.maximum(R.maxChoices)))),
  presence_penalty: z.optional(z.nullable(z.number().check(z.minimum(-2), z.maximum(2)))),
  frequency_penalty: z.optional(z.nullable(z.number().check(z.minimum(-2), z.maximum(2)))),
  /** HF's: logits of tokens in prompt or answer are divided by it, multiplied where negative. 1 = off. */
  repetition_penalty: z.optional(z.nullable(z.number().check(z.minimum(0.1), z.maximum(10)))),
  /** Token id → what is added to its logit. */
  logit_bias: z.optional(z.nullable(z.record(z.string(), z.number().check(z.minimum(-100), z.maximum(100))))),
  response_format: z.optional(z.nullable(ResponseFormat)),
  structured_outputs: z.optional(z.nullable(StructuredOutputs)),
  modalities: z.optional(z.nullable(z.array(z.literal('text')))),
  // Accepted because they do not change the answer.
  user: z.optional(z.nullable(Label)),
  metadata: z.optional(z.nullable(Metadata)),
  store: z.optional(z.nullable(z.boolean())),
  service_tier: z.optional(z.nullable(Label)),
  safety_identifier: z.optional(z.nullable(Label)),
  prompt_cache_key: z.optional(z.nullable(Label)),
});
export type ChatRequest = z.infer<typeof ChatRequest>;

/** `POST /v1/chat/completions/input_tokens`: what the same request to `/v1/chat/completions` would take of the model's context. */
export const InputTokens = z.object({
  object: z.literal('chat.completion.input_tokens'),
  model: z.string(),
  /** What `usage.prompt_tokens` will say: text and pictures. */
  input_tokens: z.int(),
  /** Of these, what is no picture: the texts, the roles and what the model's format puts between them. */
  text_tokens: z.int(),
  /** Of each picture, in reading order. */
  image_tokens: z.array(z.int()),
  context_tokens: z.int(),
  /** The longest answer: what was asked for or else the model's own limit, cut to the room that is left. */
  max_new_tokens: z.int(),
  /** Whether the request would be taken. */
  fits: z.boolean(),
});
export type InputTokens = z.infer<typeof InputTokens>;

export const FinishReason = z.enum(['stop', 'length']);
export type FinishReason = z.infer<typeof FinishReason>;

/** OpenAI's usage; ours: `image_tokens`, the part of the prompt that pictures take, and `images`, what each took and where its features came from. */
export const Usage = z.object({
  prompt_tokens: z.int(),
  completion_tokens: z.int(),
  total_tokens: z.int(),
  prompt_tokens_details: z.object({
    cached_tokens: z.int(),
    image_tokens: z.int(),
    images: z.optional(z.array(ImageUsage)),
  }),
});
export type Usage = z.infer<typeof Usage>;

const TopLogprob = z.object({ token: z.string(), logprob: z.number(), bytes: z.nullable(z.array(z.int())) });
export const TokenLogprob = z.object({
  token: z.string(),
  logprob: z.number(),
  bytes: z.nullable(z.array(z.int())),
  top_logprobs: z.array(TopLogprob),
});
export type TokenLogprob = z.infer<typeof TokenLogprob>;
const Logprobs = z.nullable(z.object({ content: z.nullable(z.array(TokenLogprob)), refusal: z.null() }));

export const ChatCompletion = z.object({
  id: z.string(),
  object: z.literal('chat.completion'),
  created: z.int(),
  model: z.string(),
  system_fingerprint: z.string(),
  choices: z.array(
    z.object({
      index: z.int(),
      message: z.object({ role: z.literal('assistant'), content: z.string(), refusal: z.null() }),
      logprobs: Logprobs,
      finish_reason: FinishReason,
    }),
  ),
  usage: Usage,
});
export type ChatCompletion = z.infer<typeof ChatCompletion>;

export const ChatChunk = z.object({
  id: z.string(),
  object: z.literal('chat.completion.chunk'),
  created: z.int(),
  model: z.string(),
  system_fingerprint: z.string(),
  choices: z.array(
    z.object({
      index: z.int(),
      delta: z.object({ role: z.optional(z.literal('assistant')), content: z.optional(z.string()) }),
      logprobs: Logprobs,
      finish_reason: z.nullable(FinishReason),
    }),
  ),
  usage: z.optional(z.nullable(Usage)),
});
export type ChatChunk = z.infer<typeof ChatChunk>;
