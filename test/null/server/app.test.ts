import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { pino } from 'pino';
import type { ModelService } from '../../../gpu-backend/engine/service.ts';
import { createApp } from '../../../gpu-backend/server/app.ts';
import { BlobCache } from '../../../gpu-backend/server/blob-cache.ts';
import { createMetrics } from '../../../gpu-backend/server/metrics.ts';
import type { GenerateEvent, GenerateRequest } from '../../../shared/contract/backend.ts';
import { ApiError } from '../../../shared/contract/errors.ts';
import { encodeFrame, FRAME_TYPE } from '../../../shared/wire/frame.ts';
import { signatureHeaders } from '../../../shared/wire/signature.ts';
import { decodeSse } from '../../../shared/wire/sse.ts';

const secret = 'a secret of the test, long enough';
const usage = { promptTokens: 3, completionTokens: 2, imageTokens: 0, cachedTokens: 0 };

/** A service whose answers are scripted, to see what the routes make of each way an answer can go. */
function scripted(script: (signal: AbortSignal) => AsyncGenerator<GenerateEvent, void, undefined>) {
  const service: ModelService = {
    cards: () => [],
    inFlight: 0,
    generate: (_request, _blobs, signal) => script(signal),
    count: async () => ({ promptTokens: 3, imageTokens: [] }),
    score: async ({ options }) => ({
      scores: options.map((option) => ({ logprob: -option.length, tokens: 1 })),
      usage,
    }),
    stats: async () => ({
      models: [],
      cache: { bytes: 0, entries: 0, queries: 0, hits: 0, evictions: 0 },
      pictures: { asked: 0, memory: 0, disk: 0, objects: 0, decoded: 0 },
      featureTiers: [],
    }),
  };
  let draining = false;
  const app = createApp({
    edge: null,
    service,
    metrics: createMetrics(service.stats),
    log: pino({ level: 'silent' }),
    secret,
    blobs: new BlobCache(1 << 20),
    maxInFlight: 4,
    isDraining: () => draining,
    onWake: () => {},
  });
  const call = async (method: string, path: string, body: Uint8Array | null, changes: Record<string, string> = {}) =>
    app.request(path, {
      method,
      ...(body === null ? {} : { body: body as Uint8Array<ArrayBuffer> }),
      headers: {
        'content-type': FRAME_TYPE,
        ...(await signatureHeaders({ secret, method, target: path, body, nowS: Date.now() / 1000 })),
        ...changes,
      },
    });
  return { app, call, drain: () => (draining = true) };
}

async function* ordinary(): AsyncGenerator<GenerateEvent, void, undefined> {
  yield { type: 'started', promptTokens: 3, imageTokens: [] };
  yield { type: 'delta', index: 0, text: 'two' };
  yield { type: 'finished', index: 0, finishReason: 'stop', usage };
}

const request: GenerateRequest = {
  requestId: 'req_1',
  model: 'm',
  messages: [{ role: 'user', parts: [{ type: 'text', text: 'hi' }] }],
  sampling: { maxTokens: 4, temperature: 0, topP: 1, stop: [] },
  deadlineMs: 1000,
};
const frame = (header: object = request) => encodeFrame({ ...header, blobs: [] }, []);

async function eventsOf(response: Response): Promise<GenerateEvent[]> {
  const events: GenerateEvent[] = [];
  for await (const { data } of decodeSse(response.body!)) events.push(JSON.parse(data) as GenerateEvent);
  return events;
}

async function errorOf(
  response: Response,
): Promise<{ status: number; code: string; message: string; param: string | null }> {
  return ((await response.json()) as { error: { status: number; code: string; message: string; param: string | null } })
    .error;
}

