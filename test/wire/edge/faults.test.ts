import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI from 'openai';
import { MantisClient } from '../../../shared/client/client.ts';
import { png } from '../../null/edge/pictures.ts';
import { FAULT_CARD, FaultBackend } from './fault-backend.ts';
import { API_KEY, type Installation, startInstallation, until } from './installation.ts';

let door: Installation;
let backend: FaultBackend;

before(async () => {
  door = await startInstallation();
});
after(() => door.close());

const ask = (content: unknown = 'hi') => ({
  model: FAULT_CARD.id,
  messages: [{ role: 'user' as const, content: content as string }],
});
const picture = (width = 8) => ({
  type: 'image_url',
  image_url: { url: `data:image/png;base64,${Buffer.from(png(width, 8)).toString('base64')}` },
});

/** Text so far and the error that ended the stream, if one did. */
async function streamed(): Promise<{ text: string; error: unknown }> {
  let text = '';
  try {
    for await (const chunk of await door.openai.chat.completions.create({ ...ask(), stream: true }))
      text += chunk.choices[0]?.delta.content ?? '';
    return { text, error: null };
  } catch (error) {
    return { text, error };
  }
}

async function refused(promise: Promise<unknown>): Promise<InstanceType<typeof OpenAI.APIError>> {
  const error = await promise.then(
    (value) => assert.fail(`expected a refusal, received ${JSON.stringify(value).slice(0, 300)}`),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof OpenAI.APIError, String(error));
  return error;
}

/**
 * How a whole answer is refused by a backend that breaks at once. One that has worked for 75 ms by then has begun its answer (edge/chat/whole.ts), which
 * a loaded machine may make of "at once" too: then it is asked again.
 */
async function refusedWhole(body: ReturnType<typeof ask>): Promise<InstanceType<typeof OpenAI.APIError>> {
  backend.pauseMs = 0;
  try {
    for (let again = 0; ; again++) {
      const answer: unknown = await door.openai.chat.completions.create(body).catch((error: unknown) => error);
      if (again < 5 && typeof answer === 'object' && answer !== null && 'error' in answer && !('status' in answer))
        continue;
      return await refused(answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer));
    }
  } finally {
    backend.pauseMs = 50;
  }
}

describe('without a backend', () => {
  it('a request is told to come back', async () => {
    const error = await refused(door.openai.chat.completions.create(ask()));
    assert.deepEqual([error.status, error.code, error.headers?.get('retry-after')], [503, 'no_backend', '2']);
    assert.equal((await fetch(`${door.url}/health/ready`)).status, 503);
    assert.equal((await fetch(`${door.url}/health/live`)).status, 200);
  });
});

describe('a failing backend', () => {
  before(async () => {
    backend = await FaultBackend.join(door);
  });
  after(() => backend.close());

  it('answers when it does not fail', async () => {
    backend.behaviour = 'answer';
    const completion = await door.openai.chat.completions.create(ask());
    assert.equal(completion.choices[0]?.message.content, 'Hello');
    assert.deepEqual(completion.usage, {
      prompt_tokens: 5,
      completion_tokens: 2,
      total_tokens: 7,
      prompt_tokens_details: { cached_tokens: 0, image_tokens: 0 },
    });
    assert.deepEqual(await streamed(), { text: 'Hello', error: null });
  });

  for (const behaviour of ['die_in_stream', 'end_without_finish'] as const) {
    it(`${behaviour}: the stream ends with an error, a whole answer is a 502`, async () => {
      backend.behaviour = behaviour;
      const { text, error } = await streamed();
      assert.ok(text.startsWith('Hel'), text);
      assert.ok(error instanceof OpenAI.APIError, String(error));
      assert.equal(error.code, 'backend_failed');
      const whole = await refusedWhole(ask());
      assert.deepEqual([whole.status, whole.code], [502, 'backend_failed']);
    });
  }

  it('a whole answer that has begun when it breaks for good has the error in its place', async () => {
    backend.behaviour = 'die_in_stream';
    backend.pauseMs = 500;
    try {
      const { status, body } = await door.call('POST', '/v1/chat/completions', ask());
      assert.deepEqual([status, (body as { error: { code: string } }).error.code], [200, 'backend_failed']);
    } finally {
      backend.pauseMs = 50;
    }
  });

  it('is seen by our own client too', async () => {
    backend.behaviour = 'die_in_stream';
    const client = new MantisClient({ baseUrl: door.url, apiKey: API_KEY });
    let text = '';
    await assert.rejects(async () => {
      for await (const chunk of client.chat.stream(ask())) text += chunk.choices[0]?.delta.content ?? '';
    }, /stopped before the answer was complete/);
    assert.equal(text, 'Hel');
  });

  it('refusals become plain HTTP errors in the words of the request', async () => {
    for (const [behaviour, code, stream] of [
      ['refuse_context', 'context_length_exceeded', false],
      ['refuse_context', 'context_length_exceeded', true],
      ['error_first', 'image_parse_error', true],
      ['error_later', 'image_parse_error', false],
    ] as const) {
      backend.behaviour = behaviour;
      const content = [{ type: 'text', text: 'a' }, picture()];
      const error = await (stream
        ? refused(door.openai.chat.completions.create({ ...ask(content), stream }))
        : refusedWhole(ask(content)));
      assert.deepEqual(
        [error.status, error.code, error.param],
        [400, code, 'messages[0].content[1].image_url'],
        `${behaviour} ${stream}`,
      );
      assert.doesNotMatch(error.message, /parts/);
    }
  });

  it('a busy or dying one is tried again, then the request is given back', async () => {
    for (const behaviour of ['refuse_busy', 'die_before_start'] as const) {
      backend.behaviour = behaviour;
      const error = await refused(door.openai.chat.completions.create(ask()));
      assert.equal(error.status, 503, behaviour);
      assert.ok(Number(error.headers?.get('retry-after')) >= 1);
    }
  });

  it('another one takes over', async () => {
    backend.behaviour = 'die_before_start';
    const other = await FaultBackend.join(door, 'other', 3);
    await sleep(600);
    try {
      const completion = await door.openai.chat.completions.create(ask());
      assert.equal(completion.choices[0]?.message.content, 'Hello');
      assert.equal(other.seen.length, 1);
    } finally {
      await other.report('heartbeat', 'draining');
      await other.close();
      await sleep(600);
    }
  });

  for (const stream of [true, false]) {
    it(`a client that hangs up frees it, ${stream ? 'streaming' : 'waiting for the whole'}`, async () => {
      backend.behaviour = 'endless';
      backend.aborted = 0;
      const abort = new AbortController();
      const response = await fetch(`${door.url}/v1/chat/completions`, {
        method: 'POST',
        signal: abort.signal,
        headers: { authorization: `Bearer ${API_KEY}`, 'content-type': 'application/json' },
        body: JSON.stringify({ ...ask(), stream }),
      });
      await response.body?.getReader().read();
      abort.abort();
      const startMs = Date.now();
      await until(() => backend.aborted === 1, 15_000, 'the backend sees the hang-up');
      console.log(`hang-up seen after ${Date.now() - startMs} ms`);
    });
  }
});

