/** How an answer is to be drawn: from the public request's fields to the inner wire's, with what is wrong about them. */
import type { AnswerConstraint, Sampling } from '../../shared/contract/backend.ts';
import type { ChatRequest } from '../../shared/contract/chat.ts';
import { describe, fieldPath, type Violation, violation } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { KnownModel } from '../fleet/models.ts';

/** What no schema says: fields that need or exclude each other, and the model's own limits. */
export function checkParameters(chat: ChatRequest, { card, id }: Pick<KnownModel, 'card' | 'id'>): Violation[] {
  const wrong: Violation[] = [];
  const field = chat.max_completion_tokens == null ? 'max_tokens' : 'max_completion_tokens';
  const asked = chat[field];
  if (asked != null && asked > card.maxNewTokens) {
    wrong.push(
      violation('invalid_value', field, { expected: `at most ${card.maxNewTokens} for ${id}`, received: asked }),
    );
  }
  if (chat.top_logprobs != null && chat.logprobs !== true) {
    wrong.push(
      violation('invalid_value', 'top_logprobs', {
        expected: '"logprobs": true beside it',
        received: describe(chat.logprobs),
      }),
    );
  }
  if (chat.stream_options != null && chat.stream !== true) {
    wrong.push(
      violation('invalid_value', 'stream_options', {
        expected: '"stream": true beside it',
        received: describe(chat.stream),
      }),
    );
  }
  return [...wrong, ...checkBiases(chat), ...checkConstraint(chat)];
}

function checkBiases({ logit_bias: biases }: ChatRequest): Violation[] {
  const keys = Object.keys(biases ?? {});
  if (keys.length > LIMITS.request.maxLogitBiases)
    return [
      violation('invalid_value', 'logit_bias', {
        expected: `at most ${LIMITS.request.maxLogitBiases} tokens`,
        received: keys.length,
      }),
    ];
  return keys
    .filter((key) => !/^(0|[1-9]\d{0,8})$/.test(key))
    .map((key) =>
      violation('invalid_value', fieldPath(['logit_bias', key.slice(0, 32)]), {
        expected: 'the id of a token as its name',
        received: describe(key),
      }),
    );
}

function checkConstraint({ response_format: format, structured_outputs: structured }: ChatRequest): Violation[] {
  if (structured != null) {
    const kinds = Object.keys(structured);
    if (kinds.length !== 1)
      return [
        violation('invalid_value', 'structured_outputs', {
          expected: 'exactly one of json, json_object, regex, choice',
          received: kinds.join(', ') || 'none',
        }),
      ];
    if (format != null && format.type !== 'text')
      return [
        violation('invalid_value', 'structured_outputs', {
          expected: 'no response_format beside it',
          received: `one of type ${JSON.stringify(format.type)}`,
        }),
      ];
  }
  const asked = constraint({ response_format: format, structured_outputs: structured });
  const size = asked === undefined ? 0 : JSON.stringify(asked.spec).length;
  if (size <= LIMITS.request.maxConstraintChars) return [];
  return [
    violation('invalid_value', asked!.param, {
      expected: `at most ${LIMITS.request.maxConstraintChars} characters as JSON`,
      received: size,
    }),
  ];
}

/** Both spellings of structured output as the one thing they mean. */
function constraint({
  response_format: format,
  structured_outputs: structured,
}: Pick<ChatRequest, 'response_format' | 'structured_outputs'>): AnswerConstraint | undefined {
  if (structured?.json !== undefined)
    return { param: 'structured_outputs.json', spec: { type: 'json_schema', schema: structured.json } };
  if (structured?.regex !== undefined)
    return { param: 'structured_outputs.regex', spec: { type: 'regex', regex: structured.regex } };
  if (structured?.choice !== undefined)
    return { param: 'structured_outputs.choice', spec: { type: 'choice', choices: structured.choice } };
  if (structured?.json_object !== undefined)
    return { param: 'structured_outputs.json_object', spec: { type: 'json_object' } };
  if (format?.type === 'json_object') return { param: 'response_format', spec: { type: 'json_object' } };
  if (format?.type !== 'json_schema') return undefined;
  const { schema } = format.json_schema;
  return { param: 'response_format.json_schema.schema', spec: { type: 'json_schema', schema } };
}

/** The public parameters in the inner wire's words; what has no effect is left out. */
export function sampling(chat: ChatRequest): Sampling {
  const { stop, n, logit_bias: biases } = chat;
  const asked = constraint(chat);
  return {
    maxTokens: chat.max_completion_tokens ?? chat.max_tokens ?? null,
    temperature: chat.temperature ?? 1,
    topP: chat.top_p ?? 1,
    ...(chat.top_k == null ? {} : { topK: chat.top_k }),
    ...(chat.min_p == null ? {} : { minP: chat.min_p }),
    ...(chat.seed == null ? {} : { seed: chat.seed }),
    ...(chat.presence_penalty == null ? {} : { presencePenalty: chat.presence_penalty }),
    ...(chat.frequency_penalty == null ? {} : { frequencyPenalty: chat.frequency_penalty }),
    ...(chat.repetition_penalty == null ? {} : { repetitionPenalty: chat.repetition_penalty }),
    ...(biases == null ? {} : { logitBias: Object.entries(biases).map(([id, bias]): [number, number] => [+id, bias]) }),
    ...(asked === undefined ? {} : { constraint: asked }),
    ...(n == null || n === 1 ? {} : { choices: n }),
    stop: stop == null ? [] : typeof stop === 'string' ? [stop] : stop,
    ...(chat.logprobs === true ? { logprobs: chat.top_logprobs ?? 0 } : {}),
  };
}
