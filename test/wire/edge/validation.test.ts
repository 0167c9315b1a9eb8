/** What a request is told before anything is queued: all that is wrong with it, each limit at its value and one beyond, and exactly what it takes. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { z } from 'zod';
import { InputTokens } from '../../../shared/contract/chat.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { writeRandomFamily } from '../../fixtures/random-families.ts';
import { writeRandomNano } from '../../fixtures/random-nano.ts';
import { dataUrl, imagePart, picture, textPart } from '../e2e/pictures.ts';
import { API_KEY, type Installation, startInstallation } from './installation.ts';
import { base, JSON_CASES } from './json-cases.ts';
import { ask, CHAT, chars, FUYU, NANO, NOT_IN_REQUESTS, ROWS, scoring, TOO_LONG } from './request-limits.ts';

const R = LIMITS.request;
const COUNT = '/v1/chat/completions/input_tokens';
/** No request, however odd, may keep the door busy for longer. */
const SLOW_MS = 5_000;

const Refused = z.object({
  error: z.object({
    message: z.string(),
    type: z.string(),
    param: z.string().nullable(),
    code: z.string(),
    details: z.array(z.object({ code: z.string(), param: z.string().nullable(), message: z.string() })).optional(),
  }),
});
type Envelope = z.infer<typeof Refused>['error'];

let dir: string;
let door: Installation;
/** `max_images` and the like of nano. */
let limits: { max_images: number; max_new_tokens: number; context_tokens: number };

before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'mantis-models-'));
  await writeRandomNano(join(dir, NANO));
  await writeRandomFamily(join(dir, FUYU), 'fuyu');
  door = await startInstallation({ models: { [NANO]: join(dir, NANO), [FUYU]: join(dir, FUYU) } });
  const { body } = await door.call('GET', `/v1/models/${NANO}`);
  limits = z
    .object({ limits: z.object({ max_images: z.int(), max_new_tokens: z.int(), context_tokens: z.int() }) })
    .parse(body).limits;
});
after(async () => {
  await door?.close();
  await rm(dir, { recursive: true, force: true });
});

async function post(path: string, body: unknown, headers: Record<string, string> = {}) {
  const startedAt = performance.now();
  const { status, body: answer } = await door.call('POST', path, body, headers);
  return { status, answer, ms: performance.now() - startedAt };
}

async function refused(
  path: string,
  body: unknown,
  headers?: Record<string, string>,
): Promise<{ status: number; error: Envelope }> {
  const { status, answer } = await post(path, body, headers);
  assert.ok(status >= 400 && status < 500, `${status} ${JSON.stringify(answer).slice(0, 300)}`);
  return { status, error: Refused.parse(answer).error };
}

const params = ({ details }: Envelope) => (details ?? []).map(({ param }) => param);

