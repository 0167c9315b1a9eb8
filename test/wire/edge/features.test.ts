/** Features of pictures outlive backends, in the real Worker's object store and on the real backend's disk, and no other tenant's requests find them. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import sharp from 'sharp';
import { BackendProcess } from '../../../deploy/backend.ts';
import { type RunningEdge, startEdge } from '../../../deploy/edge.ts';
import { signatureHeaders, UNSIGNED_PAYLOAD } from '../../../shared/wire/signature.ts';
import { freePort } from '../../fixtures/free-port.ts';
import { writeRandomNano } from '../../fixtures/random-nano.ts';
import { SECRET, until } from './installation.ts';

describe('features of pictures', () => {
  let dir: string;
  let edge: RunningEdge;
  let edgePort: number;
  let backend: BackendProcess | null = null;
  let backendPort: number;
  let image: string;
  /** Of two tenants. */
  const keys = { a: 'mk_test_key_of_the_first_tenant', b: '' };

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'mantis-features-'));
    await writeRandomNano(join(dir, 'nano'));
    edgePort = await freePort();
    const pixels = { width: 57, height: 31, channels: 3 as const, background: '#36a' };
    image = `data:image/png;base64,${(await sharp({ create: pixels }).png().toBuffer()).toString('base64')}`;
    edge = await startEdge({ port: edgePort, dataDir: dir, backendSecret: SECRET, apiKey: keys.a });
    const { id } = await administer<{ id: string }>('/tenants', { name: 'b' });
    keys.b = (await administer<{ secret: string }>('/keys', { name: 'b', tenant: id })).secret;
    await startBackend('first machine');
  });
  after(async () => {
    await backend?.stop(15_000);
    await edge?.dispose();
    await rm(dir, { recursive: true, force: true });
  });

  async function administer<T>(path: string, body: object): Promise<T> {
    const headers = { authorization: `Bearer ${keys.a}`, 'content-type': 'application/json' };
    const request = { method: 'POST', headers, body: JSON.stringify(body) };
    return (await (await fetch(`${edge.url}/v1/admin${path}`, request)).json()) as T;
  }

  const isReady = () =>
    until(
      () =>
        fetch(`${edge.url}/health/ready`).then(
          ({ ok }) => ok,
          () => false,
        ),
      60_000,
      'a backend is ready',
    );

  /** A backend with a data folder of its own; a new name is a new machine. */
  async function startBackend(machine: string): Promise<void> {
    await backend?.stop(15_000);
    backendPort = await freePort();
    const env = {
      MANTIS_MODELS: `nano=${join(dir, 'nano')}`,
      MANTIS_LOG_LEVEL: 'warn',
      MANTIS_JOBS: 'off',
      // Machines choose by what they measure; features are shared by those alone that chose alike.
      MANTIS_PRECISION: 'f32',
      MANTIS_KV: 'f32',
      MANTIS_BACKEND_PORT: String(backendPort),
    };
    backend = new BackendProcess({ edgeUrl: edge.url, secret: SECRET, dataDir: join(dir, machine), env });
    await until(
      () =>
        fetch(`http://127.0.0.1:${backendPort}/health/ready`).then(
          ({ ok }) => ok,
          () => false,
        ),
      60_000,
      'the backend answers',
    );
    await isReady();
  }

  async function ask(key: keyof typeof keys): Promise<{ text: string; cachedTokens: number }> {
    const response = await fetch(`${edge.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { authorization: `Bearer ${keys[key]}`, 'content-type': 'application/json' },
      body: JSON.stringify({
        model: 'nano',
        temperature: 0,
        max_tokens: 12,
        messages: [
          {
            role: 'user',
            content: [
              { type: 'image_url', image_url: { url: image } },
              { type: 'text', text: 'How many blue squares?' },
            ],
          },
        ],
      }),
    });
    const body = (await response.json()) as {
      choices: [{ message: { content: string } }];
      usage: { prompt_tokens_details: { cached_tokens: number } };
    };
    assert.equal(response.status, 200, JSON.stringify(body));
    return { text: body.choices[0].message.content, cachedTokens: body.usage.prompt_tokens_details.cached_tokens };
  }

  /** Where pictures were found since the backend started, and how many were encoded. */
  async function counted(): Promise<Record<'memory' | 'disk' | 'objects' | 'decoded' | 'encoded', number>> {
    const text = await (await fetch(`http://127.0.0.1:${backendPort}/metrics`)).text();
    const read = (name: string) =>
      Number(
        text
          .split('\n')
          .find((line) => line.startsWith(`${name} `))
          ?.split(' ')[1],
      );
    const of = (source: string) => read(`mantis_mm_pictures{source="${source}"}`);
    return {
      memory: of('memory'),
      disk: of('disk'),
      objects: of('objects'),
      decoded: of('decoded'),
      encoded: read('mantis_encoded_images{model_name="nano"}'),
    };
  }

  const none = { memory: 0, disk: 0, objects: 0, decoded: 0, encoded: 0 };
  let expected: string;

  it('a repeated picture is found in memory', async () => {
    const first = await ask('a');
    assert.equal(first.cachedTokens, 0);
    expected = first.text;
    assert.deepEqual(await counted(), { ...none, decoded: 1, encoded: 1 });
    const again = await ask('a');
    assert.equal(again.text, expected);
    assert.ok(again.cachedTokens > 0, 'who asks again is told of it; otherwise the 0 below would say nothing');
    assert.deepEqual(await counted(), { ...none, memory: 1, decoded: 1, encoded: 1 });
  });

  it('another machine, its predecessor being gone, finds it in the object store', async () => {
    await startBackend('second machine');
    assert.equal((await ask('a')).text, expected);
    assert.deepEqual(await counted(), { ...none, objects: 1 });
  });

  it('a backend that was killed finds it on its disk', async () => {
    const written = () => metric('mantis_mm_store_writes{tier="disk"}');
    await until(async () => (await written()) === 1, 10_000, 'the disk has it');
    const killed = backend?.pid ?? assert.fail('a running backend');
    process.kill(killed, 'SIGKILL');
    await until(() => backend?.pid !== undefined && backend.pid !== killed, 10_000, 'another one starts');
    await until(
      () =>
        fetch(`http://127.0.0.1:${backendPort}/health/ready`).then(
          ({ ok }) => ok,
          () => false,
        ),
      60_000,
      'it answers',
    );
    await isReady();
    assert.equal((await ask('a')).text, expected);
    assert.deepEqual(await counted(), { ...none, disk: 1 });
  });

  it('another tenant finds nothing of it, in any tier, and is told of no cached token', async () => {
    const before = await counted();
    const { text, cachedTokens } = await ask('b');
    assert.equal(text, expected);
    assert.equal(cachedTokens, 0);
    assert.deepEqual(await counted(), { ...before, decoded: before.decoded + 1, encoded: before.encoded + 1 });
    await startBackend('third machine');
    assert.equal((await ask('b')).cachedTokens, 0);
    assert.deepEqual(await counted(), { ...none, objects: 1 }, 'what b has sent itself is there');
    assert.equal((await ask('a')).cachedTokens, 0);
    assert.deepEqual(await counted(), { ...none, objects: 2 }, 'and so is what a has sent, from a record of its own');
  });

  async function metric(name: string): Promise<number> {
    const text = await (await fetch(`http://127.0.0.1:${backendPort}/metrics`)).text();
    return Number(
      text
        .split('\n')
        .find((line) => line.startsWith(`${name} `))
        ?.split(' ')[1],
    );
  }

  it('the store takes signed bytes under plain names only', async () => {
    const name = `/internal/features/${'a'.repeat(32)}/${'0'.repeat(64)}`;
    const call = async (method: string, path: string, body: string | null, signed = body): Promise<Response> => {
      const headers = await signatureHeaders({
        secret: SECRET,
        method,
        target: path,
        body: signed,
        nowS: Date.now() / 1000,
      });
      return await fetch(edge.url + path, { method, headers, body });
    };
    assert.equal((await fetch(edge.url + name)).status, 401);
    assert.equal((await call('GET', name, null)).status, 204);
    assert.equal((await call('PUT', name, 'bytes', 'others')).status, 400);
    assert.equal((await call('PUT', name, 'bytes', UNSIGNED_PAYLOAD)).status, 401);
    assert.equal((await call('GET', name, null)).status, 204);
    assert.equal((await call('PUT', name, 'bytes')).status, 204);
    assert.equal(await (await call('GET', name, null)).text(), 'bytes');
    for (const path of [`/internal/features/a/${'0'.repeat(64)}`, `${name.slice(0, -1)}g`, `${name}%2f..%2f..`])
      assert.equal((await call('PUT', path, 'bytes')).status, 404, path);
  });
});
