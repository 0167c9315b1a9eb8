/** What those who run an installation see: metrics, logs, health, models. The real Worker, and a backend that fails on demand. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { parsePrometheus } from '../../fixtures/prometheus.ts';
import { FAULT_CARD, FaultBackend } from './fault-backend.ts';
import { API_KEY, type Installation, SECRET, startInstallation, until } from './installation.ts';

const TOKEN = 'token-of-the-scraper-7c1f';
/** Stand in nothing that leaves by another way than to its receiver. */
const CANARY = { prompt: 'canary-prompt-5b1e', file: 'canary-file-93aa', picture: randomBytes(48) } as const;

let door: Installation;
let backend: FaultBackend | null = null;
let logged = '';
const write = process.stderr.write.bind(process.stderr);

before(async () => {
  // workerd's own output comes out of ours.
  process.stderr.write = ((chunk: string | Uint8Array, ...rest: never[]) => {
    logged += typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString();
    return write(chunk, ...rest);
  }) as typeof process.stderr.write;
  door = await startInstallation({ vars: { METRICS_TOKEN: TOKEN } });
});
after(async () => {
  await backend?.close();
  await door.close();
  process.stderr.write = write;
});

/** A PNG whose unused chunk holds the canary; the probe and the fault backend read no further than the header. */
function picture(mark: number): { type: string; image_url: { url: string } } {
  const chunk = (type: string, data: Buffer): Buffer => {
    const bytes = Buffer.alloc(12 + data.length);
    bytes.writeUInt32BE(data.length, 0);
    bytes.write(type, 4, 'latin1');
    data.copy(bytes, 8);
    return bytes;
  };
  const header = Buffer.from([0, 0, 0, 16, 0, 0, 0, 16, 8, 2, 0, 0, 0]);
  const bytes = Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]),
    chunk('IHDR', header),
    chunk('tEXt', Buffer.concat([CANARY.picture, Buffer.from([mark])])),
    chunk('IDAT', Buffer.from([1, 2, 3])),
    chunk('IEND', Buffer.alloc(0)),
  ]);
  return { type: 'image_url', image_url: { url: `data:image/png;base64,${bytes.toString('base64')}` } };
}

const ask = (more: object = {}) => ({
  model: FAULT_CARD.id,
  messages: [{ role: 'user', content: [{ type: 'text', text: CANARY.prompt }, picture(1), picture(2)] }],
  ...more,
});
const chat = (body: unknown) => door.call('POST', '/v1/chat/completions', body);

async function scrape(): Promise<{ text: string; of: (series: string) => number }> {
  const response = await fetch(`${door.url}/metrics`, { headers: { authorization: `Bearer ${TOKEN}` } });
  assert.equal(response.status, 200);
  const text = await response.text();
  const samples = parsePrometheus(text);
  return { text, of: (series) => samples.get(`mantis_edge_${series}`) ?? 0 };
}

/** Log lines of requests. */
const lines = () =>
  logged
    .split('\n')
    .filter((line) => line.includes('"event":"request"'))
    .map((line) => JSON.parse(line) as Record<string, unknown>);

describe('health', () => {
  it('says what is missing while no backend is there', async () => {
    const health = (await (await fetch(`${door.url}/health`)).json()) as { status: string; reasons: string[] };
    assert.equal(health.status, 'degraded');
    assert.match(health.reasons.join(), /no backend is ready since \d{4}-/);
    const ready = await fetch(`${door.url}/health/ready`);
    assert.equal(ready.status, 503);
    assert.match(((await ready.json()) as { reasons: string[] }).reasons.join(), /no backend is ready/);
    assert.equal((await fetch(`${door.url}/health/live`)).status, 200);
  });

  it('is ok once one has joined', async () => {
    backend = await FaultBackend.join(door);
    await until(async () => (await fetch(`${door.url}/health/ready`)).ok, 15_000, 'the door is ready');
    const health = (await (await fetch(`${door.url}/health`)).json()) as { status: string; models: string[] };
    assert.deepEqual([health.status, health.models], ['ok', [FAULT_CARD.id]]);
  });

  it('tells version and time', async () => {
    const version = (await (await fetch(`${door.url}/version`)).json()) as { name: string; time_ms: number };
    assert.equal(version.name, 'mantis-edge');
    assert.ok(Math.abs(version.time_ms - Date.now()) < 5_000);
  });
});

