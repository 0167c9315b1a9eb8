/** What is written down of each request, and what `GET /v1/usage` says of it; keys with limits of their own; headers for pages and tracers. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI, { toFile } from 'openai';
import type { UsagePage, UsageRecord } from '../../../shared/contract/usage.ts';
import { png } from '../../null/edge/pictures.ts';
import { FAULT_CARD, FaultBackend } from './fault-backend.ts';
import { beginPost } from './hang-up.ts';
import { API_KEY, type Installation, startInstallation, until } from './installation.ts';

let door: Installation;
let backend: FaultBackend;
const startS = Math.floor(Date.now() / 1000) - 60;

before(async () => {
  door = await startInstallation({ vars: { CORS_ORIGINS: 'http://localhost:*' } });
  backend = await FaultBackend.join(door);
});
after(async () => {
  await backend.close();
  await door.close();
});

const ask = (content: unknown = 'hi', more: object = {}) => ({
  model: FAULT_CARD.id,
  messages: [{ role: 'user' as const, content: content as string }],
  ...more,
});
const picture = (width: number) => ({
  type: 'image_url',
  image_url: { url: `data:image/png;base64,${Buffer.from(png(width, 8)).toString('base64')}` },
});

async function newKey(body: object): Promise<{ id: string; secret: string; tenant: string; authorization: string }> {
  const { status, body: made } = await door.call('POST', '/v1/admin/keys', { name: 'k', ...body });
  assert.equal(status, 200, JSON.stringify(made));
  const key = made as { id: string; secret: string; tenant: string };
  return { ...key, authorization: `Bearer ${key.secret}` };
}

async function usage(query: string, authorization = `Bearer ${API_KEY}`): Promise<UsagePage> {
  const { status, body } = await door.call('GET', `/v1/usage?start_time=${startS}&${query}`, undefined, {
    authorization,
  });
  assert.equal(status, 200, JSON.stringify(body));
  return body as UsagePage;
}

/** Sums over all buckets. */
async function total(query: string, authorization?: string) {
  const results = (await usage(`bucket_width=1d&${query}`, authorization)).data.flatMap((bucket) => bucket.results);
  const sum = (of: (result: (typeof results)[0]) => number) => results.reduce((all, result) => all + of(result), 0);
  return {
    results,
    requests: sum((result) => result.num_model_requests),
    input: sum((result) => result.input_tokens),
    output: sum((result) => result.output_tokens),
    images: sum((result) => result.images),
    imageTokens: sum((result) => result.input_image_tokens),
    bytes: sum((result) => result.input_bytes),
  };
}

