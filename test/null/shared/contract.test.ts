import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ChatRequest } from '../../../shared/contract/chat.ts';
import type { DatasetLine } from '../../../shared/contract/datasets.ts';
import { ApiError, ERRORS, fieldPath, violationsOf } from '../../../shared/contract/errors.ts';
import { CreateJobRequest } from '../../../shared/contract/jobs.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { WEBHOOK_TEST, WebhookEventType } from '../../../shared/contract/webhooks.ts';
import { OPERATIONS } from '../../../shared/openapi/operations.ts';
import { openApiDocument } from '../../../shared/openapi.ts';

/** `param: code` of everything wrong with a value. */
function faults(schema: typeof ChatRequest | typeof CreateJobRequest | typeof DatasetLine, value: unknown): string[] {
  const parsed = schema.safeParse(value);
  return parsed.success ? [] : violationsOf(parsed.error.issues, value).map(({ param, code }) => `${param}: ${code}`);
}

const ask = (more: object) => ({ model: 'm', messages: [{ role: 'user', content: 'hi' }], ...more });

describe('chat request', () => {
  it('takes what the official client sends', () => {
    const content = [
      { type: 'text', text: 'What is in ' },
      { type: 'image_url', image_url: { url: 'file-1', detail: 'low' } },
      { type: 'image_file', image_file: { file_id: 'file-2' } },
    ];
    const value = ask({
      messages: [
        { role: 'system', content: 'Be short.' },
        { role: 'user', content },
      ],
      stream: true,
      stop: null,
      max_tokens: 5,
    });
    assert.deepEqual(faults(ChatRequest, value), []);
  });

  it('names every field that is wrong, all at once', () => {
    const messages = [
      { role: 'bob', content: 5 },
      {
        role: 'user',
        content: [
          { type: 'text' },
          { type: 'image_url', image_url: 'x' },
          { type: 'sound' },
          'y',
          { type: 'image_url', image_url: {} },
        ],
      },
    ];
    assert.deepEqual(faults(ChatRequest, { messages, temperature: 3, foo: 1 }).sort(), [
      'foo: unknown_parameter',
      'messages[0].content: invalid_type',
      'messages[0].role: invalid_value',
      'messages[1].content[0].text: missing_required_parameter',
      'messages[1].content[1].image_url: invalid_type',
      'messages[1].content[2].type: invalid_value',
      'messages[1].content[3]: invalid_type',
      'messages[1].content[4].image_url.url: missing_required_parameter',
      'model: missing_required_parameter',
      'temperature: invalid_value',
    ]);
  });

  it('holds each numeric limit at the limit and one beyond', () => {
    const text = (chars: number) => 'x'.repeat(chars);
    const cases: [string, (n: number) => object, number][] = [
      ['stop', (n) => ({ stop: Array(n).fill('a') }), LIMITS.request.maxStopSequences],
      ['stop[0]', (n) => ({ stop: [text(n)] }), LIMITS.request.maxStopChars],
      ['top_logprobs', (n) => ({ top_logprobs: n }), LIMITS.request.maxTopLogprobs],
      ['messages', (n) => ({ messages: Array(n).fill({ role: 'user', content: 'x' }) }), LIMITS.request.maxMessages],
      ['messages[0].content', (n) => ({ messages: [{ role: 'user', content: text(n) }] }), LIMITS.request.maxTextChars],
      [
        'messages[0].content',
        (n) => ({ messages: [{ role: 'user', content: Array(n).fill({ type: 'text', text: '' }) }] }),
        LIMITS.request.maxPartsPerMessage,
      ],
    ];
    for (const [param, make, limit] of cases) {
      assert.deepEqual(faults(ChatRequest, ask(make(limit))), [], `${param} at ${limit}`);
      assert.deepEqual(
        faults(ChatRequest, ask(make(limit + 1))),
        [`${param}: invalid_value`],
        `${param} at ${limit + 1}`,
      );
    }
  });

  it('does not let __proto__ in', () => {
    assert.deepEqual(
      faults(ChatRequest, JSON.parse('{"__proto__":{"x":1},"model":"m","messages":[{"role":"user","content":"a"}]}')),
      ['__proto__: unknown_parameter'],
    );
    assert.equal(({} as { x?: number }).x, undefined);
  });
});

describe('fine-tuning request', () => {
  it('takes OpenAI fields and our namespaced ones', () => {
    const mantis = { stage: 'lora', lora: { r: 8, alpha: 16, dora: true } };
    const value = {
      model: 'm',
      training_file: 'file-1',
      hyperparameters: { n_epochs: 'auto' },
      method: { type: 'supervised', supervised: { mantis } },
    };
    assert.deepEqual(faults(CreateJobRequest, value), []);
  });

  it('refuses what it cannot do', () => {
    const value = {
      model: 'm',
      training_file: 'f',
      suffix: 'a b',
      hyperparameters: { n_epochs: 0 },
      method: { type: 'dpo' },
      integrations: [{ type: 'wandb' }],
    };
    const params = faults(CreateJobRequest, value).map((fault) => fault.split(':')[0]);
    assert.deepEqual(params.sort(), ['hyperparameters.n_epochs', 'integrations[0]', 'method.type', 'suffix']);
    const mantis = { lora: { r: 0, alpha: 16, dora: 'yes' } };
    const method = { type: 'supervised', supervised: { mantis } };
    const loraFaults = faults(CreateJobRequest, { model: 'm', training_file: 'f', method });
    assert.deepEqual(loraFaults.map((fault) => fault.split(':')[0]).sort(), [
      'method.supervised.mantis.lora.dora',
      'method.supervised.mantis.lora.r',
    ]);
  });
});

describe('errors', () => {
  it('put the first violation in the envelope and all of them in the details', () => {
    const parsed = ChatRequest.safeParse({ model: 1, messages: [] });
    assert.ok(!parsed.success);
    const { error } = ApiError.from(violationsOf(parsed.error.issues, { model: 1, messages: [] })).envelope();
    assert.equal(error.param, 'model');
    assert.equal(error.code, 'invalid_type');
    assert.equal(error.type, 'invalid_request_error');
    assert.equal(error.details?.length, 2);
    assert.match(error.message, /^model: expected a string, received 1\. \(and 1 more/);
  });

  it('write paths as clients know them', () => {
    assert.equal(fieldPath(['messages', 0, 'content', 2, 'image_url']), 'messages[0].content[2].image_url');
  });
});

describe('OpenAPI document', () => {
  const document = openApiDocument() as {
    openapi: string;
    paths: Record<string, Record<string, { operationId: string }>>;
    webhooks: object;
  };

  it('has every operation once and refers only to what exists', () => {
    assert.equal(document.openapi, '3.1.0');
    const ids = Object.values(document.paths).flatMap((methods) =>
      Object.values(methods).map(({ operationId }) => operationId),
    );
    assert.equal(new Set(ids).size, OPERATIONS.length);
    const text = JSON.stringify(document);
    for (const [, name] of text.matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
      assert.ok(text.includes(`"${name}":{`), `schema ${name}`);
    }
    assert.deepEqual(
      Object.keys(document.webhooks),
      [...WebhookEventType.options, WEBHOOK_TEST].map((type) => type.replaceAll('.', '_')),
    );
  });

  it('publishes codes and limits', () => {
    const shown = document as unknown as { 'x-error-codes': typeof ERRORS; 'x-limits': typeof LIMITS };
    assert.deepEqual(shown['x-error-codes'], ERRORS);
    assert.deepEqual(shown['x-limits'], LIMITS);
  });
});