describe('what reaches a backend', () => {
  before(async () => {
    backend = await FaultBackend.join(door);
    // The isolate reads the list of backends anew every half second.
    await sleep(1_000);
  });
  after(() => backend.close());

  it('is signed, has pictures as bytes, equal ones once, and text as text', async () => {
    backend.behaviour = 'answer';
    backend.seen.length = 0;
    const content = [{ type: 'text', text: 'a <image> b' }, picture(8), picture(9), picture(8)];
    await door.openai.chat.completions.create({
      ...ask(content),
      max_tokens: 7,
      temperature: 0,
      stop: 'x',
      logprobs: true,
      top_logprobs: 2,
    });
    const [{ request, blobs }] = backend.seen as [(typeof backend.seen)[0]];
    assert.deepEqual(request.messages, [
      {
        role: 'user',
        parts: [
          { type: 'text', text: 'a <image> b' },
          { type: 'image', blob: 0 },
          { type: 'image', blob: 1 },
          { type: 'image', blob: 0 },
        ],
      },
    ]);
    assert.deepEqual(request.sampling, { maxTokens: 7, temperature: 0, topP: 1, stop: ['x'], logprobs: 2 });
    assert.deepEqual(
      blobs.map((blob) => [...blob]),
      [[...png(8, 8)], [...png(9, 8)]],
    );
  });

  it('fits: images are counted against limit and context before', async () => {
    backend.seen.length = 0;
    const pictures = (n: number) => Array.from({ length: n }, (_, i) => picture(8 + i));
    const tooMany = await refused(door.openai.chat.completions.create(ask(pictures(21))));
    assert.deepEqual(
      [tooMany.status, tooMany.code, tooMany.param],
      [400, 'too_many_images', 'messages[0].content[20].image_url'],
    );
    assert.match(tooMany.message, /at most 20 .* received 21/);
    const noRoom = await refused(door.openai.chat.completions.create(ask(pictures(10))));
    assert.deepEqual([noRoom.status, noRoom.code], [400, 'context_length_exceeded']);
    assert.match(noRoom.message, /1000 tokens .* 10 images: 10 x 100\)/);
    await door.openai.chat.completions.create(ask(pictures(9)));
    assert.equal(backend.seen.length, 1);
  });
});

describe('the inner door', () => {
  it('refuses everything that is not signed, and API keys', async () => {
    for (const [method, path] of [
      ['POST', '/internal/backends/register'],
      ['POST', '/internal/jobs/claim'],
      ['POST', '/internal/jobs/x/finish'],
      ['PUT', '/internal/jobs/x/checkpoints/1/a'],
      ['GET', '/internal/files/x/content'],
      ['GET', '/internal/models/x'],
      ['GET', '/internal/nothing'],
    ] as const) {
      const { status } = await door.call(method, path, method === 'GET' ? undefined : {});
      assert.equal(status, 401, `${method} ${path}`);
    }
  });

  it('takes no API key but a stored one', async () => {
    for (const authorization of [
      '',
      'Bearer',
      'Bearer nope',
      `Basic ${API_KEY}`,
      `Bearer ${API_KEY}x`,
      `Bearer ${API_KEY} x`,
    ]) {
      const { status, body } = await door.call('GET', '/v1/models', undefined, { authorization });
      assert.equal(status, 401, authorization);
      assert.equal((body as { error: { code: string } }).error.code, 'invalid_api_key');
    }
  });
});