describe('models', () => {
  it('say what they can and how much', async () => {
    const { body } = await door.call('GET', `/v1/models/${FAULT_CARD.id}`);
    const { limits, capabilities } = body as { limits: Record<string, unknown>; capabilities: Record<string, unknown> };
    assert.deepEqual([limits.max_images, limits.tokens_per_image, limits.context_tokens], [20, 100, 1_000]);
    assert.deepEqual(capabilities.input_modalities, ['text', 'image']);
    assert.deepEqual(capabilities.response_formats, ['text', 'json_object', 'json_schema']);
    assert.deepEqual(capabilities.fine_tune, ['lora']);
  });

  it('can be deleted only where they are fine-tunes of one’s own', async () => {
    const served = await door.call('DELETE', `/v1/models/${FAULT_CARD.id}`);
    assert.equal(served.status, 409);
    const unknown = await door.call('DELETE', '/v1/models/ft:faulty:local:mine:0123');
    assert.equal(unknown.status, 404);
  });
});

describe('metrics', () => {
  it('are closed to who has neither the token nor a key that may', async () => {
    for (const authorization of ['', 'Bearer', `Bearer ${TOKEN}x`, `Basic ${TOKEN}`, 'Bearer mk_x']) {
      const { status } = await fetch(`${door.url}/metrics`, { headers: authorization === '' ? {} : { authorization } });
      assert.equal(status, 401, authorization);
    }
    assert.equal((await door.call('GET', '/metrics')).status, 200, 'the operator’s own key');
  });

  it('count each request once', async () => {
    const before = await scrape();
    const [REQUESTS, STREAMS, REFUSED] = [20, 5, 3];
    for (let i = 0; i < REQUESTS; i++) assert.equal((await chat(ask())).status, 200);
    for (let i = 0; i < STREAMS; i++) assert.match(String((await chat(ask({ stream: true }))).body), /\[DONE\]/);
    for (let i = 0; i < REFUSED; i++) assert.equal((await chat(ask({ temperature: 9 }))).status, 400);
    // An isolate tells once a second; a scrape in between must not count twice what it has told itself.
    for (const pauseMs of [0, 600, 1_200]) {
      await sleep(pauseMs);
      const now = await scrape();
      const more = (series: string) => now.of(series) - before.of(series);
      const route = 'method="POST",route="/v1/chat/completions"';
      assert.equal(more(`requests_total{${route},status="2xx"}`), REQUESTS + STREAMS);
      assert.equal(more(`requests_total{${route},status="4xx"}`), REFUSED);
      assert.equal(more('rejections_total{code="invalid_value"}'), REFUSED);
      assert.equal(more('images_total{model_name="faulty"}'), 2 * (REQUESTS + STREAMS));
      assert.equal(more('request_images_count{model_name="faulty"}'), REQUESTS + STREAMS);
      assert.equal(more('time_to_first_token_seconds_count{model_name="faulty"}'), REQUESTS + STREAMS);
      assert.equal(more('generation_tokens_total{model_name="faulty"}'), 2 * (REQUESTS + STREAMS));
      assert.equal(more('upstream_attempts_total{outcome="done"}'), REQUESTS + STREAMS);
    }
    const { of } = await scrape();
    assert.deepEqual(
      [of('backends{state="ready"}'), of('breakers{state="closed"}'), of('queue_length'), of('scrape_errors')],
      [1, 1, 0, 0],
    );
  });

  it('tell failures of backends by what became of the request', async () => {
    const before = await scrape();
    assert.ok(backend !== null);
    backend.behaviour = 'die_in_stream';
    const { body } = await chat(ask({ stream: true }));
    backend.behaviour = 'answer';
    assert.match(String(body), /backend_failed/);
    const now = await scrape();
    assert.equal(
      now.of('rejections_total{code="backend_failed"}') - before.of('rejections_total{code="backend_failed"}'),
      1,
    );
    assert.ok(
      now.of('upstream_attempts_total{outcome="failed"}') > before.of('upstream_attempts_total{outcome="failed"}'),
    );
  });
});

