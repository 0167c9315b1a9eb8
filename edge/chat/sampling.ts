/** How an answer is to be drawn: from the public request's fields to the inner wire's, with what is wrong about them. */
import type { AnswerConstraint, Sampling } from '../../shared/contract/backend.ts';
import type { ChatRequest } from '../../shared/contract/chat.ts';
import { describe, fieldPath, type Violation, violation } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { KnownModel } from '../fleet/models.ts';

type Parameters = Partial<Omit<ChatRequest, 'messages'>>;

/** Which of the two names the request uses for the length of its answer. */
export function answerTokensField({ max_completion_tokens }: Parameters): 'max_tokens' | 'max_completion_tokens' {
  return max_completion_tokens == null ? 'max_tokens' : 'max_completion_tokens';
}

/**
 * What no schema says: fields that need or exclude each other, and the model's own limits.
 * @param chat the fields that fit their schemas
 * @param model null where it is not known
 * @param wrong names of fields that do not fit: nothing is said of what depends on them
 */
export function checkParameters(
  chat: Parameters,
  model: Pick<KnownModel, 'card' | 'id'> | null,
  wrong: ReadonlySet<string> = new Set(),
): Violation[] {
  const found: Violation[] = [];
  const need = (field: 'top_logprobs' | 'stream_options', other: 'logprobs' | 'stream'): void => {
    if (chat[field] == null || chat[other] === true || wrong.has(other)) return;
    found.push(
      violation('invalid_value', field, { expected: `"${other}": true beside it`, received: describe(chat[other]) }),
    );
  };
  const field = answerTokensField(chat);
  const asked = chat[field];
  if (model !== null && asked != null && asked > model.card.maxNewTokens) {
    const expected = `at most ${model.card.maxNewTokens} for ${model.id}`;
    found.push(violation('invalid_value', field, { expected, received: asked }));
  }
  if (field === 'max_completion_tokens' && chat.max_tokens != null && chat.max_tokens !== asked) {
    const expected = `no max_tokens beside max_completion_tokens, or the same (${asked})`;
    found.push(violation('invalid_value', 'max_tokens', { expected, received: chat.max_tokens }));
  }
  need('top_logprobs', 'logprobs');
  need('stream_options', 'stream');
  return [...found, ...checkBiases(chat, model), ...checkConstraint(chat)];
}

function checkBiases({ logit_bias: biases }: Parameters, model: Pick<KnownModel, 'card' | 'id'> | null): Violation[] {
  const keys = Object.keys(biases ?? {});
  if (keys.length > LIMITS.request.maxLogitBiases)
    return [
      violation('invalid_value', 'logit_bias', {
        expected: `at most ${LIMITS.request.maxLogitBiases} tokens`,
        received: keys.length,
      }),
    ];
  const vocabTokens = model?.card.vocabTokens ?? Number.POSITIVE_INFINITY;
  return keys.flatMap((key) => {
    const isId = /^(0|[1-9]\d{0,8})$/.test(key);
    if (isId && Number(key) < vocabTokens) return [];
    const expected = isId ? `ids of tokens below ${vocabTokens} for ${model?.id}` : 'the id of a token as its name';
    return [violation('invalid_value', fieldPath(['logit_bias', key]), { expected, received: describe(key) })];
  });
}

function checkConstraint({ response_format: format, structured_outputs: structured }: Parameters): Violation[] {
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
}: Parameters): AnswerConstraint | undefined {
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
export function sampling(chat: Parameters): Sampling {
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
