import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { checkParameters, sampling } from '../../../edge/chat/sampling.ts';
import { ChatRequest } from '../../../shared/contract/chat.ts';
import { violationsOf } from '../../../shared/contract/errors.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import type { ModelCard } from '../../../shared/contract/models.ts';

const card = { id: 'm', maxNewTokens: 100 } as ModelCard;

function wrong(fields: Record<string, unknown>): string[] {
  const body = { model: 'm', messages: [{ role: 'user', content: 'hi' }], ...fields };
  const parsed = ChatRequest.safeParse(body);
  const found = parsed.success
    ? checkParameters(parsed.data, { card, id: 'm' })
    : violationsOf(parsed.error.issues, body);
  return found.map(({ param, message }) => {
    assert.ok(param !== null && message.startsWith(param), message);
    return param;
  });
}

const asked = (fields: Partial<ChatRequest>) =>
  sampling({ model: 'm', messages: [{ role: 'user', content: 'hi' }], ...fields });

describe('fields of a chat request that shape its answers', () => {
  it('reach the backend; what is left out stays out', () => {
    assert.deepEqual(asked({}), { maxTokens: null, temperature: 1, topP: 1, stop: [] });
    assert.deepEqual(asked({ n: 1, logit_bias: null, response_format: { type: 'text' } }), asked({}));
    assert.deepEqual(
      asked({
        n: 3,
        min_p: 0.1,
        presence_penalty: 1,
        frequency_penalty: -1,
        repetition_penalty: 1.2,
        logit_bias: { '17': -100, '3': 2.5 },
        response_format: { type: 'json_schema', json_schema: { name: 'x', schema: { type: 'null' } } },
      }),
      {
        ...asked({}),
        choices: 3,
        minP: 0.1,
        presencePenalty: 1,
        frequencyPenalty: -1,
        repetitionPenalty: 1.2,
        logitBias: [
          [3, 2.5],
          [17, -100],
        ],
        constraint: {
          param: 'response_format.json_schema.schema',
          spec: { type: 'json_schema', schema: { type: 'null' } },
        },
      },
    );
  });
  it('is told in words what was expected and what came', () => {
    const told = (fields: Record<string, unknown>) => {
      const body = { model: 'm', messages: [{ role: 'user', content: 'hi' }], ...fields };
      const parsed = ChatRequest.safeParse(body);
      return (
        parsed.success ? checkParameters(parsed.data, { card, id: 'm' }) : violationsOf(parsed.error.issues, body)
      ).map(({ message }) => message);
    };
    const format = (json_schema: unknown) => ({ response_format: { type: 'json_schema', json_schema } });
    assert.deepEqual(told({ top_logprobs: 2 }), [
      'top_logprobs: expected "logprobs": true beside it, received nothing.',
    ]);
    assert.deepEqual(told({ logit_bias: [1] }), ['logit_bias: expected an object, received an array of 1.']);
    assert.deepEqual(told({ structured_outputs: { choice: [] } }), [
      'structured_outputs.choice: expected at least 1 item, received 0 items.',
    ]);
    assert.deepEqual(told({ structured_outputs: { regex: '' } }), [
      'structured_outputs.regex: expected at least 1 character, received 0 characters.',
    ]);
    assert.deepEqual(told(format({ name: 'a b', schema: {} })), [
      'response_format.json_schema.name: expected 1 to 64 letters, digits, _ or -, received "a b".',
    ]);
    assert.deepEqual(violationsOf(ChatRequest.safeParse([]).error!.issues, [])[0], {
      code: 'invalid_type',
      param: null,
      message: 'value: expected an object, received an array of 0.',
    });
  });
  it('both spellings of structured output mean the same', () => {
    const spec = (fields: Partial<ChatRequest>) => asked(fields).constraint?.spec;
    const schema = { type: 'object' };
    assert.deepEqual(
      spec({ structured_outputs: { json: schema } }),
      spec({ response_format: { type: 'json_schema', json_schema: { name: 'x', strict: true, schema } } }),
    );
    assert.deepEqual(
      spec({ structured_outputs: { json_object: true } }),
      spec({ response_format: { type: 'json_object' } }),
    );
    assert.deepEqual(spec({ structured_outputs: { regex: 'a' } }), { type: 'regex', regex: 'a' });
    assert.deepEqual(spec({ structured_outputs: { choice: ['a'] } }), { type: 'choice', choices: ['a'] });
  });
  it('are refused by path at their limits', () => {
    const { maxChoices, maxLogitBiases, maxConstraintChars } = LIMITS.request;
    const biases = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, id) => [id, 1]));
    assert.deepEqual(wrong({ n: maxChoices, logit_bias: biases(maxLogitBiases) }), []);
    assert.deepEqual(wrong({ n: maxChoices + 1 }), ['n']);
    assert.deepEqual(wrong({ n: 0 }), ['n']);
    assert.deepEqual(wrong({ logit_bias: biases(maxLogitBiases + 1) }), ['logit_bias']);
    assert.deepEqual(wrong({ logit_bias: { '-1': 1, '1.5': 1 } }), ['logit_bias.-1', 'logit_bias.1.5']);
    assert.deepEqual(wrong({ logit_bias: { '1': 101 } }), ['logit_bias.1']);
    assert.deepEqual(wrong({ presence_penalty: 2.1, frequency_penalty: -2.1 }), [
      'presence_penalty',
      'frequency_penalty',
    ]);
    assert.deepEqual(wrong({ repetition_penalty: 0, min_p: 1.5 }).sort(), ['min_p', 'repetition_penalty']);
    assert.deepEqual(wrong({ response_format: { type: 'xml' } }), ['response_format.type']);
    assert.deepEqual(wrong({ response_format: { type: 'json_schema', json_schema: { name: 'x' } } }), [
      'response_format.json_schema.schema',
    ]);
    assert.deepEqual(wrong({ structured_outputs: {} }), ['structured_outputs']);
    assert.deepEqual(wrong({ structured_outputs: { regex: 'a', choice: ['b'] } }), ['structured_outputs']);
    assert.deepEqual(wrong({ structured_outputs: { choice: ['b'] }, response_format: { type: 'json_object' } }), [
      'structured_outputs',
    ]);
    assert.deepEqual(wrong({ structured_outputs: { choice: ['x'.repeat(maxConstraintChars)] } }), [
      'structured_outputs.choice',
    ]);
    assert.deepEqual(wrong({ guided_json: {} }), ['guided_json']);
  });
});
