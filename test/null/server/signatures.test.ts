/** The backend's door: every route of its router, closed to what the edge did not sign for it, now and once. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { pino } from 'pino';
import { createApp } from '../../../gpu-backend/server/app.ts';
import { BlobCache } from '../../../gpu-backend/server/blob-cache.ts';
import { createMetrics } from '../../../gpu-backend/server/metrics.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { encodeFrame } from '../../../shared/wire/frame.ts';
import { signatureHeaders } from '../../../shared/wire/signature.ts';

const secret = 'a secret of the test, long enough';
const audience = 'backend-one';
const OPEN = new Set(['/health', '/health/live', '/health/ready', '/metrics']);
const CASES = process.env.MANTIS_LONG_TESTS === '1' ? 10_000 : 1_000;
const toleranceS = LIMITS.backends.signatureToleranceS;

function backend(id = audience, secrets = secret, knownSinceMs?: () => number | null) {
  const stats = async () => ({
    models: [],
    cache: { bytes: 0, entries: 0, queries: 0, hits: 0, evictions: 0 },
    pictures: { asked: 0, memory: 0, disk: 0, objects: 0, decoded: 0 },
    featureTiers: [],
  });
  const unused = () => assert.fail('a refused call reached the engine');
  let wakes = 0;
  const app = createApp({
    edge: null,
    service: { cards: () => [], inFlight: 0, generate: unused, count: unused, score: unused, stats },
    metrics: createMetrics(stats),
    log: pino({ level: 'silent' }),
    secret: secrets,
    audience: id,
    knownSinceMs,
    blobs: new BlobCache(1 << 20),
    maxInFlight: 4,
    isDraining: () => false,
    onWake: () => wakes++,
  });
  return { app, wakes: () => wakes };
}

type Call = {
  method: string;
  path: string;
  body: string | Uint8Array<ArrayBuffer> | null;
  headers: Record<string, string>;
};
const signed = async (changes: Partial<Parameters<typeof signatureHeaders>[0]> = {}): Promise<Call> => {
  const options = {
    secret,
    audience,
    method: 'POST',
    target: '/v1/wake',
    body: '',
    nowS: Date.now() / 1000,
    ...changes,
  };
  return {
    method: options.method,
    path: options.target,
    body: options.body as string,
    headers: await signatureHeaders(options),
  };
};

describe("the backend's door", () => {
  const send = (app: ReturnType<typeof backend>['app'], { method, path, body, headers }: Call) =>
    app.request(path, { method, headers, ...(body === null || method === 'GET' ? {} : { body }) });

  it('opens to a good call, and to that call once', async () => {
    const { app, wakes } = backend();
    const call = await signed();
    assert.equal((await send(app, call)).status, 202);
    for (let i = 0; i < 5; i++) {
      const again = await send(app, call);
      assert.equal(again.status, 401);
      assert.match(await again.text(), /nonce that was not used before/);
    }
    assert.equal(wakes(), 1);
  });

  it('takes a call for itself only: not at another backend, nor after a restart under another id', async () => {
    const call = await signed();
    assert.equal((await send(backend('backend-two').app, call)).status, 401);
    const renamed = { ...call, headers: { ...call.headers, 'x-mantis-audience': 'backend-two' } };
    assert.equal((await send(backend('backend-two').app, renamed)).status, 401);
    const { 'x-mantis-audience': _, ...bare } = call.headers;
    assert.equal((await send(backend().app, { ...call, headers: bare })).status, 401);
  });

  it('takes nothing before the edge has heard of it, and nothing that was signed for an earlier run of the same name', async () => {
    let sinceMs: number | null = null;
    const { app } = backend(audience, secret, () => sinceMs);
    assert.equal((await send(app, await signed())).status, 503, 'to be sent elsewhere');
    // The edge's clock is 30 s behind ours.
    sinceMs = Date.now() - 30_000;
    const nowS = Date.now() / 1000 - 30;
    assert.equal((await send(app, await signed({ nowS }))).status, 202);
    assert.equal((await send(app, await signed({ nowS: nowS - 3 }))).status, 401);
  });

  it('allows clocks to differ by the tolerance and no more', async () => {
    const { app } = backend();
    const nowS = Date.now() / 1000;
    for (const [offsetS, status] of [
      [-30, 202],
      [30, 202],
      [-(toleranceS - 2), 202],
      [toleranceS + 2, 401],
      [-(toleranceS + 1), 401],
      [86_400, 401],
    ] as const)
      assert.equal((await send(app, await signed({ nowS: nowS + offsetS }))).status, status, `${offsetS} s`);
  });

  it('takes both secrets while they change', async () => {
    const { app } = backend(audience, `the new one of the test,${secret}`);
    assert.equal((await send(app, await signed())).status, 202);
    assert.equal((await send(app, await signed({ secret: 'the new one of the test' }))).status, 202);
    assert.equal((await send(app, await signed({ secret: 'the' }))).status, 401);
  });

  it('is closed on every route and method of its router, and at paths that it does not have', async () => {
    const { app } = backend();
    const paths = [...new Set(app.routes.filter(({ method }) => method !== 'ALL').map(({ path }) => path))];
    assert.ok(paths.length >= 8);
    const guesses = [
      '/',
      '//v1/generate',
      '/v1//generate',
      '/V1/generate',
      '/v1/generate/',
      '/v1%2fgenerate',
      '/v1/%67enerate',
      '/v1/generate.',
      '/metrics/',
      '/metrics/x',
      '/health/',
      '/health/x',
      '/health/live/../../v1/models',
      '/debug',
      '/pause',
      '/invocations',
      '/tokenize',
      '/v1/load_lora_adapter',
      '/internal/jobs/claim',
      '/v1/admin',
    ];
    for (const path of [...paths.filter((path) => !OPEN.has(path)), ...guesses]) {
      for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
        const replayed = await signed({ method: 'POST', target: '/v1/wake' });
        for (const [name, headers] of [
          ['nothing', {}],
          ['a key', { authorization: 'Bearer mk_something' }],
          ['a call signed for another path', replayed.headers],
          ['zeros', { ...replayed.headers, 'x-mantis-signature': `v2=${'0'.repeat(64)}` }],
          ['the old version', { ...replayed.headers, 'x-mantis-signature': `v1=${'0'.repeat(64)}` }],
          [
            'overrides',
            { 'x-http-method-override': 'GET', 'x-original-url': '/health', 'x-forwarded-for': '127.0.0.1' },
          ],
        ] as const) {
          if (path === '/v1/wake' && method === 'POST' && name === 'a call signed for another path') continue;
          const { status } = await app.request(path, { method, headers });
          assert.equal(status, 401, `${method} ${path} with ${name}`);
        }
      }
    }
  });

  it(`refuses ${CASES} calls of which one thing was changed`, async () => {
    const { app, wakes } = backend();
    const body = encodeFrame({ a: 1, blobs: [] }, []);
    let seed = 7;
    const random = (below: number) => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
      return Math.floor((seed / 4_294_967_296) * below);
    };
    const flip = (text: string) => {
      const at = random(text.length);
      const other = '0123456789abcdef'.replace(text.charAt(at), '').charAt(random(15));
      return text.slice(0, at) + other + text.slice(at + 1);
    };
    const changes: ((call: Call) => Call)[] = [
      (call) => ({ ...call, method: 'PUT' }),
      (call) => ({ ...call, path: `${call.path}?x=${random(1000)}` }),
      (call) => ({ ...call, path: '/v1/count' }),
      (call) => ({ ...call, body: new Uint8Array([...(call.body as Uint8Array), random(256)]) }),
      (call) => {
        const bytes = new Uint8Array(call.body as Uint8Array);
        bytes[random(bytes.length)]! ^= 1 << random(8);
        return { ...call, body: bytes };
      },
      ...[
        'x-mantis-timestamp',
        'x-mantis-nonce',
        'x-mantis-body-sha256',
        'x-mantis-signature',
        'x-mantis-audience',
      ].flatMap((name): ((call: Call) => Call)[] => [
        (call) => ({ ...call, headers: { ...call.headers, [name]: flip(call.headers[name] ?? '') } }),
        (call) => ({ ...call, headers: { ...call.headers, [name]: '' } }),
        (call) => ({ ...call, headers: { ...call.headers, [name]: `${call.headers[name]}, ${call.headers[name]}` } }),
      ]),
      (call) => ({ ...call, headers: { ...call.headers, 'x-mantis-body-sha256': 'UNSIGNED-PAYLOAD' } }),
    ];
    for (let i = 0; i < CASES; i++) {
      const call = await signed({ target: '/v1/generate', body });
      const change = changes[i % changes.length]!;
      const { status } = await send(app, change(call));
      assert.equal(status, 401, `case ${i}: ${change}`);
    }
    assert.equal(wakes(), 0);
  });
});
