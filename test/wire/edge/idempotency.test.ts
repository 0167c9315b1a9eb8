/** What is sent twice is done once: at the real door, with races. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import OpenAI, { toFile } from 'openai';
import { MantisClient } from '../../../shared/client/client.ts';
import { FAULT_CARD, FaultBackend } from './fault-backend.ts';
import { beginPost } from './hang-up.ts';
import { API_KEY, type Installation, startInstallation, until } from './installation.ts';

let door: Installation;
let backend: FaultBackend;

before(async () => {
  door = await startInstallation();
  backend = await FaultBackend.join(door);
});
after(async () => {
  await backend.close();
  await door.close();
});

const ask = (content = 'hi', more: object = {}) => ({
  model: FAULT_CARD.id,
  messages: [{ role: 'user' as const, content }],
  ...more,
});
const keyed = (key: string) => ({ 'idempotency-key': key });
const authorization = `Bearer ${API_KEY}`;

/** A multipart upload; each one draws its own boundary. */
async function upload(
  text: string,
  headers: Record<string, string>,
): Promise<{ status: number; headers: Headers; body: { id: string } }> {
  const form = new FormData();
  form.set('purpose', 'user_data');
  form.set('file', new File([text], 'a.txt'));
  const response = await fetch(`${door.url}/v1/files`, {
    method: 'POST',
    headers: { authorization, ...headers },
    body: form,
  });
  return { status: response.status, headers: response.headers, body: (await response.json()) as { id: string } };
}

const listed = async () => ((await door.call('GET', '/v1/files?limit=100')).body as { data: { id: string }[] }).data;
const code = (answer: { body: unknown }) => (answer.body as { error?: { code: string } }).error?.code;

