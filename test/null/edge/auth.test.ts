/** The credential parser against hostile values, without a runtime: no value may reach the database, none may fail in another way than 401. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Hono } from 'hono';
import type { AppEnv } from '../../../edge/env.ts';
import { apiKey } from '../../../edge/middleware/auth.ts';
import { onError } from '../../../edge/middleware/errors.ts';
import { FailureCounter } from '../../../edge/middleware/failures.ts';
import { AUDIT_GENESIS, chainedText } from '../../../shared/contract/audit.ts';
import type { ErrorEnvelope } from '../../../shared/contract/errors.ts';
import { accessOf, mergeLimits, scopesFor } from '../../../shared/contract/keys.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { crc32, isWellFormedKey, newApiKey } from '../../../shared/wire/key.ts';
import { NonceCache } from '../../../shared/wire/nonces.ts';
import { sha256Hex } from '../../../shared/wire/signature.ts';

/** Random numbers that a seed repeats (mulberry32). */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** The middleware over a database that counts look-ups and knows the keys of `rows`, by hash. */
function door(rows: Record<string, object> = {}, env: Partial<AppEnv['Bindings']> = {}) {
  const asked: string[] = [];
  const DB = {
    prepare: (sql: string) => ({
      bind: (hash: string) => ({
        first: async () => {
          asked.push(sql);
          return rows[hash] ?? null;
        },
        run: async () => ({ meta: { changes: 0 } }),
      }),
    }),
  } as unknown as AppEnv['Bindings']['DB'];
  const app = new Hono<AppEnv>();
  app.onError(onError);
  app.use('/v1/*', apiKey());
  app.all('/v1/*', (c) => c.json(c.get('caller')));
  const background = { waitUntil: () => {}, passThroughOnException: () => {}, props: {} };
  const call = async (path: string, headers: Record<string, string>, method = 'GET') => {
    const response = await app.request(path, { method, headers }, { DB, ...env } as AppEnv['Bindings'], background);
    return { status: response.status, headers: response.headers, body: (await response.json()) as ErrorEnvelope };
  };
  return { asked, call };
}

const base64url = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** JSON Web Tokens in the ways in which libraries were made to take them; a key is none. */
const JWTS = ['none', 'None', 'NONE', 'HS256', 'RS256', 'ES256', 'PS256', 'EdDSA', '', 'HS512'].flatMap((alg) =>
  [{}, { kid: '../../dev/null' }, { jku: 'https://evil.example/jwks' }, { jwk: { kty: 'oct', k: '' } }].map(
    (extra) =>
      `${base64url({ typ: 'JWT', alg, ...extra })}.${base64url({ sub: 'admin', iss: 'mantis', aud: '*', exp: 9_999_999_999 })}.${alg === 'none' ? '' : 'c2ln'}`,
  ),
);

function hostileValues(count: number, seed: number): string[] {
  const random = randomFrom(seed);
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)]!;
  const key = newApiKey();
  const swap = (text: string) => {
    const at = Math.floor(random() * text.length);
    const other = pick(
      [...'0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'].filter((c) => c !== text[at]),
    );
    return text.slice(0, at) + other + text.slice(at + 1);
  };
  const words = [
    `' OR '1'='1`,
    `mk_'; DROP TABLE api_keys;--`,
    `" UNION SELECT hash FROM api_keys --`,
    '$(id)',
    '../../../../etc/passwd',
    '%00',
    '{"$ne":null}',
    '[object Object]',
    'undefined',
    'null',
    'true',
    'é'.repeat(20),
    'mk_',
    `mk_${'a'.repeat(49)}`,
    `mk_${'0'.repeat(49)}`,
    'sk-proj-abc',
    'a'.repeat(100_000),
    'A'.repeat(513),
  ];
  const makers: (() => string)[] = [
    () => `Bearer ${swap(key)}`,
    () => `Bearer ${key.slice(0, Math.floor(random() * key.length))}`,
    () => `Bearer ${key}${pick([...'abc012=. '])}x`,
    () => `Bearer  ${key}`,
    () => `Bearer ${key}, Bearer ${key}`,
    () => `${pick(['Basic', 'Digest', 'Token', 'bearer:', 'Bearer:', 'JWT', ''])} ${pick([key, ...words])}`,
    () => key,
    () => `Bearer ${pick(words)}`,
    () => `Bearer ${pick(JWTS)}`,
    () => `Bearer\t${key}`,
    () => `Bearer ${Array.from({ length: 52 }, () => String.fromCharCode(33 + Math.floor(random() * 94))).join('')}`,
    () => `Bearer ${key.toUpperCase()}`,
    () =>
      Array.from({ length: 1 + Math.floor(random() * 200) }, () =>
        String.fromCharCode(32 + Math.floor(random() * 224)),
      ).join(''),
  ];
  const values = Array.from({ length: count }, () => pick(makers)());
  // What fetch cannot send is sent raw in the wire tier.
  return [...JWTS.map((jwt) => `Bearer ${jwt}`), ...values].filter((value) => {
    try {
      return new Headers({ authorization: value }).get('authorization') !== `Bearer ${key}`;
    } catch {
      return false;
    }
  });
}

