/** The official client, unchanged, against the real Worker and the real backend (with a tiny random model): what it asks for and what bad input gets. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import OpenAI, { toFile } from 'openai';
import type { ScoreResponse } from '../../../shared/contract/score.ts';
import { type Installation, MODEL, startInstallation, until } from './installation.ts';
import { type Receiver, startReceiver } from './receiver.ts';

const FOLDER = fileURLToPath(new URL('../../fixtures/pictures/', import.meta.url));
const PICTURES = readdirSync(FOLDER)
  .filter((name) => name.endsWith('.png'))
  .map((name) => readFileSync(join(FOLDER, name)));

type Content = OpenAI.Chat.ChatCompletionContentPart;
const url = (bytes: Uint8Array, mime = 'image/png') => `data:${mime};base64,${Buffer.from(bytes).toString('base64')}`;
const part = (where: string): Content => ({ type: 'image_url', image_url: { url: where } });
const text = (words: string): Content => ({ type: 'text', text: words });
const picture = (i: number) => part(url(PICTURES[i % PICTURES.length]!));

let door: Installation;
let receiver: Receiver;
let openai: OpenAI;

before(async () => {
  receiver = await startReceiver();
  door = await startInstallation({ backend: true, egressAllow: receiver.host });
  openai = door.openai;
});
after(async () => {
  await door.close();
  await receiver.close();
});

const ask = (content: Content[] | string) => ({
  model: MODEL,
  temperature: 0,
  max_tokens: 8,
  messages: [{ role: 'user' as const, content }],
});

/** Our addition to OpenAI's usage. */
const imageTokens = ({ usage }: OpenAI.Chat.ChatCompletion) =>
  (usage?.prompt_tokens_details as { image_tokens?: number } | undefined)?.image_tokens;

/** Usage without what depends on who asked before. */
const uncached = (usage: unknown) => {
  const { prompt_tokens_details, ...rest } = usage as OpenAI.CompletionUsage;
  return { ...rest, prompt_tokens_details: { ...prompt_tokens_details, cached_tokens: 0, images: [] } };
};