describe('usage', () => {
  it('has every request that reached a model, within half a second', async () => {
    const body = JSON.stringify(ask([{ type: 'text', text: 'a' }, picture(8), picture(9), picture(8)]));
    assert.equal((await door.call('POST', '/v1/chat/completions', body)).status, 200);
    await door.openai.chat.completions.create(ask());
    for await (const _ of await door.openai.chat.completions.create({ ...ask(), stream: true }));
    // Refused: nothing was used.
    await door.call('POST', '/v1/chat/completions', { model: 5 });
    const endMs = Date.now();
    await until(async () => (await total('')).requests >= 3, 15_000, 'the rows are there');
    const lagMs = Date.now() - endMs;
    console.log(`# usage was there ${lagMs} ms after the last answer`);
    const all = await total('group_by=model&group_by[]=key');
    // The backend of this test says 5 and 2 whatever it is asked.
    assert.deepEqual([all.requests, all.input, all.output, all.images, all.imageTokens], [3, 15, 6, 3, 300]);
    assert.ok(all.bytes >= body.length);
    assert.deepEqual([all.results[0]?.model, all.results[0]?.api_key_id], [FAULT_CARD.id, 'key_bootstrap']);
    assert.equal((await total('models=other')).requests, 0);
    assert.equal((await total('api_key_ids=key_bootstrap,x')).requests, 3);
  });

  it('counts answers that are cut for what was sent', async () => {
    const key = await newKey({});
    backend.behaviour = 'endless';
    const headers = { authorization: key.authorization };
    const given = await beginPost(`${door.url}/v1/chat/completions`, headers, ask('x', { stream: true }));
    await sleep(100);
    given.close();
    backend.behaviour = 'answer';
    await until(
      async () => (await total(`api_key_ids=${key.id}`)).requests === 1,
      15_000,
      'the cut answer is recorded',
    );
    const cut = await total(`api_key_ids=${key.id}`);
    assert.equal(cut.input, 5);
    assert.ok(cut.output >= 3 && cut.output < 100, `${cut.output}`);
  });

  it('is listed by request and picture, and lines of batches are billed to the key that made the batch', async () => {
    const headers = { 'x-request-id': 'chosen-by-the-client' };
    const body = ask([picture(8), { type: 'text', text: 'b' }, picture(9)]);
    for (let i = 0; i < 2; i++) await door.call('POST', '/v1/chat/completions', body, headers);
    const records = async (query: string) =>
      (await door.call('GET', `/v1/usage/records?${query}`)).body as {
        data: UsageRecord[];
        has_more: boolean;
        last_id: string;
      };
    await until(
      async () => (await records('request_id=chosen-by-the-client')).data.length === 2,
      2_000,
      'both are there',
    );
    const [record] = (await records('request_id=chosen-by-the-client')).data;
    assert.deepEqual(
      [record?.status, record?.input_tokens, record?.output_tokens, record?.batch_id],
      [200, 5, 2, null],
    );
    assert.deepEqual(
      record?.images.map(({ width, height, bytes, tokens }) => [width, height, bytes, tokens]),
      [8, 9].map((width) => [width, 8, png(width, 8).byteLength, 100]),
    );
    assert.match(record?.images[0]?.digest ?? '', /^sha256:[0-9a-f]{64}$/);

    const lines = Array.from({ length: 6 }, (_, i) =>
      JSON.stringify({ custom_id: `c${i}`, method: 'POST', url: '/v1/chat/completions', body: ask(`line ${i}`) }),
    );
    const file = await door.openai.files.create({
      file: await toFile(Buffer.from(lines.join('\n')), 'b.jsonl'),
      purpose: 'batch',
    });
    const batch = await door.openai.batches.create({
      input_file_id: file.id,
      endpoint: '/v1/chat/completions',
      completion_window: '24h',
    });
    await until(
      async () => (await door.openai.batches.retrieve(batch.id)).status === 'completed',
      15_000,
      'the batch is done',
    );
    await until(
      async () => (await records('limit=100')).data.filter(({ batch_id }) => batch_id === batch.id).length === 6,
      2_000,
      'its lines are billed',
    );
    const all = (await records('limit=100')).data;
    const pages: string[] = [];
    for (let after = ''; ; ) {
      const page = await records(`limit=3${after === '' ? '' : `&after=${after}`}`);
      pages.push(...page.data.map(({ id }) => id));
      if (!page.has_more) break;
      after = page.last_id;
    }
    assert.deepEqual(
      pages,
      all.map(({ id }) => id),
    );
  });

  it('is only the own tenant, and with the scope; admins may ask for all', async () => {
    const tenant = (await door.call('POST', '/v1/admin/tenants', { name: 'other' })).body as { id: string };
    const theirs = await newKey({ tenant: tenant.id });
    const openai = new OpenAI({ apiKey: theirs.secret, baseURL: `${door.url}/v1`, maxRetries: 0 });
    await openai.chat.completions.create(ask());
    await until(async () => (await total('', theirs.authorization)).requests === 1, 15_000, 'their row is there');
    const mine = (await total('')).requests;
    const all = await total('tenant=all&group_by=tenant');
    assert.equal(all.requests, mine + 1);
    assert.equal(new Set(all.results.map((result) => result.tenant)).size, 2);
    assert.equal((await total(`tenant=${tenant.id}`)).requests, 1);
    const spying = await door.call('GET', `/v1/usage?start_time=${startS}&tenant=all`, undefined, {
      authorization: theirs.authorization,
    });
    assert.equal(spying.status, 403);
    const { authorization } = await newKey({ scopes: ['inference'] });
    assert.equal((await door.call('GET', `/v1/usage?start_time=${startS}`, undefined, { authorization })).status, 403);
  });

  it('comes in buckets with pages, and says what is wrong with a query', async () => {
    const first = await usage('bucket_width=1m&limit=1');
    assert.equal(first.data.length, 1);
    assert.equal((first.data[0]?.start_time ?? 1) % 60, 0);
    assert.equal((first.data[0]?.end_time ?? 0) - (first.data[0]?.start_time ?? 0), 60);
    assert.equal(first.has_more, true);
    let sum = 0;
    let page: UsagePage | null = first;
    for (let pages = 0; page !== null && pages < 100; pages++) {
      sum += page.data.flatMap(({ results }) => results).reduce((all, result) => all + result.num_model_requests, 0);
      page = page.next_page === null ? null : await usage(`bucket_width=1m&limit=1&page=${page.next_page}`);
    }
    assert.equal(sum, (await total('')).requests);
    for (const [query, param] of [
      ['', 'start_time'],
      ['start_time=x', 'start_time'],
      ['start_time=1&bucket_width=2d', 'bucket_width'],
      ['start_time=1&limit=99', 'limit'],
      ['start_time=9&end_time=9', 'end_time'],
      ['start_time=1&group_by=day', 'group_by[0]'],
      ['start_time=1&page=-1', 'page'],
      ['start_time=1&what=1', 'what'],
    ] as const) {
      const { status, body } = await door.call('GET', `/v1/usage?${query}`);
      assert.deepEqual([status, (body as { error: { param: string } }).error.param], [400, param], query);
    }
    // Long ago: many buckets, but never more than a page of them.
    assert.equal((await usage('bucket_width=1m&limit=1440')).data.length <= 1_440, true);
  });
});