describe('the form of a key', () => {
  it('has 256 random bits and a checksum that finds every single slip', () => {
    assert.equal(crc32('123456789'), 0xcbf43926);
    const keys = new Set(Array.from({ length: 500 }, newApiKey));
    assert.equal(keys.size, 500);
    for (const key of keys) {
      assert.match(key, /^mk_[0-9A-Za-z]{49}$/);
      assert.ok(isWellFormedKey(key));
    }
    const [key = ''] = keys;
    for (let at = 3; at < key.length; at++)
      for (const other of '0Zz') {
        const slip = key.slice(0, at) + other + key.slice(at + 1);
        assert.equal(isWellFormedKey(slip), slip === key);
      }
  });
});

describe('the credential parser', () => {
  it('answers hostile values with 401, and asks the database for none', async () => {
    const seed = 20_261_125;
    const { asked, call } = door();
    const values = hostileValues(2_600, seed);
    assert.ok(values.length >= 2_000, `${values.length}`);
    for (const value of values) {
      const { status, body } = await call('/v1/files', { authorization: value });
      assert.equal(status, 401, `seed ${seed}: ${JSON.stringify(value.slice(0, 200))}`);
      assert.equal(body.error.code, 'invalid_api_key');
      assert.ok(value.length < 8 || !body.error.message.includes(value), 'the value is not shown');
    }
    assert.deepEqual(asked, []);
  });

  it('looks a well-formed key up once, whether it is known or not', async () => {
    const { asked, call } = door();
    const key = newApiKey();
    for (let i = 0; i < 5; i++) assert.equal((await call('/v1/files', { authorization: `Bearer ${key}` })).status, 401);
    assert.equal(asked.length, 1);
  });

  it('says so where the database cannot be asked, and lets nobody in', async () => {
    const broken = {
      prepare: () => {
        throw new Error('D1_ERROR: no such table: api_keys');
      },
    } as unknown as AppEnv['Bindings']['DB'];
    const { call } = door({}, { DB: broken });
    const { status, headers, body } = await call('/v1/files', { authorization: `Bearer ${newApiKey()}` });
    assert.deepEqual([status, headers.get('retry-after')], [503, '1']);
    assert.doesNotMatch(body.error.message, /D1|table/);
  });

  it('lets the operator’s own key pass, whatever it looks like, and no other of that look', async () => {
    const row = {
      id: 'key_bootstrap',
      tenant: '0'.repeat(32),
      scopes: '["files"]',
      limits: '{}',
      tenant_limits: '{}',
      expires_at: null,
      last_used_at: 1,
    };
    const hash = await sha256Hex('my own key!');
    const { call } = door({ [hash]: row }, { BOOTSTRAP_KEY_HASH: hash });
    assert.equal((await call('/v1/files', { authorization: 'Bearer my-own-key!' })).status, 401);
    assert.equal((await call('/v1/files', { authorization: 'Bearer my own key!' })).status, 401, 'a space ends it');
    const plain = await sha256Hex('my-own-key');
    const other = door({ [plain]: row }, { BOOTSTRAP_KEY_HASH: plain });
    assert.equal((await other.call('/v1/files', { authorization: 'Bearer my-own-key' })).status, 200);
    assert.equal((await other.call('/v1/batches', { authorization: 'Bearer my-own-key' })).status, 403);
    assert.equal((await other.call('/v1/nothing/here', { authorization: 'Bearer my-own-key' })).status, 404);
  });

  it('slows down who guesses, and nobody else', async () => {
    const good = newApiKey();
    const row = {
      id: 'key_1',
      tenant: '0'.repeat(32),
      scopes: '["files"]',
      limits: '{}',
      tenant_limits: '{}',
      expires_at: null,
      last_used_at: 1,
    };
    const { asked, call } = door({ [await sha256Hex(good)]: row }, { CLIENT_ADDRESS_HEADER: 'cf-connecting-ip' });
    const from = (address: string, key: string) =>
      call('/v1/files', { authorization: `Bearer ${key}`, 'cf-connecting-ip': address });
    assert.equal((await from('192.0.2.1', good)).status, 200);
    const statuses = [];
    for (let i = 0; i < 300; i++) statuses.push((await from('192.0.2.1', newApiKey())).status);
    assert.deepEqual(
      [statuses.filter((status) => status === 401).length, statuses.at(-1)],
      [LIMITS.keys.maxFailuresPerMinute, 429],
    );
    assert.equal(asked.length, 1 + LIMITS.keys.maxFailuresPerMinute, 'no look-up for who guesses on');
    assert.equal((await from('192.0.2.1', good)).status, 200, 'the key in use is unharmed');
    assert.equal((await from('192.0.2.2', newApiKey())).status, 401, 'neighbours are unharmed');
    const { headers } = await from('192.0.2.1', 'mk_wrong');
    assert.ok(Number(headers.get('retry-after')) >= 1 && Number(headers.get('retry-after')) <= 60);
  });
});