describe('logs', () => {
  it('have one line a request, with what it was and what became of it', async () => {
    const requestId = `req_of_the_log_test_${Date.now()}`;
    const post = (id: string, body: object) =>
      fetch(`${door.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { authorization: `Bearer ${API_KEY}`, 'content-type': 'application/json', 'x-request-id': id },
        body: JSON.stringify(body),
      }).then((response) => response.text());
    await post(requestId, ask({ stream: true }));
    await post(`${requestId}_bad`, { ...ask(), messages: [] });
    await until(
      () => lines().filter(({ request_id: id }) => String(id).startsWith(requestId)).length === 2,
      5_000,
      'both lines',
    );
    const [good, bad] = [requestId, `${requestId}_bad`].map((id) => lines().filter((line) => line.request_id === id));
    assert.equal(good?.length, 1);
    const { time, ms, trace_id: trace, image_bytes: bytes, first_token_ms: first, ...rest } = good?.[0] ?? {};
    assert.match(String(time), /^\d{4}-\d\d-\d\dT/);
    assert.match(String(trace), /^[0-9a-f]{32}$/);
    assert.ok(Number(ms) >= Number(first) && Number(first) >= 0 && Number(bytes) > 200);
    const expected = {
      level: 'info',
      event: 'request',
      request_id: requestId,
      method: 'POST',
      path: '/v1/chat/completions',
      route: '/v1/chat/completions',
      status: 200,
      model: 'faulty',
      stream: true,
      images: 2,
      image_pixels: 512,
      completion_tokens: 2,
      backend: 'fault-backend',
      attempts: 1,
      finish_reason: 'stop',
    };
    assert.deepEqual(Object.fromEntries(Object.keys(expected).map((key) => [key, rest[key]])), expected);
    assert.deepEqual([bad?.[0]?.status, bad?.[0]?.level, typeof bad?.[0]?.code], [400, 'info', 'string']);
  });

  it('and metrics and errors hold no secret, no picture and nothing that was written', async () => {
    const form = new FormData();
    form.set('purpose', 'user_data');
    form.set('file', new Blob([`${CANARY.file} content`]), `${CANARY.file}.bin`);
    const authorization = `Bearer ${API_KEY}`;
    await fetch(`${door.url}/v1/files`, { method: 'POST', headers: { authorization }, body: form });
    const hook = await door.call('POST', '/v1/webhook_endpoints', { url: 'https://example.com/canary-path-77' });
    const { secret: webhookSecret } = hook.body as { secret: string };
    const wrongKey = 'mk_wrong_key_canary_12345';
    const errors: string[] = [];
    for (const [body, headers] of [
      [{ ...ask(), model: 'nobody' }, {}],
      [
        {
          ...ask(),
          messages: [
            {
              role: 'user',
              content: [
                { type: 'text', text: CANARY.prompt },
                { type: 'image_url', image_url: { url: `${picture(1).image_url.url.slice(0, -40)}!` } },
              ],
            },
          ],
        },
        {},
      ],
      [ask(), { authorization: `Bearer ${wrongKey}` }],
      ['{"model": "faulty", "messages": ', {}],
    ] as const)
      errors.push(
        JSON.stringify((await door.call('POST', `/v1/chat/completions?api_key=${wrongKey}`, body, headers)).body),
      );
    assert.ok(backend !== null);
    for (const behaviour of ['die_before_start', 'refuse_context', 'end_without_finish'] as const) {
      backend.behaviour = behaviour;
      errors.push(JSON.stringify((await chat(ask())).body));
    }
    backend.behaviour = 'answer';
    await sleep(200);
    const { text } = await scrape();
    const secrets = {
      key: API_KEY,
      wrongKey,
      backendSecret: SECRET,
      token: TOKEN,
      webhookSecret,
      prompt: CANARY.prompt,
      fileName: CANARY.file,
      // Characters of the data URL that stand for bytes of the canary.
      picture: picture(1).image_url.url.slice(82, 102),
      pictureHex: CANARY.picture.toString('hex').slice(0, 24),
    };
    for (const [name, secret] of Object.entries(secrets)) {
      assert.ok(!logged.includes(secret), `the log holds ${name}`);
      assert.ok(!text.includes(secret), `the metrics hold ${name}`);
      assert.ok(!errors.join('\n').includes(secret), `an error holds ${name}`);
    }
    for (const hygiene of [/\.ts:\d/, /node_modules/, /SQLITE/i, /at \w+ \(/, /zod/i])
      assert.doesNotMatch(errors.join('\n'), hygiene);
  });
});