describe("a key's own limits", () => {
  it('admit exactly so many of a burst, whatever comes at once, and leave other keys alone', async () => {
    const key = await newKey({ limits: { requestsPerMinute: 30 } });
    const answers = await Promise.all(
      Array.from({ length: 90 }, () =>
        door.call('POST', '/v1/chat/completions', ask(), { authorization: key.authorization }),
      ),
    );
    const statuses = answers.map(({ status }) => status);
    assert.equal(statuses.filter((status) => status === 200).length, 30);
    assert.equal(statuses.filter((status) => status === 429).length, 60);
    const { response } = await door.openai.chat.completions.create(ask()).withResponse();
    assert.equal(response.headers.get('x-ratelimit-limit-requests'), null);
  });

  it("come from the tenant where the key has none, and a key's count is its own", async () => {
    const tenant = (await door.call('POST', '/v1/admin/tenants', { name: 'small', limits: { requestsPerMinute: 2 } }))
      .body as {
      id: string;
    };
    const [a, b] = await Promise.all([
      newKey({ tenant: tenant.id }),
      newKey({ tenant: tenant.id, limits: { requestsPerMinute: 3 } }),
    ]);
    const sent = async (authorization: string) =>
      (await door.call('POST', '/v1/chat/completions', ask(), { authorization })).status;
    assert.deepEqual(
      [await sent(a.authorization), await sent(a.authorization), await sent(a.authorization)],
      [200, 200, 429],
    );
    assert.deepEqual(
      [await sent(b.authorization), await sent(b.authorization), await sent(b.authorization)],
      [200, 200, 200],
    );
    assert.equal(await sent(b.authorization), 429);
  });
});

describe('pages and tracers', () => {
  const origin = 'http://localhost:5173';
  const preflight = (from: string, headers = 'authorization, content-type, x-stainless-os, x-evil') =>
    fetch(`${door.url}/v1/chat/completions`, {
      method: 'OPTIONS',
      headers: { origin: from, 'access-control-request-method': 'POST', 'access-control-request-headers': headers },
    });

  it('a page may ask without a key, send what the client sends and read what we say', async () => {
    const { status, headers } = await preflight(origin);
    assert.deepEqual([status, headers.get('access-control-allow-origin')], [204, origin]);
    assert.equal(headers.get('access-control-allow-headers'), 'authorization, content-type, x-stainless-os');
    assert.equal(headers.get('access-control-allow-credentials'), null);
    assert.match(headers.get('vary') ?? '', /origin/i);
    for (const call of [
      door.call('POST', '/v1/chat/completions', ask(), { origin }),
      door.call('POST', '/v1/chat/completions', ask(5), { origin }),
      door.call('GET', '/v1/models', undefined, { origin, authorization: 'Bearer x' }),
    ]) {
      const answer = await call;
      assert.equal(answer.headers.get('access-control-allow-origin'), origin);
      assert.match(answer.headers.get('access-control-expose-headers') ?? '', /x-request-id/);
    }
  });

  it('another page gets no permission', async () => {
    for (const from of ['https://evil.example', 'null', 'http://localhost.evil.example']) {
      const { status, headers } = await preflight(from);
      assert.deepEqual([status, headers.get('access-control-allow-origin')], [204, null], from);
      const answer = await door.call('GET', '/v1/models', undefined, { origin: from });
      assert.equal(answer.headers.get('access-control-allow-origin'), null, from);
    }
    const inner = await fetch(`${door.url}/internal/backends/register`, {
      method: 'OPTIONS',
      headers: { origin, 'access-control-request-method': 'POST' },
    });
    assert.equal(inner.headers.get('access-control-allow-origin'), null);
  });

  it('a trace goes on to the backend, and times are told', async () => {
    const id = '4bf92f3577b34da6a3ce929d0e0e4736';
    const answer = await door.call('POST', '/v1/chat/completions', ask(), {
      traceparent: `00-${id}-00f067aa0ba902b7-01`,
    });
    assert.match(answer.headers.get('traceparent') ?? '', new RegExp(`^00-${id}-`));
    assert.match(answer.headers.get('server-timing') ?? '', /total;dur=\d+/);
    assert.match(answer.headers.get('openai-processing-ms') ?? '', /^\d+$/);
    assert.match(String(backend.seen.at(-1)?.headers.traceparent), new RegExp(`^00-${id}-[0-9a-f]{16}-01$`));
    const fresh = await door.call('GET', '/v1/models', undefined, { 'openai-version': '2020-10-01' });
    assert.match(fresh.headers.get('traceparent') ?? '', /^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/);
  });
});