describe('all that is wrong', () => {
  it('with schema, parameters, model and pictures is one answer, in reading order', async () => {
    const { status, error } = await refused(CHAT, {
      max_tokens: limits.max_new_tokens + 1,
      messages: [
        { role: 'system', content: [imagePart('frame-1')] },
        {
          role: 'user',
          content: [
            textPart('look'),
            { type: 'image_url', image_url: { url: 'data:image/png;base64,@@@@' } },
            { type: 'text', text: 7 },
            imagePart('frame-1'),
            { type: 'image_url', image_url: { url: dataUrl(picture('frame-2').subarray(0, 100)) } },
          ],
          colour: 'red',
        },
      ],
      top_logprobs: 2,
      temperature: 'hot',
      model: NANO,
      stream_options: { include_usage: true },
    });
    assert.deepEqual(params(error), [
      'max_tokens',
      'messages[0].content[0].image_url',
      'messages[1].content[1].image_url',
      'messages[1].content[2].text',
      'messages[1].content[4].image_url',
      'messages[1].colour',
      'top_logprobs',
      'temperature',
      'stream_options',
    ]);
    assert.deepEqual([status, error.param, error.code], [400, 'max_tokens', 'invalid_value']);
    assert.match(error.message, /and 8 more/);
  });
  it('has the status of what comes first', async () => {
    const messages = [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'file-none' } }] }];
    assert.equal((await refused(CHAT, { model: NANO, messages, top_p: 2 })).status, 404);
    assert.equal((await refused(CHAT, { top_p: 2, model: NANO, messages })).status, 400);
    const { status, error } = await refused(CHAT, { model: 'none', messages: [], top_p: 2 });
    assert.deepEqual([status, params(error)], [404, ['model', 'messages', 'top_p']]);
  });
  it('is listed up to the published number', async () => {
    const unknown = Object.fromEntries(Array.from({ length: 130 }, (_, i) => [`f${i}`, i]));
    const { error } = await refused(CHAT, { ...ask('hi'), ...unknown });
    assert.equal(error.details?.length, R.maxReportedViolations + 1);
    assert.match(error.details?.at(-1)?.message ?? '', /^30 more/);
  });
  it('too many pictures are refused before any is opened, and beside what else is wrong', async () => {
    const broken = { type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } };
    const { error } = await refused(CHAT, ask(Array(limits.max_images + 1).fill(broken), { top_p: 2 }));
    assert.deepEqual(params(error), [`messages[0].content[${limits.max_images}].image_url`, 'top_p']);
  });
  it('at each place among good pictures is named', async () => {
    const broken = { type: 'image_url', image_url: { url: dataUrl(picture('frame-1').subarray(0, 120)) } };
    for (let bad = 0; bad < 5; bad++) {
      const content = Array.from({ length: 5 }, (_, i) => (i === bad ? broken : imagePart('frame-1')));
      const { error } = await refused(CHAT, ask(content));
      assert.deepEqual(params(error), [`messages[0].content[${bad}].image_url`]);
    }
  });
  it('with pixels that their headers praise is found when they are decoded, all of it', async () => {
    const broken = (from: number) => {
      const png = Buffer.from(picture('frame-2'));
      png.fill(0x5a, from, from + 100);
      return { type: 'image_url', image_url: { url: dataUrl(png) } };
    };
    const { error } = await refused(CHAT, ask([broken(60), imagePart('frame-1'), broken(61), textPart('x')]));
    assert.deepEqual(params(error), ['messages[0].content[0].image_url', 'messages[0].content[2].image_url']);
    const file = await door.openai.files.create({
      file: new File([Buffer.from(broken(62).image_url.url.split(',')[1] ?? '', 'base64')], 'a.png'),
      purpose: 'user_data',
    });
    const stored = await refused(CHAT, ask([textPart('x'), { type: 'image_file', image_file: { file_id: file.id } }]));
    assert.equal(stored.error.param, 'messages[0].content[1].image_file');
  });
  it('with the places of system messages', async () => {
    const say = (role: string) => ({ role, content: 'x' });
    const { error } = await refused(
      CHAT,
      ask('', { messages: [say('system'), say('user'), say('developer'), say('system')] }),
    );
    assert.deepEqual(params(error), ['messages[2].role', 'messages[3].role']);
  });
  it('with a request for scores, too', async () => {
    const { error } = await refused('/v1/score', {
      options: ['a'],
      messages: [{ role: 'user', content: 3 }],
      model: NANO,
      n: 1,
    });
    assert.deepEqual(params(error), ['options', 'messages[0].content', 'n']);
  });
});

describe('limits of a request', () => {
  it('are all tried', () => {
    const tried = new Set(ROWS.map(({ limit }) => limit));
    assert.deepEqual(
      Object.keys(R).filter((name) => !tried.has(name) && !NOT_IN_REQUESTS.has(name)),
      [],
    );
  });
  for (const { limit, body, param, at, path = CHAT, code = 'invalid_value' } of ROWS) {
    it(`${limit}: taken at its value, refused one beyond`, async () => {
      const value = (R as Record<string, unknown>)[limit] as number;
      const taken = await post(path, body(value));
      if (at === null) assert.equal(taken.status, 200, JSON.stringify(taken.answer).slice(0, 300));
      else assert.equal(Refused.parse(taken.answer).error.code, at);
      const { error } = await refused(path, body(value + 1));
      assert.equal(error.code, code);
      if (param instanceof RegExp) assert.match(error.param ?? '', param);
      else assert.equal(error.param, param);
      if (code === 'invalid_value') assert.ok(error.message.includes(String(value)), error.message);
    });
  }
  it("the model's own: pictures, new tokens, token ids", async () => {
    const images = (count: number) => ask(Array(count).fill(imagePart('frame-1')));
    assert.equal((await refused(CHAT, images(limits.max_images + 1))).error.code, 'too_many_images');
    const most = await post(CHAT, images(limits.max_images));
    assert.ok(most.status === 200 || Refused.parse(most.answer).error.code === TOO_LONG);
    const tokens = (max_tokens: number) => ask('x', { max_tokens });
    assert.equal((await post(CHAT, tokens(limits.max_new_tokens))).status, 200);
    const { error } = await refused(CHAT, tokens(limits.max_new_tokens + 1));
    assert.deepEqual([error.param, error.code], ['max_tokens', 'invalid_value']);
    const biased = await refused(CHAT, ask('x', { logit_bias: { 99999: 1 } }));
    assert.equal(biased.error.param, 'logit_bias.99999');
  });
  it('the context: taken with its last token, refused with the numbers beyond it', async () => {
    const { context_tokens: context, max_new_tokens: most } = limits;
    let text = 'blue '.repeat(context / 2);
    let count = InputTokens.parse((await post(COUNT, ask(text, { max_tokens: null }))).answer);
    while (count.input_tokens > context - 3 || count.input_tokens <= context - most) {
      text = count.input_tokens > context - 3 ? text.slice(0, -8) : `${text}blue `;
      count = InputTokens.parse((await post(COUNT, ask(text, { max_tokens: null }))).answer);
    }
    const room = context - count.input_tokens;
    assert.deepEqual([count.max_new_tokens, count.fits], [room, true]);
    assert.equal((await post(CHAT, ask(text, { max_tokens: room }))).status, 200);
    const { error } = await refused(CHAT, ask(text, { max_tokens: room + 1 }));
    assert.deepEqual([error.code, error.param], [TOO_LONG, 'max_tokens']);
    for (const number of [context, count.input_tokens, room + 1])
      assert.ok(error.message.includes(`${number}`), error.message);
    const beyond = InputTokens.parse((await post(COUNT, ask(text, { max_tokens: room + 1 }))).answer);
    assert.deepEqual([beyond.fits, beyond.max_new_tokens], [false, room]);
  });
  it('the context: text and pictures are told apart', async () => {
    const content = [imagePart('frame-1'), imagePart('frame-2'), textPart('blue '.repeat(1_000))];
    const { error } = await refused(CHAT, ask(content));
    const count = InputTokens.parse((await post(COUNT, ask(content))).answer);
    assert.equal(count.fits, false);
    assert.ok(
      error.message.includes(`${count.text_tokens} of text + 2 images: 2 x ${count.image_tokens[0]}`),
      error.message,
    );
    const far = await refused(CHAT, ask(chars(R.maxTextChars)));
    assert.match(far.error.message, /at least \d+/);
    assert.equal(far.error.code, TOO_LONG);
  });
});

