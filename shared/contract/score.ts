import * as z from 'zod/mini';
import { ChatMessage, Metadata, ModelName, Usage } from './chat.ts';
import { LIMITS } from './limits.ts';

const R = LIMITS.request;

/**
 * `POST /v1/score`: how likely each option is as the answer to the conversation, without generating anything. An option is scored as
 * it stands, so a letter that the model writes as " A" is another option than "A".
 */
export const ScoreRequest = z.strictObject({
  model: ModelName,
  messages: z.array(ChatMessage).check(z.minLength(1), z.maxLength(R.maxMessages)),
  options: z
    .array(z.string().check(z.minLength(1), z.maxLength(R.maxOptionChars)))
    .check(z.minLength(2), z.maxLength(R.maxOptions)),
  user: z.optional(z.nullable(z.string().check(z.maxLength(R.maxLabelChars)))),
  metadata: z.optional(z.nullable(Metadata)),
});
export type ScoreRequest = z.infer<typeof ScoreRequest>;

export const ScoreResponse = z.object({
  object: z.literal('score'),
  model: z.string(),
  /** In the order asked. `logprob`: natural logarithm of the probability of the whole option after the prompt. */
  scores: z.array(z.object({ option: z.string(), logprob: z.number(), token_count: z.int() })),
  /** Index of the likeliest option; the first of equals. */
  best: z.int(),
  usage: Usage,
});
export type ScoreResponse = z.infer<typeof ScoreResponse>;