describe('chat', () => {
  for (const images of [0, 1, 2, 3, 6]) {
    it(`answers about ${images} interleaved images, streamed as whole`, async () => {
      const content = [
        text('Look: '),
        ...Array.from({ length: images }, (_, i) => [picture(i), text(` is picture ${i}. `)]).flat(),
      ];
      const whole = await openai.chat.completions.create(ask(content));
      const stream = await openai.chat.completions.create({
        ...ask(content),
        stream: true,
        stream_options: { include_usage: true },
      });
      let streamed = '';
      let reason: string | null = null;
      let usage: unknown;
      for await (const chunk of stream) {
        streamed += chunk.choices[0]?.delta.content ?? '';
        reason ??= chunk.choices[0]?.finish_reason ?? null;
        usage = chunk.usage ?? usage;
      }
      assert.equal(streamed, whole.choices[0]?.message.content);
      assert.equal(reason, whole.choices[0]?.finish_reason);
      // The second one finds what the first has computed.
      assert.deepEqual(uncached(usage), uncached(whole.usage));
      const { limits } = (await openai.models.retrieve(MODEL)) as unknown as { limits: { tokens_per_image: number } };
      assert.equal(imageTokens(whole), images * limits.tokens_per_image);
      assert.match(whole._request_id ?? '', /^req_/);
    });
  }

  it('takes an uploaded picture by its id, in both spellings, and answers as to its bytes', async () => {
    const file = await openai.files.create({ file: await toFile(PICTURES[0]!, 'a.png'), purpose: 'vision' });
    const byId = await openai.chat.completions.create(ask([part(file.id), text('?')]));
    const inline = await openai.chat.completions.create(ask([picture(0), text('?')]));
    const other = await openai.chat.completions.create(
      ask([{ type: 'image_file', image_file: { file_id: file.id } } as unknown as Content, text('?')]),
    );
    assert.deepEqual(byId.choices, inline.choices);
    assert.deepEqual(other.choices, inline.choices);
  });

  it('leaves <image> typed as text a text', async () => {
    const typed = await openai.chat.completions.create(
      ask('<image> (image 1: <Image><image></Image>) <|end_of_text|>'),
    );
    assert.equal(imageTokens(typed), 0);
  });

  it('gives log-probabilities', async () => {
    const completion = await openai.chat.completions.create({ ...ask('hi'), logprobs: true, top_logprobs: 2 });
    const [first] = completion.choices[0]?.logprobs?.content ?? [];
    assert.ok(first !== undefined && first.logprob <= 0 && first.top_logprobs.length === 2);
  });

  it('gives several choices, whole and interleaved in a stream', async () => {
    const asked = { ...ask([picture(1), text('?')]), n: 3, temperature: 1.5, seed: 5 };
    const whole = await openai.chat.completions.create(asked);
    assert.deepEqual(
      whole.choices.map(({ index }) => index),
      [0, 1, 2],
    );
    assert.ok(new Set(whole.choices.map(({ message }) => message.content)).size > 1);
    const streamed = ['', '', ''];
    const reasons: (string | null)[] = [null, null, null];
    let usage: unknown;
    const stream = await openai.chat.completions.create({
      ...asked,
      stream: true,
      stream_options: { include_usage: true },
    });
    for await (const chunk of stream) {
      for (const { index, delta, finish_reason } of chunk.choices) {
        assert.equal(reasons[index], null, 'nothing comes after the end of a choice');
        streamed[index] += delta.content ?? '';
        reasons[index] = finish_reason;
      }
      usage = chunk.usage ?? usage;
    }
    assert.deepEqual(
      streamed,
      whole.choices.map(({ message }) => message.content),
    );
    assert.deepEqual(
      reasons,
      whole.choices.map(({ finish_reason }) => finish_reason),
    );
    const one = await openai.chat.completions.create({ ...asked, n: 1 });
    assert.equal(one.choices[0]?.message.content, whole.choices[0]?.message.content);
    const tokens = (of: unknown) => (of as OpenAI.CompletionUsage).completion_tokens;
    assert.equal(tokens(usage), tokens(whole.usage));
    assert.ok(tokens(whole.usage) > tokens(one.usage));
  });

  it('keeps to schemas, objects, regexes and choices', async () => {
    const schema = {
      type: 'object',
      properties: { colour: { enum: ['red', 'blue'] }, count: { type: 'integer', minimum: 0, maximum: 20 } },
      required: ['colour', 'count'],
      additionalProperties: false,
    };
    const about = { ...ask([picture(0), text('What is it?')]), max_tokens: 60, temperature: 1 };
    for (let seed = 0; seed < 4; seed++) {
      const { choices } = await openai.chat.completions.create({
        ...about,
        seed,
        response_format: { type: 'json_schema', json_schema: { name: 'shape', strict: true, schema } },
      });
      assert.equal(choices[0]?.finish_reason, 'stop');
      const value = JSON.parse(choices[0]?.message.content ?? '') as { colour: string; count: number };
      assert.deepEqual(Object.keys(value), ['colour', 'count']);
      assert.ok(['red', 'blue'].includes(value.colour) && Number.isInteger(value.count) && value.count <= 20);
    }
    const { choices } = await openai.chat.completions.create({ ...about, response_format: { type: 'json_object' } });
    assert.equal(typeof JSON.parse(choices[0]?.message.content ?? ''), 'object');
    const outputs = async (structured_outputs: object) =>
      (await openai.chat.completions.create({ ...about, structured_outputs } as typeof about)).choices[0]?.message
        .content;
    assert.match((await outputs({ regex: '[a-f]{3}-\\d' })) ?? '', /^[a-f]{3}-\d$/);
    assert.ok(['left', 'right'].includes((await outputs({ choice: ['left', 'right'] })) ?? ''));
    assert.deepEqual(Object.keys(JSON.parse((await outputs({ json: schema })) ?? '')), ['colour', 'count']);
  });

  it('biases and penalties reach the sampler', async () => {
    const plain = await openai.chat.completions.create({ ...ask('hi'), logprobs: true, max_tokens: 6 });
    const changed = await openai.chat.completions.create({
      ...ask('hi'),
      max_tokens: 6,
      logit_bias: { '70': 100 },
      presence_penalty: 0.5,
      frequency_penalty: -0.5,
    });
    assert.notEqual(changed.choices[0]?.message.content, plain.choices[0]?.message.content);
  });

  it('scores options without generating', async () => {
    const messages = [{ role: 'user', content: [picture(0), text('Is it red?')] }];
    const options = ['yes', 'no', 'perhaps a little'];
    const { status, body } = await door.call('POST', '/v1/score', { model: MODEL, messages, options });
    assert.equal(status, 200, JSON.stringify(body));
    const { object, scores, best, usage } = body as ScoreResponse;
    assert.equal(object, 'score');
    assert.deepEqual(
      scores.map(({ option }) => option),
      options,
    );
    for (const { logprob, token_count } of scores) assert.ok(logprob < 0 && token_count > 0);
    assert.equal(scores[best]?.logprob, Math.max(...scores.map(({ logprob }) => logprob)));
    assert.ok(usage.prompt_tokens_details.image_tokens > 0 && usage.completion_tokens === 0);
    const one = await door.call('POST', '/v1/score', { model: MODEL, messages, options: ['yes'] });
    assert.deepEqual([one.status, (one.body as { error: { param: string } }).error.param], [400, 'options']);
  });

  it('serves several at once', async () => {
    const alone = await openai.chat.completions.create(ask([picture(1), text('?')]));
    const together = await Promise.all(
      Array.from({ length: 8 }, () => openai.chat.completions.create(ask([picture(1), text('?')]))),
    );
    for (const { choices } of together) assert.deepEqual(choices, alone.choices);
  });
});