describe('counts', () => {
  const text = fc.oneof(
    fc.string({ unit: 'grapheme', maxLength: 12 }),
    fc.constantFrom(
      '',
      ' ',
      '\n',
      'Which way?',
      '<image>',
      '<|eot_id|>',
      '(image 1: <Image></Image>)',
      '😀',
      'blue '.repeat(8),
    ),
  );
  const part = fc.oneof(
    { weight: 3, arbitrary: text.map(textPart) },
    fc.constantFrom('frame-1' as const, 'frame-2' as const, 'blue-triangle' as const).map(imagePart),
  );
  const turn = fc.oneof(text, fc.array(part, { minLength: 1, maxLength: 4 }));
  const conversation = fc
    .tuple(fc.option(text, { nil: null }), fc.array(fc.tuple(turn, text), { maxLength: 2 }), turn)
    .map(([system, turns, last]) => [
      ...(system === null ? [] : [{ role: 'system', content: system }]),
      ...turns.flatMap(([question, answer]) => [
        { role: 'user', content: question },
        { role: 'assistant', content: answer },
      ]),
      { role: 'user', content: last },
    ]);
  for (const model of [NANO, FUYU]) {
    it(`of ${model} are what usage says afterwards`, async () => {
      let compared = 0;
      const check = async (messages: unknown[]) => {
        const body = { model, messages, max_tokens: 1 };
        const counted = await post(COUNT, body);
        const answered = await post(CHAT, body);
        if (counted.status !== 200) return assert.equal(answered.status, counted.status);
        const count = InputTokens.parse(counted.answer);
        if (!count.fits) return assert.equal(Refused.parse(answered.answer).error.code, TOO_LONG);
        const { usage } = z
          .object({
            usage: z.object({ prompt_tokens: z.int(), prompt_tokens_details: z.object({ image_tokens: z.int() }) }),
          })
          .parse(answered.answer);
        const images = count.image_tokens.reduce((sum, tokens) => sum + tokens, 0);
        assert.deepEqual([usage.prompt_tokens, usage.prompt_tokens_details.image_tokens], [count.input_tokens, images]);
        assert.equal(count.text_tokens + images, count.input_tokens);
        compared++;
      };
      await fc.assert(fc.asyncProperty(conversation, check), {
        numRuns: process.env.MANTIS_LONG_TESTS === '1' ? 1_000 : 40,
      });
      assert.ok(compared > 12, `${compared} conversations fit`);
    });
  }
  it('of names and labels: nothing', async () => {
    const plain = InputTokens.parse((await post(COUNT, ask('x'))).answer);
    const named = {
      ...ask('x', { user: '<image>', metadata: { a: '<|eot_id|>' } }),
      messages: [{ role: 'user', name: '<image><|eot_id|>', content: 'x' }],
    };
    assert.deepEqual(InputTokens.parse((await post(COUNT, named)).answer), plain);
  });
  it('of scores: options count where they do not fit', async () => {
    const { error } = await refused('/v1/score', {
      ...scoring,
      options: ['a', 'blue '.repeat(190)],
      messages: [{ role: 'user', content: 'x '.repeat(150) }],
    });
    assert.equal(error.code, TOO_LONG);
  });
});