describe('with an Idempotency-Key', () => {
  it('50 uploads at once make one file, and later ones get its answer', async () => {
    const before = (await listed()).length;
    const answers = await Promise.all(Array.from({ length: 50 }, () => upload('one text', keyed('upload-1'))));
    const made = answers.filter(({ status }) => status === 200);
    assert.ok(made.length >= 1);
    for (const answer of answers) {
      if (answer.status === 200) continue;
      assert.deepEqual([answer.status, code(answer)], [409, 'idempotency_in_progress']);
      assert.equal(answer.headers.get('x-should-retry'), 'true');
      assert.ok(Number(answer.headers.get('retry-after-ms')) > 0);
    }
    assert.equal(new Set(made.map(({ body }) => body.id)).size, 1);
    assert.equal((await listed()).length, before + 1);
    const again = await upload('one text', keyed('upload-1'));
    assert.deepEqual(
      [again.status, again.body.id, again.headers.get('idempotent-replayed')],
      [200, made[0]?.body.id, 'true'],
    );
  });

  it('the official client waits for the first of its requests', async () => {
    const openai = new OpenAI({ apiKey: API_KEY, baseURL: `${door.url}/v1`, maxRetries: 5 });
    const files = await Promise.all(
      Array.from({ length: 5 }, async () =>
        openai.files.create(
          { file: await toFile(Buffer.from('x'), 'x.txt'), purpose: 'user_data' },
          { headers: keyed('official') },
        ),
      ),
    );
    assert.equal(new Set(files.map(({ id }) => id)).size, 1);
  });

  it('another body or path is refused, in JSON and in uploads', async () => {
    const first = await door.call('POST', '/v1/chat/completions', ask('a'), keyed('k1'));
    assert.equal(first.status, 200);
    const other = await door.call('POST', '/v1/chat/completions', ask('b'), keyed('k1'));
    assert.deepEqual(
      [other.status, code(other), other.headers.get('x-should-retry')],
      [422, 'idempotency_mismatch', 'false'],
    );
    const path = await door.call('POST', '/v1/score', { ...ask('a'), options: ['x', 'y'] }, keyed('k1'));
    assert.equal(path.status, 422);
    assert.equal((await upload('other text', keyed('upload-1'))).status, 422);
  });

  it('answers are repeated word for word, whole and as streams, without the backend', async () => {
    for (const stream of [false, true]) {
      const asked = async () => {
        const response = await fetch(`${door.url}/v1/chat/completions`, {
          method: 'POST',
          headers: { authorization, 'content-type': 'application/json', ...keyed(`chat-${stream}`) },
          body: JSON.stringify(ask('again', { stream })),
        });
        return { response, text: await response.text() };
      };
      const first = await asked();
      assert.equal(first.response.status, 200, first.text);
      const seen = backend.seen.length;
      const second = await asked();
      assert.equal(second.text, first.text);
      assert.equal(second.response.headers.get('content-type'), first.response.headers.get('content-type'));
      assert.equal(second.response.headers.get('idempotent-replayed'), 'true');
      assert.notEqual(second.response.headers.get('x-request-id'), first.response.headers.get('x-request-id'));
      assert.equal(backend.seen.length, seen);
    }
  });

  it('what failed or was refused may be sent again', async () => {
    for (const behaviour of ['error_first', 'die_in_stream', 'end_without_finish'] as const) {
      for (const stream of [false, true]) {
        backend.behaviour = behaviour;
        const key = `fails-${behaviour}-${stream}`;
        await door.call('POST', '/v1/chat/completions', ask('x', { stream }), keyed(key));
        backend.behaviour = 'answer';
        await until(
          async () =>
            (await door.call('POST', '/v1/chat/completions', ask('x', { stream }), keyed(key))).status === 200,
          15_000,
          `${key} is answered`,
        );
      }
    }
    assert.equal((await door.call('POST', '/v1/chat/completions', { model: 5 }, keyed('bad'))).status, 400);
    assert.equal((await door.call('POST', '/v1/chat/completions', ask(), keyed('bad'))).status, 200);
  });

  it('a stream that was given up leaves nothing', async () => {
    backend.behaviour = 'endless';
    const headers = { authorization, ...keyed('given-up') };
    const given = await beginPost(`${door.url}/v1/chat/completions`, headers, ask('x', { stream: true }));
    given.close();
    backend.behaviour = 'answer';
    await until(
      async () =>
        (await door.call('POST', '/v1/chat/completions', ask('x', { stream: true }), keyed('given-up'))).status === 200,
      5_000,
      'the key is free again',
    );
  });

  it('large uploads and bodies of unknown length are compared as they are read', async () => {
    const text = 'large '.repeat(3_000_000);
    const first = await upload(text, keyed('large'));
    assert.equal(first.status, 200);
    const again = await upload(text, keyed('large'));
    assert.deepEqual(
      [again.status, again.body.id, again.headers.get('idempotent-replayed')],
      [200, first.body.id, 'true'],
    );
    assert.equal((await upload(`${text}!`, keyed('large'))).status, 422);
    const chunked = async (content: string) => {
      const body = new Blob([JSON.stringify(ask(content))]).stream();
      const headers = { authorization, 'content-type': 'application/json', ...keyed('chunked') };
      return (await fetch(`${door.url}/v1/chat/completions`, { method: 'POST', headers, body, duplex: 'half' })).status;
    };
    assert.deepEqual([await chunked('a'), await chunked('a'), await chunked('b')], [200, 200, 422]);
  });

  it('keys are words, and have no place in administration', async () => {
    for (const key of ['x'.repeat(256), '\u00e9', ' '])
      assert.equal((await door.call('POST', '/v1/chat/completions', ask(), keyed(key))).status, 400, key);
    assert.equal((await door.call('POST', '/v1/chat/completions', ask(), keyed('x'.repeat(255)))).status, 200);
    assert.equal((await door.call('POST', '/v1/admin/keys', { name: 'a' }, keyed('a'))).status, 400);
    // Looking needs none.
    assert.equal((await door.call('GET', '/v1/models', undefined, keyed('k1'))).status, 200);
  });

  it("another tenant's equal key is another key", async () => {
    const tenant = (await door.call('POST', '/v1/admin/tenants', { name: 'other' })).body as { id: string };
    const { secret } = (await door.call('POST', '/v1/admin/keys', { name: 'k', tenant: tenant.id })).body as {
      secret: string;
    };
    const mine = await upload('theirs', keyed('shared-key'));
    const theirs = await upload('theirs', { ...keyed('shared-key'), authorization: `Bearer ${secret}` });
    assert.deepEqual([mine.status, theirs.status], [200, 200]);
    assert.notEqual(mine.body.id, theirs.body.id);
    assert.equal(theirs.headers.get('idempotent-replayed'), null);
  });

  it('clients that break off and try again make one thing a key', { timeout: 60_000 }, async () => {
    const before = (await listed()).length;
    const keys = 20;
    await Promise.all(
      Array.from({ length: keys }, async (_, i) => {
        const ids = new Set<string>();
        for (let attempt = 0; attempt < 4; attempt++) {
          const abort = new AbortController();
          if (attempt === 0 && i % 5 === 0) setTimeout(() => abort.abort(), (i * 7) % 30);
          const form = new FormData();
          form.set('purpose', 'user_data');
          form.set('file', new File([`text ${i}`], 'a.txt'));
          const headers = { authorization, ...keyed(`broken-${i}`) };
          try {
            const response = await fetch(`${door.url}/v1/files`, {
              method: 'POST',
              headers,
              body: form,
              signal: abort.signal,
            });
            const body = (await response.json()) as { id?: string };
            if (body.id !== undefined) ids.add(body.id);
            else
              await new Promise((resolve) =>
                setTimeout(resolve, Number(response.headers.get('retry-after-ms') ?? 100)),
              );
          } catch {
            // Broken off on purpose.
          }
        }
        assert.equal(ids.size, 1, `key ${i}`);
      }),
    );
    const now = await listed();
    assert.equal(now.length, Math.min(before + keys, 100));
  });
});