describe('bad input', () => {
  const at = 'messages[0].content[2].image_url';
  const broken = Buffer.from(PICTURES[0]!);
  broken.fill(0xaa, broken.indexOf('IDAT') + 6, broken.indexOf('IEND') - 8);
  const third = (where: string) => [text('a'), picture(0), part(where)];
  const cases: [string, () => Promise<unknown>, number, string, string | null][] = [
    [
      'unknown model',
      () => openai.chat.completions.create({ ...ask('hi'), model: 'gpt-9' }),
      404,
      'model_not_found',
      'model',
    ],
    [
      'unknown tuned model',
      () => openai.chat.completions.create({ ...ask('hi'), model: 'ft:x:y:z:1' }),
      404,
      'model_not_found',
      'model',
    ],
    [
      'no picture',
      () => openai.chat.completions.create(ask(third(url(Buffer.from('hello'))))),
      400,
      'invalid_image_format',
      at,
    ],
    [
      'another type than declared',
      () => openai.chat.completions.create(ask(third(url(PICTURES[0]!, 'image/jpeg')))),
      400,
      'invalid_image_format',
      at,
    ],
    [
      'a type we do not take',
      () => openai.chat.completions.create(ask(third('data:image/svg+xml;base64,PHN2Zy8+'))),
      415,
      'unsupported_image_media_type',
      at,
    ],
    [
      'a cut picture',
      () => openai.chat.completions.create(ask(third(url(PICTURES[0]!.subarray(0, 120))))),
      400,
      'image_parse_error',
      at,
    ],
    ['broken pixels', () => openai.chat.completions.create(ask(third(url(broken)))), 400, 'image_parse_error', at],
    [
      'bad base64',
      () => openai.chat.completions.create(ask(third('data:image/png;base64,@@@@'))),
      400,
      'invalid_base64_image',
      at,
    ],
    [
      'an empty picture',
      () => openai.chat.completions.create(ask(third('data:image/png;base64,'))),
      400,
      'empty_image_file',
      at,
    ],
    [
      'a web address with nothing there',
      () => openai.chat.completions.create(ask(third('https://nothing.invalid/a.png'))),
      400,
      'failed_to_download_image',
      at,
    ],
    ['an unknown file', () => openai.chat.completions.create(ask(third('file-x'))), 404, 'image_file_not_found', at],
    [
      'too many pictures',
      () => openai.chat.completions.create(ask(Array.from({ length: 65 }, () => picture(0)))),
      400,
      'too_many_images',
      null,
    ],
    [
      'a picture too large',
      () => openai.chat.completions.create(ask(third(url(Buffer.alloc(11 * 2 ** 20))))),
      413,
      'image_file_too_large',
      at,
    ],
    // Making the body takes so long here that the kept connection may be closed meanwhile; the client then takes a new one.
    [
      'a body too large',
      () => openai.chat.completions.create(ask('x'.repeat(21 * 2 ** 20)), { maxRetries: 2 }),
      413,
      'request_too_large',
      null,
    ],
    [
      'a prompt too long',
      () => openai.chat.completions.create(ask('word '.repeat(2_000))),
      400,
      'context_length_exceeded',
      null,
    ],
    [
      'too many new tokens',
      () => openai.chat.completions.create({ ...ask('hi'), max_tokens: 1e6 }),
      400,
      'invalid_value',
      'max_tokens',
    ],
    ['too many choices', () => openai.chat.completions.create({ ...ask('hi'), n: 9 }), 400, 'invalid_value', 'n'],
    [
      'a bias on no token',
      () => openai.chat.completions.create({ ...ask('hi'), logit_bias: { red: 1 } }),
      400,
      'invalid_value',
      'logit_bias.red',
    ],
    [
      'a bias on a token that the model lacks',
      () => openai.chat.completions.create({ ...ask('hi'), logit_bias: { '9999999': 1 } }),
      400,
      'invalid_value',
      'logit_bias.9999999',
    ],
    [
      'a keyword that is not understood',
      () =>
        openai.chat.completions.create({
          ...ask('hi'),
          response_format: {
            type: 'json_schema',
            json_schema: { name: 'x', schema: { type: 'object', properties: { a: { not: {} } } } },
          },
        }),
      400,
      'unsupported_parameter',
      'response_format.json_schema.schema.properties.a.not',
    ],
    [
      'a schema without an end',
      () =>
        openai.chat.completions.create({
          ...ask('hi'),
          response_format: { type: 'json_schema', json_schema: { name: 'x', schema: { $ref: '#' } } },
        }),
      400,
      'invalid_value',
      'response_format.json_schema.schema.$ref',
    ],
    [
      'two kinds of structure',
      () =>
        openai.chat.completions.create({
          ...ask('hi'),
          structured_outputs: { regex: 'a', choice: ['b'] },
        } as OpenAI.Chat.ChatCompletionCreateParamsNonStreaming),
      400,
      'invalid_value',
      'structured_outputs',
    ],
    ['tools', () => openai.chat.completions.create({ ...ask('hi'), tools: [] }), 400, 'unsupported_parameter', 'tools'],
    ['an unknown file id', () => openai.files.retrieve('file-x'), 404, 'file_not_found', 'id'],
    ['an unknown job id', () => openai.fineTuning.jobs.retrieve('ftjob-x'), 404, 'job_not_found', 'id'],
    [
      'an unknown stage',
      () => openai.fineTuning.jobs.create({ model: MODEL, training_file: 'x', method: { type: 'dpo' } }),
      400,
      'invalid_value',
      'method.type',
    ],
    [
      'a picture that is none',
      async () => openai.files.create({ file: await toFile(Buffer.from('x'), 'a.png'), purpose: 'vision' }),
      400,
      'invalid_image_format',
      'file',
    ],
    [
      'an unknown purpose',
      async () => openai.files.create({ file: await toFile(Buffer.from('x'), 'a'), purpose: 'assistants' }),
      400,
      'invalid_value',
      'purpose',
    ],
  ];
  for (const [name, act, status, code, param] of cases) {
    it(`${name}: ${status} ${code}`, async () => {
      const error = await act().then(
        () => assert.fail('expected a refusal'),
        (reason: unknown) => reason,
      );
      assert.ok(error instanceof OpenAI.APIError, String(error));
      assert.deepEqual([error.status, error.code], [status, code], error.message);
      if (param !== null) assert.equal(error.param, param);
      assert.match(error.type ?? '', /_error$/);
    });
  }

  it('bad JSON: 400, and everything afterwards works', async () => {
    for (const body of ['{"model":', '', 'null', '[]', '\u0000', `${'['.repeat(100_000)}`]) {
      const answer = await door.call('POST', '/v1/chat/completions', body);
      assert.equal(answer.status, 400, body.slice(0, 20));
    }
    const { status } = await door.call('POST', '/v1/chat/completions', 'x', { 'content-type': 'text/plain' });
    assert.equal(status, 415);
    assert.equal((await openai.chat.completions.create(ask('still there?'))).object, 'chat.completion');
  });
});

