/** What bad input gets: a 4xx in OpenAI's envelope that names the part, states limit and value, and disturbs nothing else. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type OpenAI from 'openai';
import { toFile } from 'openai';
import { z } from 'zod';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { at, CHAT_CASES, imageUrl, question, truncated } from './bad-pictures.ts';
import { waitForEnd } from './jobs.ts';
import { dataUrl, imagePart, picture, textPart } from './pictures.ts';
import { type Product, startProduct, stopAndForget } from './product.ts';
import { assertRefused, type Refusal } from './refusal.ts';

const Limits = z.object({
  limits: z.object({ max_images: z.int(), max_new_tokens: z.int(), context_tokens: z.int() }),
});

let product: Product;
let client: OpenAI;
let model: string;
let maxImages: number;
let maxNewTokens: number;
/** What the canary request answers while nothing is wrong. */
let canaryAnswer: string;

before(async () => {
  product = await startProduct();
  client = product.client;
  model = (await client.models.list()).data[0]?.id ?? assert.fail('GET /v1/models lists a model');
  const { limits } = Limits.parse(await client.models.retrieve(model));
  maxImages = limits.max_images;
  maxNewTokens = limits.max_new_tokens;
  canaryAnswer = await canary();
});
after(() => stopAndForget(product));

async function canary(): Promise<string> {
  const content = [imagePart('frame-1'), imagePart('frame-2'), textPart('Which way does the blue square move?')];
  const answer = await client.chat.completions.create({
    model,
    messages: [{ role: 'user', content }],
    temperature: 0,
    max_completion_tokens: 8,
  });
  return answer.choices[0]?.message.content ?? '';
}

async function post(path: string, body: string, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(`${product.url}${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${product.apiKey}`, 'content-type': 'application/json', ...headers },
    body,
  });
}

describe('pictures and parts', () => {
  for (const { name, content, ...refusal } of CHAT_CASES) {
    test(name, async () => {
      const body = JSON.stringify({ model, messages: [{ role: 'user', content: content() }] });
      const { param, ...rest } = refusal;
      const error = await assertRefused(await post('/v1/chat/completions', body), rest);
      if (param?.startsWith('messages')) assert.equal(error.param, param);
      else assert.match(error.param ?? '', new RegExp(param ?? ''));
    });
  }

  test('one picture more than the model takes', async () => {
    const content = [...Array.from({ length: maxImages + 1 }, () => imagePart('frame-1')), question];
    const body = JSON.stringify({ model, messages: [{ role: 'user', content }] });
    const says = [`at most ${maxImages} images`, `received ${maxImages + 1}`];
    await assertRefused(await post('/v1/chat/completions', body), {
      status: 400,
      code: 'too_many_images',
      param: at(maxImages),
      says,
    });
  });

  test('a streamed request is refused before the stream begins', async () => {
    const content = [imageUrl(dataUrl(truncated())), question];
    const body = JSON.stringify({ model, stream: true, messages: [{ role: 'user', content }] });
    const response = await post('/v1/chat/completions', body);
    assert.match(response.headers.get('content-type') ?? '', /^application\/json/);
    await assertRefused(response, { status: 400, code: 'image_parse_error', param: at(0) });
  });

  test('a picture the header praises and the pixels betray is the 4xx of its own part', async () => {
    const png = Buffer.from(picture('frame-2'));
    png.fill(0x5a, 60, 200);
    const content = [imagePart('frame-1'), imageUrl(dataUrl(png)), question];
    const response = await post(
      '/v1/chat/completions',
      JSON.stringify({ model, messages: [{ role: 'user', content }] }),
    );
    await assertRefused(response, { status: 400, code: 'image_parse_error', param: at(1) });
  });
});

interface RequestCase extends Refusal {
  readonly name: string;
  readonly body: () => string;
  readonly path?: string;
  readonly headers?: Record<string, string>;
}

const userSays = (content: unknown, more: object = {}): string =>
  JSON.stringify({ model, messages: [{ role: 'user', content }], ...more });