describe('without a key', () => {
  const tries = (n: number) => ({ 'x-stainless-retry-count': String(n) });

  it("a client's own retry of a creation is the same request, a first try is not", async () => {
    const first = await upload('unkeyed', tries(0));
    const retry = await upload('unkeyed', tries(1));
    assert.deepEqual(
      [retry.status, retry.body.id, retry.headers.get('idempotent-replayed')],
      [200, first.body.id, 'true'],
    );
    const another = await upload('unkeyed', tries(0));
    assert.notEqual(another.body.id, first.body.id);
    assert.notEqual((await upload('something else', tries(1))).body.id, first.body.id);
    // Clients that say nothing of retries are taken at their word.
    assert.notEqual((await upload('unkeyed', {})).body.id, another.body.id);
  });
});

describe('our own client', () => {
  it('sends creations under a key of its own: a lost answer is asked for again, and nothing is made twice', async () => {
    let lost = 0;
    // The request arrives and is done; the answer does not.
    const lossy: typeof fetch = async (...call) => {
      const response = await fetch(...call);
      if (lost++ % 2 === 0) throw new TypeError('the connection broke');
      return response;
    };
    const client = new MantisClient({ baseUrl: door.url, apiKey: API_KEY, fetch: lossy });
    const before = (await listed()).length;
    const file = await client.files.create(new Blob(['once']), 'once.txt', 'user_data');
    assert.match(file.id, /^file-/);
    assert.equal(lost, 2);
    assert.equal((await listed()).length, Math.min(before + 1, 100));
    // What is not made but computed is not sent again unasked.
    lost = 0;
    await assert.rejects(client.chat.create(ask()), /the connection broke/);
    assert.equal(lost, 1);
    const { data } = await client.usage.records({ limit: 5 });
    assert.ok(data.length > 0);
    assert.equal((await client.usage.retrieve({ startTime: 0, endTime: 86_400, groupBy: ['model'] })).data.length, 1);
  });
});