describe('fine-tuning', () => {
  it('runs from the files to the tuned model, and calls back', { timeout: 180_000 }, async () => {
    const { secret } = (await door.call('POST', '/v1/webhook_endpoints', { url: `http://${receiver.host}/` })).body as {
      secret: string;
    };
    const image = await openai.files.create({ file: await toFile(PICTURES[0]!, 'a.png'), purpose: 'vision' });
    const lines = Array.from({ length: 8 }, (_, i) =>
      JSON.stringify({
        messages: [
          {
            role: 'user',
            content: [
              text('Is '),
              i % 2 === 0 ? part(image.id) : picture(i),
              text(' like '),
              picture(i + 1),
              text('?'),
            ],
          },
          { role: 'assistant', content: i % 2 === 0 ? 'yes' : 'no' },
        ],
      }),
    );
    const file = await openai.files.create({
      file: await toFile(Buffer.from(lines.join('\n')), 'train.jsonl'),
      purpose: 'fine-tune',
    });
    let job = await openai.fineTuning.jobs.create({
      model: MODEL,
      training_file: file.id,
      suffix: 'pairs',
      seed: 1,
      hyperparameters: { n_epochs: 2, batch_size: 4 },
    });
    const ended = async () => {
      job = await openai.fineTuning.jobs.retrieve(job.id);
      return ['succeeded', 'failed', 'cancelled'].includes(job.status);
    };
    const startMs = Date.now();
    await until(ended, 150_000, 'the job ends');
    console.log(`fine-tune of ${lines.length} examples: ${Date.now() - startMs} ms`);
    assert.deepEqual([job.status, job.error], ['succeeded', null]);
    assert.match(job.fine_tuned_model ?? '', /^ft:mantis-nano:local:pairs:/);
    assert.ok((job.trained_tokens ?? 0) > 0);

    const events = [];
    for await (const event of openai.fineTuning.jobs.listEvents(job.id)) events.push(event);
    assert.ok(events.some(({ type }) => type === 'metrics'));
    const checkpoints = [];
    for await (const checkpoint of openai.fineTuning.jobs.checkpoints.list(job.id)) checkpoints.push(checkpoint);
    assert.ok(checkpoints.length > 0);

    const tuned = await openai.chat.completions.create({
      ...ask([picture(0), text('?')]),
      model: job.fine_tuned_model!,
    });
    assert.equal(tuned.model, job.fine_tuned_model);
    const early = await openai.chat.completions.create({
      ...ask([picture(0), text('?')]),
      model: checkpoints[0]!.fine_tuned_model_checkpoint,
    });
    assert.equal(early.model, checkpoints[0]!.fine_tuned_model_checkpoint);

    const mine = () => receiver.received.filter(({ body }) => body.includes(job.id));
    await until(() => mine().some(({ body }) => body.includes('succeeded')), 10_000, 'the webhook arrives');
    const called = await Promise.all(mine().map(({ body, headers }) => openai.webhooks.unwrap(body, headers, secret)));
    // Its data, the first of its checkpoints, its end; in which order they arrive is not promised, only told.
    const told = called.map(({ type, data }) => ({
      type: type as string,
      ...(data as { id: string; sequence: number }),
    }));
    assert.deepEqual(
      told
        .sort((a, b) => a.id.localeCompare(b.id) || a.sequence - b.sequence)
        .map(({ type, id, sequence }) => [type, id, sequence]),
      [
        ['dataset.validated', (job as unknown as { validation: string }).validation, 1],
        ['fine_tuning.job.checkpoint', job.id, 1],
        ['fine_tuning.job.succeeded', job.id, 2],
      ],
    );
  });
});
