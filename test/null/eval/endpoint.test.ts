import assert from 'node:assert/strict';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, beforeEach, describe, it } from 'node:test';
import { type OpenAiModelOptions, openAiModel } from '../../../gpu-backend/eval/models/openai.ts';
import { ModelUnusable } from '../../../gpu-backend/eval/run/model-unusable.ts';
import type { EvalImage, EvalPrompt } from '../../../gpu-backend/eval/task.ts';

interface Request {
  readonly url: string;
  readonly authorization: string | undefined;
  readonly body: Record<string, unknown>;
}

/** What the server does with the requests to come, in their order; the last one holds for all that follow. */
type Behaviour = (response: ServerResponse, request: Request) => void;

const KEY = 'sk-test-0123456789abcdef';
const PNG = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
  'base64',
);
const image: EvalImage = { sha256: 'aa', bytes: async () => PNG };
const prompt: EvalPrompt = {
  system: 'You see.',
  parts: ['first', { image: 0 }, 'second', { image: 1 }, 'which?'],
  images: [image, image],
  maxTokens: 16,
  choices: ['A', 'B'],
};

const json = (status: number, body: unknown, headers: Record<string, string> = {}): Behaviour => {
  return (response) =>
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
};
const answered = (content: unknown = 'B'): Behaviour =>
  json(200, {
    choices: [{ message: { role: 'assistant', content }, finish_reason: 'stop' }],
    usage: { prompt_tokens: 7, completion_tokens: 1 },
  });
const failed = (
  status: number,
  message = 'no',
  headers: Record<string, string> = {},
  param: string | null = null,
): Behaviour => json(status, { error: { message, type: 'x', param, code: null } }, headers);