describe('JSON', () => {
  for (const { name, body, headers, status, code, says } of JSON_CASES) {
    it(`${name}: ${status}`, async () => {
      const send = async () => {
        const startedAt = performance.now();
        const response = await fetch(door.url + CHAT, {
          method: 'POST',
          headers: { authorization: `Bearer ${API_KEY}`, 'content-type': 'application/json', ...headers },
          body,
        });
        return { response, text: await response.text(), ms: performance.now() - startedAt };
      };
      const { response, text, ms } = await send();
      assert.equal(response.status, status, text.slice(0, 400));
      if (status !== 200) {
        const { error } = Refused.parse(JSON.parse(text));
        if (code !== undefined) assert.equal(error.code, code, text.slice(0, 400));
        if (says !== undefined) assert.match(error.message, says);
        assert.ok(text.length < 40_000, `${text.length} characters`);
      }
      // Once more, where the machine was busy with something else.
      assert.ok(ms < SLOW_MS || (await send()).ms < SLOW_MS, `${ms} ms`);
    });
  }
  it('leaves the prototypes of the door alone', async () => {
    assert.equal((await post(CHAT, ask('hi'))).status, 200);
  });

  /** A request as bytes on a socket, for what `fetch` does not send. */
  const raw = (head: string, chunks: readonly string[]): Promise<string> =>
    new Promise((resolve, reject) => {
      const { hostname, port } = new URL(door.url);
      const socket = createConnection({ host: hostname, port: Number(port) });
      let text = '';
      socket.setTimeout(5_000, () => socket.destroy());
      socket.on('data', (data) => {
        text += data.toString();
        if (text.includes('\r\n\r\n')) socket.destroy();
      });
      socket.on('error', reject);
      socket.on('close', () => resolve(text));
      socket.write(
        `POST ${CHAT} HTTP/1.1\r\nhost: ${hostname}\r\nauthorization: Bearer ${API_KEY}\r\ncontent-type: application/json\r\nconnection: close\r\n${head}\r\n\r\n`,
      );
      for (const chunk of chunks) socket.write(chunk);
    });
  it('may come in chunks', async () => {
    const body = `${base}}`;
    const chunks = [...body].map((letter) => `1\r\n${letter}\r\n`);
    assert.match(await raw('transfer-encoding: chunked', [...chunks, '0\r\n\r\n']), /^HTTP\/1.1 200 /);
  });
  it('that ends before its content-length is no request', async () => {
    const { hostname, port } = new URL(door.url);
    const status = await new Promise<string>((resolve) => {
      const socket = createConnection({ host: hostname, port: Number(port) });
      let text = '';
      socket.on('data', (data) => {
        text += data.toString();
      });
      socket.on('error', () => resolve(text));
      socket.on('close', () => resolve(text));
      socket.end(
        `POST ${CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${API_KEY}\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n${base}}`,
      );
    });
    assert.doesNotMatch(status, /^HTTP\/1.1 (5|200)/);
    assert.equal((await post(CHAT, ask('hi'))).status, 200);
  });
  it('that is refused is read to its end, and its connection lives on', async () => {
    const { hostname, port } = new URL(door.url);
    const head = (path: string) =>
      `POST ${path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${API_KEY}\r\ncontent-type: text/plain\r\ncontent-length: 200000\r\n\r\n`;
    for (const path of [CHAT, '/v1/nothing', '/v1/uploads/none/parts']) {
      const statuses = await new Promise<string[]>((resolve, reject) => {
        const socket = createConnection({ host: hostname, port: Number(port) });
        let text = '';
        const found = () => [...text.matchAll(/HTTP\/1.1 (\d+)/g)].map(([, status = '']) => status);
        socket.setTimeout(5_000, () => socket.destroy());
        socket.on('data', (data) => {
          text += data.toString();
          if (found().length === 2) socket.destroy();
        });
        socket.on('error', reject);
        socket.on('close', () => resolve(found()));
        socket.write(head(path) + 'a'.repeat(100_000));
        setTimeout(() => socket.write(`${'b'.repeat(100_000)}GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n`), 100);
      });
      assert.deepEqual(statuses, [path === CHAT ? '415' : '404', '200'], path);
    }
  });
  it('behind its content-length is not read', async () => {
    const body = `${base}}`;
    assert.match(await raw(`content-length: ${body.length}`, [`${body}garbage`]), /^HTTP\/1.1 200 /);
  });
});