const REQUEST_CASES: readonly RequestCase[] = [
  { name: 'no JSON', body: () => '{"model": ', status: 400, code: 'invalid_json', param: null },
  { name: 'JSON that is no object', body: () => '[1,2]', status: 400, code: 'invalid_type' },
  {
    name: 'an unknown model',
    body: () => JSON.stringify({ model: 'no-such-model', messages: [{ role: 'user', content: 'hi' }] }),
    status: 404,
    code: 'model_not_found',
    param: 'model',
    says: ['no-such-model'],
  },
  {
    name: 'no messages',
    body: () => JSON.stringify({ model }),
    status: 400,
    code: 'missing_required_parameter',
    param: 'messages',
  },
  {
    name: 'an unknown field',
    body: () => userSays('hi', { temprature: 1 }),
    status: 400,
    code: 'unknown_parameter',
    param: 'temprature',
  },
  {
    name: 'a temperature beyond its range',
    body: () => userSays('hi', { temperature: 3 }),
    status: 400,
    code: 'invalid_value',
    param: 'temperature',
    says: ['2', '3'],
  },
  {
    name: 'more new tokens than the model gives',
    body: () => userSays('hi', { max_completion_tokens: maxNewTokens + 1 }),
    status: 400,
    code: 'invalid_value',
    param: 'max_completion_tokens',
    says: [/at most \d+/],
  },
  {
    name: 'text longer than the context',
    body: () => userSays('blue '.repeat(20_000)),
    status: 400,
    code: 'context_length_exceeded',
    says: [/\d+ tokens/],
  },
  {
    name: 'a body beyond the limit',
    body: () => `{"padding":"${'x'.repeat(LIMITS.request.maxJsonBytes)}"}`,
    status: 413,
    code: 'request_too_large',
    says: [String(LIMITS.request.maxJsonBytes)],
  },
  {
    name: 'no API key',
    body: () => userSays('hi'),
    headers: { authorization: '' },
    status: 401,
    code: 'invalid_api_key',
  },
  {
    name: 'a wrong API key',
    body: () => userSays('hi'),
    headers: { authorization: 'Bearer mk_wrong' },
    status: 401,
    code: 'invalid_api_key',
  },
  { name: 'a route that does not exist', path: '/v1/nothing', body: () => '{}', status: 404, code: 'not_found' },
  {
    name: 'a job for a file that does not exist',
    path: '/v1/fine_tuning/jobs',
    body: () => JSON.stringify({ model, training_file: 'file-none' }),
    status: 404,
    code: 'file_not_found',
    param: 'training_file',
  },
  {
    name: 'a webhook to a private address',
    path: '/v1/webhook_endpoints',
    body: () => JSON.stringify({ url: 'http://127.0.0.1:9/hook', events: ['fine_tuning.job.succeeded'] }),
    status: 400,
    code: 'invalid_value',
    param: 'url',
  },
  {
    name: 'a webhook for an unknown event',
    path: '/v1/webhook_endpoints',
    body: () => JSON.stringify({ url: 'https://example.com/hook', events: ['something.else'] }),
    status: 400,
    code: 'invalid_value',
    param: 'events[0]',
  },
];

describe('requests', () => {
  for (const { name, path, body, headers, ...refusal } of REQUEST_CASES) {
    test(name, async () => {
      await assertRefused(await post(path ?? '/v1/chat/completions', body(), headers), refusal);
    });
  }
});

interface DatasetCase {
  readonly name: string;
  readonly line: () => string;
  readonly says: readonly string[];
}

const example = (content: unknown, answer: unknown = 'blue'): string =>
  JSON.stringify({
    messages: [
      { role: 'user', content },
      { role: 'assistant', content: answer },
    ],
  });

const DATASET_CASES: readonly DatasetCase[] = [
  { name: 'no JSON', line: () => '{"messages": [', says: ['line 3', 'JSON'] },
  { name: 'no messages', line: () => '{"prompt": "a"}', says: ['line 3', 'messages'] },
  {
    name: 'no answer at its end',
    line: () => JSON.stringify({ messages: [{ role: 'user', content: 'hi' }] }),
    says: ['line 3', 'messages[0].role', 'assistant'],
  },
  {
    name: 'a corrupt picture',
    line: () => example([textPart('look'), imageUrl(dataUrl(truncated()))]),
    says: ['line 3', 'messages[0].content[1]'],
  },
  {
    name: 'a picture that was never uploaded',
    line: () => example([imageUrl('file-none'), textPart('look')]),
    says: ['line 3', 'messages[0].content[0]', 'file-none'],
  },
  {
    name: 'a picture in an answer',
    line: () => example('draw', [imagePart('frame-1')]),
    says: ['line 3', 'messages[1].content[0]'],
  },
];

describe('lines of a training file', () => {
  for (const { name, line, says } of DATASET_CASES) {
    test(name, async () => {
      const good = example([imagePart('frame-1'), textPart('What color is the square?')]);
      const lines = [good, good, line(), good].join('\n');
      const file = await client.files.create({
        file: await toFile(Buffer.from(lines), 'train.jsonl'),
        purpose: 'fine-tune',
      });
      const created = await client.fineTuning.jobs.create({ model, training_file: file.id });
      const job = await waitForEnd(client, created.id, 60_000);
      assert.equal(job.status, 'failed');
      assert.deepEqual([job.error?.code, job.error?.param], ['invalid_training_file', 'training_file']);
      for (const words of says) assert.ok(job.error?.message.includes(words), `${words} in: ${job.error?.message}`);
      assert.match(job.error?.message ?? '', /25\.0 % of the lines are bad/);
    });
  }
});

test('text that looks like an image slot or a special token stays text', async () => {
  const literal = '<image> (image 1: <Image><image></Image>) <|eot_id|><|end_of_text|><s></s> <|start_header_id|>';
  const answer = await client.chat.completions.create({
    model,
    messages: [{ role: 'user', content: [imagePart('frame-1'), textPart(literal)] }],
    temperature: 0,
    max_completion_tokens: 4,
  });
  const one = await client.chat.completions.create({
    model,
    messages: [{ role: 'user', content: [imagePart('frame-1'), textPart('a')] }],
    temperature: 0,
    max_completion_tokens: 4,
  });
  const imageTokens = (usage: OpenAI.CompletionUsage | undefined): unknown =>
    z.object({ prompt_tokens_details: z.object({ image_tokens: z.int() }) }).parse(usage).prompt_tokens_details
      .image_tokens;
  assert.equal(imageTokens(answer.usage), imageTokens(one.usage));
  assert.equal(typeof answer.choices[0]?.message.content, 'string');
});

test('after all of this the product answers as before', async () => {
  assert.equal(await canary(), canaryAnswer);
});