describe('an endpoint of OpenAI’s form', () => {
  let behaviours: Behaviour[];
  let requests: Request[];
  let arrivedMs: number[];
  let baseUrl: string;
  const server = createServer((request: IncomingMessage, response) => {
    const pieces: Buffer[] = [];
    request.on('data', (piece: Buffer) => pieces.push(piece));
    request.on('end', () => {
      const one: Request = {
        url: request.url ?? '',
        authorization: request.headers.authorization,
        body: JSON.parse(Buffer.concat(pieces).toString('utf8')) as Record<string, unknown>,
      };
      requests.push(one);
      arrivedMs.push(performance.now());
      const behaviour = behaviours.length > 1 ? behaviours.shift() : behaviours[0];
      behaviour?.(response, one);
    });
  });
  before(async () => {
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
  });
  after(() => {
    server.closeAllConnections();
    server.close();
  });
  beforeEach(() => {
    behaviours = [answered()];
    requests = [];
    arrivedMs = [];
  });
  const model = (options: Partial<OpenAiModelOptions> = {}) =>
    openAiModel({
      baseUrl,
      model: 'gpt-4v',
      apiKey: KEY,
      firstPauseMs: 5,
      timeoutMs: 20_000,
      maxRetries: 3,
      ...options,
    });
  const ask = (options: Partial<OpenAiModelOptions> = {}, asked = prompt) =>
    model(options).answer(asked, new AbortController().signal);

  it('is sent text and pictures in their order, at temperature 0, with the key', async () => {
    const answer = await ask();
    assert.deepEqual(answer, { text: 'B', finishReason: 'stop', usage: { promptTokens: 7, completionTokens: 1 } });
    const url = `data:image/png;base64,${PNG.toString('base64')}`;
    const picture = { type: 'image_url', image_url: { url } };
    const text = (words: string) => ({ type: 'text', text: words });
    assert.deepEqual(requests, [
      {
        url: '/v1/chat/completions',
        authorization: `Bearer ${KEY}`,
        body: {
          model: 'gpt-4v',
          messages: [
            { role: 'system', content: 'You see.' },
            { role: 'user', content: [text('first'), picture, text('second'), picture, text('which?')] },
          ],
          temperature: 0,
          max_tokens: 16,
        },
      },
    ]);
  });

  it('is told the turns before the question; what was answered in them as plain text', async () => {
    const earlier = [
      { role: 'user', parts: [{ image: 1 }, 'what?'] },
      { role: 'assistant', parts: ['a ', 'cat'] },
    ] as const;
    await ask({}, { ...prompt, earlier, parts: ['and here?', { image: 0 }] });
    const url = `data:image/png;base64,${PNG.toString('base64')}`;
    const picture = { type: 'image_url', image_url: { url } };
    assert.deepEqual(requests[0]?.body.messages, [
      { role: 'system', content: 'You see.' },
      { role: 'user', content: [picture, { type: 'text', text: 'what?' }] },
      { role: 'assistant', content: 'a cat' },
      { role: 'user', content: [{ type: 'text', text: 'and here?' }, picture] },
    ]);
  });

  const passing: [string, Behaviour][] = [
    ['a 500', failed(500)],
    ['a 529 without JSON', (response) => response.writeHead(529).end('<html>busy</html>')],
    ['an answer that is no JSON', (response) => response.writeHead(200).end('{"choices":')],
    ['an answer without choices', json(200, { object: 'error' })],
    ['a connection that breaks', (response) => response.destroy()],
  ];
  for (const [name, fault] of passing)
    it(`is asked again after ${name}`, async () => {
      behaviours = [fault, fault, answered('A')];
      assert.equal((await ask()).text, 'A');
      assert.equal(requests.length, 3);
    });

  it('is asked again after silence', async () => {
    behaviours = [() => {}, answered('A')];
    assert.equal((await ask({ timeoutMs: 300 })).text, 'A');
    assert.ok(requests.length > 1);
  });

  it('is left alone by every question for as long as a 429 says', async () => {
    behaviours = [failed(429, 'slow down', { 'retry-after': '1', 'retry-after-ms': '200' }), answered()];
    const one = model({ atOnce: 1 });
    const none = new AbortController().signal;
    await Promise.all([one.answer(prompt, none), one.answer({ ...prompt, maxTokens: 3 }, none)]);
    assert.equal(requests.length, 3);
    assert.ok(arrivedMs[1]! - arrivedMs[0]! >= 195, `${arrivedMs[1]! - arrivedMs[0]!} ms`);
    behaviours = [failed(429, 'tomorrow', { 'retry-after': '86400' })];
    await assert.rejects(ask(), /answered 429: tomorrow \(tried 1 time\)/);
  });

  it('that refuses a question is not asked it again; its words are shown, the key is not', async () => {
    behaviours = [failed(400, `bad picture, key ${KEY}`)];
    await assert.rejects(ask(), (error: Error) => {
      assert.match(error.message, /answered 400: bad picture, key \[key\]/);
      assert.ok(!(error instanceof ModelUnusable));
      return true;
    });
    assert.equal(requests.length, 1);
  });

  it('that refuses everybody, or does not exist, ends the run', async () => {
    for (const status of [401, 403, 404]) {
      behaviours = [failed(status, 'no')];
      await assert.rejects(ask(), (error) => error instanceof ModelUnusable);
    }
    assert.equal(requests.length, 3);
    await assert.rejects(ask({ baseUrl: 'http://127.0.0.1:1/v1', maxRetries: 1 }), (error: Error) => {
      assert.ok(error instanceof ModelUnusable);
      assert.match(error.message, /127\.0\.0\.1:1.*tried 2 times.*is the address right/s);
      return true;
    });
  });

  it('is not followed to another address, where the key would go too', async () => {
    behaviours = [(response) => response.writeHead(307, { location: `${baseUrl}/elsewhere` }).end()];
    await assert.rejects(ask({ maxRetries: 0 }));
    assert.equal(requests.length, 1);
  });

  it('is told the bound of an answer in the word that it knows', async () => {
    behaviours = [failed(400, 'Unsupported parameter', {}, 'max_tokens'), answered(), answered()];
    const one = model();
    const none = new AbortController().signal;
    await one.answer(prompt, none);
    await one.answer(prompt, none);
    assert.deepEqual(
      requests.map(({ body }) => [body.max_tokens, body.max_completion_tokens]),
      [
        [16, undefined],
        [undefined, 16],
        [undefined, 16],
      ],
    );
    await ask({ request: { temperature: null, reasoning_effort: 'low' } });
    assert.ok(!('temperature' in (requests[3]?.body ?? {})));
    assert.equal(requests[3]?.body.reasoning_effort, 'low');
  });

  it('is not asked for more than its model may write', async () => {
    await ask({ maxAnswerTokens: 16 });
    await ask({ maxAnswerTokens: 17 });
    assert.deepEqual(
      requests.map(({ body }) => body.max_tokens),
      [undefined, 16],
    );
  });

  it('is not sent what is too large, or no picture', async () => {
    await assert.rejects(ask({ maxImageBytes: 10 }), /picture 1 has 70 bytes and is not sent, 10 are allowed/);
    await assert.rejects(ask({ maxImages: 1 }), /2 pictures is not sent, 1 are allowed/);
    await assert.rejects(ask({ maxRequestBytes: 100 }), /is not sent, 100 are allowed/);
    const text: EvalImage = { sha256: 'bb', bytes: async () => Buffer.from('hello') };
    await assert.rejects(ask({}, { ...prompt, images: [image, text] }), /picture 2 is not a JPEG/);
    assert.equal(requests.length, 0);
  });

  it('that gives parts, or a refusal, has answered', async () => {
    behaviours = [
      answered([
        { type: 'text', text: 'A' },
        { type: 'text', text: '.' },
      ]),
    ];
    assert.equal((await ask()).text, 'A.');
    behaviours = [
      json(200, { choices: [{ message: { content: null, refusal: 'I will not.' }, finish_reason: 'stop' }] }),
    ];
    assert.equal((await ask()).text, 'I will not.');
  });

  it('that ends without a word has answered, and is not asked again', async () => {
    for (const reason of ['length', 'content_filter']) {
      behaviours = [json(200, { choices: [{ message: { role: 'assistant', content: null }, finish_reason: reason }] })];
      requests = [];
      assert.equal((await ask()).text, '');
      assert.equal(requests.length, 1);
    }
  });

  it('says before every further attempt why, and what is wrong with an address', async () => {
    const told: string[] = [];
    behaviours = [failed(503, 'busy'), answered()];
    await ask({ onRetry: ({ why, attempts, most }) => told.push(`${attempts} of ${most}: ${why}`) });
    assert.match(told.join(), /^1 of 4: .*503: busy$/);
    assert.throws(() => model({ baseUrl: `${baseUrl}/chat/completions` }), /leave \/chat\/completions out/);
    behaviours = [failed(404, 'not found')];
    await assert.rejects(ask({ baseUrl: baseUrl.replace('/v1', '') }), /ends with \/v1/);
  });

  it('of an installation compares the options', async () => {
    behaviours = [
      json(200, {
        scores: [
          { option: 'A', logprob: -2 },
          { option: 'B', logprob: -0.5 },
        ],
        best: 1,
      }),
    ];
    const answer = await ask({ choices: 'score' });
    assert.deepEqual(answer, { text: 'B', finishReason: 'choice', logprobs: [-2, -0.5] });
    assert.equal(requests[0]?.url, '/v1/score');
    assert.deepEqual(requests[0]?.body.options, ['A', 'B']);
  });

  it('is waited for no longer than the run', async () => {
    behaviours = [() => {}];
    const leave = new AbortController();
    const answer = model().answer(prompt, leave.signal);
    setTimeout(() => leave.abort(new Error('enough')), 20);
    await assert.rejects(answer, /enough/);
  });

  it('has a name and an identity without the key', () => {
    const one = model();
    assert.equal(one.name, `gpt-4v @ ${new URL(baseUrl).host}`);
    assert.notEqual(one.identity, model({ request: { top_p: 1 } }).identity);
    assert.equal(one.identity, model({ apiKey: 'sk-another-key' }).identity);
    for (const address of ['ftp://a/v1', 'http://me:secret@a/v1', 'nowhere'])
      assert.throws(
        () => openAiModel({ baseUrl: address, model: 'm' }),
        (error: Error) => {
          assert.match(error.message, /expected the address of an API/);
          assert.doesNotMatch(error.message, /secret/);
          return true;
        },
      );
  });
});