describe('failures by address', () => {
  it('are counted in windows, bounded in number, and not at all without an address', () => {
    const counter = new FailureCounter(2);
    assert.deepEqual([counter.count('a', 0), counter.count('a', 1), counter.count('a', 30_000)], [null, null, 30_000]);
    assert.equal(counter.isOver('a', 59_999), true);
    assert.equal(counter.isOver('a', 60_000), false);
    assert.equal(counter.count('a', 60_000), null);
    assert.equal(counter.count(null, 0), null);
    for (let i = 0; i < 20_000; i++) counter.count(`address ${i}`, 61_000);
    assert.equal(counter.isOver('a', 61_000), false, 'the oldest are forgotten');
  });
});

describe('the access table', () => {
  it('goes by whole segments, and names nothing that it does not list', () => {
    assert.equal(accessOf('/v1/files'), 'files');
    assert.equal(accessOf('/v1/files/file-1/content'), 'files');
    assert.equal(accessOf('/v1/filesystem'), null);
    assert.equal(accessOf('/v1'), null);
    assert.equal(accessOf('/v1/admin/keys'), 'admin');
    assert.equal(accessOf('/internal/jobs/claim'), 'signature');
    assert.equal(accessOf('/internals'), null);
    assert.equal(accessOf('/openapi.json'), 'open');
    assert.equal(accessOf('/openapi.json/x'), null);
    for (const path of ['/', '', '//v1/files', '/V1/files', '/debug', '/admin'])
      assert.equal(accessOf(path), null, path);
  });

  it('lets `read` look, administration excepted', () => {
    assert.deepEqual(scopesFor('files', 'GET'), ['files', 'read']);
    assert.deepEqual(scopesFor('files', 'HEAD'), ['files', 'read']);
    assert.deepEqual(scopesFor('files', 'POST'), ['files']);
    assert.deepEqual(scopesFor('admin', 'GET'), ['admin']);
    assert.equal(scopesFor('any_key', 'GET'), null);
  });

  it('fills a key’s limits from its tenant’s', () => {
    assert.deepEqual(mergeLimits({ concurrent: 2, imagesPerMinute: null }, { concurrent: 9, imagesPerMinute: 5 }), {
      requestsPerMinute: null,
      imagesPerMinute: 5,
      imageTokensPerMinute: null,
      bytesPerMinute: null,
      concurrent: 2,
    });
  });
});

describe('nonces', () => {
  it('are taken once, forgotten when no signature can repeat them, and refused when there is no room', () => {
    const cache = new NonceCache(60, 3);
    assert.equal(cache.take('a', 100, 100), true);
    assert.equal(cache.take('a', 100, 100), false);
    assert.equal(cache.take('a', 100, 160), false, 'its signature would still be accepted');
    assert.equal(cache.take('b', 130, 130), true);
    assert.equal(cache.take('c', 130, 130), true);
    assert.equal(cache.take('d', 130, 130), false, 'full: refused, not accepted unseen');
    assert.equal(cache.take('d', 161, 161), true, 'what is too old made room');
    assert.equal(cache.size, 3);
  });
});

describe('the audit chain', () => {
  it('covers every column: no change of one keeps the hash', async () => {
    const entry = {
      seq: 1,
      id: 'audit_1',
      at: 5,
      tenant: 't',
      actor: 'key_1',
      action: 'key.created',
      object: 'o',
      data: '{}',
      request_id: null,
    };
    const hashes = new Set([await sha256Hex(chainedText(AUDIT_GENESIS, entry))]);
    const changes = [
      { seq: 2 },
      { id: 'x' },
      { at: 6 },
      { tenant: 'u' },
      { actor: 'k' },
      { action: 'a' },
      { object: 'p' },
      { data: '[]' },
      { request_id: 'r' },
      { actor: 'key_1","key.created', action: 'o' },
    ];
    for (const change of changes) hashes.add(await sha256Hex(chainedText(AUDIT_GENESIS, { ...entry, ...change })));
    hashes.add(await sha256Hex(chainedText('f'.repeat(64), entry)));
    assert.equal(hashes.size, changes.length + 2);
  });
});