describe('backend routes', () => {
  it('every route but health is closed to unsigned calls', async () => {
    const { app } = scripted(ordinary);
    const open = new Set(['/health', '/health/live', '/health/ready', '/metrics']);
    const routes = app.routes.filter(({ method, path }) => method !== 'ALL' && !open.has(path));
    assert.ok(routes.length >= 4);
    for (const { method, path } of [...routes, { method: 'GET', path: '/no/such/route' }]) {
      const response = await app.request(path, { method });
      assert.equal(response.status, 401, `${method} ${path}`);
      assert.equal((await errorOf(response)).code, 'invalid_signature');
    }
    assert.equal((await app.request('/health/live')).status, 200);
  });

  it('a signature is for one method, path, time and body', async () => {
    const { app, call } = scripted(ordinary);
    const body = frame();
    const old = await signatureHeaders({
      secret,
      method: 'POST',
      target: '/v1/count',
      body,
      nowS: Date.now() / 1000 - 301,
    });
    const other = await signatureHeaders({
      secret,
      method: 'POST',
      target: '/v1/generate',
      body,
      nowS: Date.now() / 1000,
    });
    for (const headers of [old, other])
      assert.equal((await app.request('/v1/count', { method: 'POST', body, headers })).status, 401);
    const good = await signatureHeaders({ secret, method: 'POST', target: '/v1/count', body, nowS: Date.now() / 1000 });
    const changed = frame({ ...request, model: 'n' });
    assert.equal((await app.request('/v1/count', { method: 'POST', body: changed, headers: good })).status, 401);
    assert.equal((await call('POST', '/v1/count', body)).status, 200);
  });

  it('streams the events in order', async () => {
    const response = await scripted(ordinary).call('POST', '/v1/generate', frame());
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('content-type'), 'text/event-stream');
    assert.deepEqual(
      (await eventsOf(response)).map(({ type }) => type),
      ['started', 'delta', 'finished'],
    );
  });

  it('what is refused before it starts is an HTTP error with the contract’s fields', async () => {
    const { call } = scripted(async function* () {
      yield* [];
      throw new ApiError('context_length_exceeded', 'too long', { param: 'messages' });
    });
    const response = await call('POST', '/v1/generate', frame());
    assert.equal(response.status, 400);
    assert.deepEqual(await errorOf(response), {
      status: 400,
      code: 'context_length_exceeded',
      type: 'invalid_request_error',
      message: 'too long',
      param: 'messages',
    });
  });

  it('a failure after the start is an error event that does not leak its text', async () => {
    const { call } = scripted(async function* () {
      yield { type: 'started', promptTokens: 3, imageTokens: [] };
      throw new Error('/secret/path exploded');
    });
    const events = await eventsOf(await call('POST', '/v1/generate', frame()));
    const last = events.at(-1);
    assert.ok(last?.type === 'error' && last.error.status === 500);
    assert.doesNotMatch(last.error.message, /secret/);
  });

  it('closing the stream aborts the generation', async () => {
    let aborted = false;
    let returned = false;
    const { call } = scripted(async function* (signal) {
      signal.addEventListener('abort', () => (aborted = true));
      try {
        yield { type: 'started', promptTokens: 3, imageTokens: [] };
        for (;;) {
          yield { type: 'delta', index: 0, text: 'x' };
          await new Promise((resolve) => setTimeout(resolve, 1));
        }
      } finally {
        returned = true;
      }
    });
    const response = await call('POST', '/v1/generate', frame());
    const reader = response.body!.getReader();
    for (let i = 0; i < 3; i++) await reader.read();
    await reader.cancel();
    assert.ok(aborted && returned);
  });

  const bad: [string, Uint8Array, RegExp][] = [
    ['an empty body', new Uint8Array(0), /at least 4 bytes/],
    ['a header that is no JSON', Uint8Array.of(1, 0, 0, 0, 0x7b), /JSON header/],
    ['a header that lies about its length', Uint8Array.of(255, 255, 255, 255), /header of 4294967295 bytes/],
    [
      'a wrong field',
      frame({ ...request, sampling: { ...request.sampling, temperature: 'hot' } }),
      /sampling\.temperature/,
    ],
    ['an unknown role', frame({ ...request, messages: [{ role: 'tool', parts: [] }] }), /messages\[0\]\.role/],
  ];
  for (const [name, body, message] of bad)
    it(`${name} is a 400 that names it`, async () => {
      const response = await scripted(ordinary).call('POST', '/v1/generate', body);
      assert.equal(response.status, 400);
      assert.match((await errorOf(response)).message, message);
    });

  it('while draining, new requests are told to go elsewhere and readiness is down', async () => {
    const { call, drain, app } = scripted(ordinary);
    drain();
    const response = await call('POST', '/v1/generate', frame());
    assert.equal(response.status, 503);
    assert.equal(response.headers.get('retry-after'), '1');
    assert.equal((await app.request('/health/ready')).status, 503);
    assert.equal((await app.request('/health/live')).status, 200);
  });
});
