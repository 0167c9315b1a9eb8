/** Keys, tenants and the audit log over the wire: what an operator does, and what holds afterwards. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AuditEntry, AuditVerdict } from '../../../shared/contract/audit.ts';
import type { ErrorEnvelope } from '../../../shared/contract/errors.ts';
import type { List } from '../../../shared/contract/files.ts';
import { type ApiKey, DEFAULT_TENANT, type Tenant } from '../../../shared/contract/keys.ts';
import { isWellFormedKey } from '../../../shared/wire/key.ts';
import { API_KEY, type Installation, startInstallation } from './installation.ts';

describe('keys and tenants', () => {
  let edge: Installation;
  before(async () => {
    edge = await startInstallation();
  });
  after(() => edge.close());

  const admin = async <T>(method: string, path: string, body?: unknown): Promise<T> => {
    const answer = await edge.call(method, `/v1/admin${path}`, body);
    assert.equal(answer.status, 200, `${method} ${path}: ${JSON.stringify(answer.body)}`);
    return answer.body as T;
  };
  const refusal = async (method: string, path: string, body: unknown, status: number): Promise<string> => {
    const answer = await edge.call(method, `/v1/admin${path}`, body);
    assert.equal(answer.status, status, JSON.stringify(answer.body));
    return (answer.body as ErrorEnvelope).error.code ?? '';
  };
  const withKey = async (secret: string, path: string, method = 'GET') =>
    await fetch(edge.url + path, { method, headers: { authorization: `Bearer ${secret}` } });
  const create = async (body: object): Promise<ApiKey & { secret: string }> =>
    (await admin<ApiKey>('POST', '/keys', body)) as ApiKey & { secret: string };

  it('a key is shown once, has a checksum, and does what its scopes say', async () => {
    const key = await create({ name: 'files only', scopes: ['files'] });
    assert.ok(isWellFormedKey(key.secret));
    assert.equal(key.last4, key.secret.slice(-4));
    assert.equal(key.tenant, DEFAULT_TENANT);
    const again = await admin<ApiKey>('GET', `/keys/${key.id}`);
    assert.equal(again.secret, undefined);
    assert.equal((await withKey(key.secret, '/v1/files')).status, 200);
    assert.equal((await withKey(key.secret, '/v1/limits')).status, 200);
    const denied = await withKey(key.secret, '/v1/fine_tuning/jobs');
    assert.equal(denied.status, 403);
    const { error } = (await denied.json()) as ErrorEnvelope;
    assert.equal(error.code, 'insufficient_scope');
    assert.match(error.message, /"fine_tuning" or "read"/);
    assert.equal((await withKey(key.secret, '/v1/admin/keys')).status, 403);
  });

  it('`read` looks at everything of the tenant and changes nothing', async () => {
    const { secret } = await create({ name: 'dashboard', scopes: ['read'] });
    for (const path of ['/v1/files', '/v1/fine_tuning/jobs', '/v1/webhook_endpoints', '/v1/models'])
      assert.equal((await withKey(secret, path)).status, 200, path);
    for (const path of ['/v1/files', '/v1/chat/completions', '/v1/webhook_endpoints'])
      assert.equal((await withKey(secret, path, 'POST')).status, 403, path);
    assert.equal((await withKey(secret, '/v1/admin/audit')).status, 403);
  });

  it('a rotated key works until the overlap is over, its successor at once', async () => {
    const old = await create({ name: 'rotated', scopes: ['files'] });
    assert.equal((await withKey(old.secret, '/v1/files')).status, 200);
    const next = await admin<ApiKey & { secret: string }>('POST', `/keys/${old.id}/rotate`, { overlap_s: 8 });
    const rotatedAtMs = Date.now();
    assert.deepEqual([next.scopes, next.name], [old.scopes, old.name]);
    assert.equal((await withKey(next.secret, '/v1/files')).status, 200);
    // An answer may take its time on a loaded machine.
    while (Date.now() - rotatedAtMs < 4_000) {
      assert.equal((await withKey(old.secret, '/v1/files')).status, 200);
      await sleep(200);
    }
    await sleep(rotatedAtMs + 8_050 - Date.now());
    assert.equal((await withKey(old.secret, '/v1/files')).status, 401);
    assert.equal((await admin<ApiKey>('GET', `/keys/${old.id}`)).rotated_to, next.id);
    assert.equal(await refusal('POST', `/keys/${old.id}/rotate`, {}, 409), 'invalid_state');
  });

  it('of several rotations at the same time one wins, and there is one successor', async () => {
    const { id } = await create({ name: 'raced' });
    const answers = await Promise.all(
      Array.from({ length: 6 }, () => edge.call('POST', `/v1/admin/keys/${id}/rotate`, {})),
    );
    assert.deepEqual(answers.map(({ status }) => status).sort(), [200, 409, 409, 409, 409, 409]);
    const { data } = await admin<List<ApiKey>>('GET', '/keys?limit=100');
    assert.equal(data.filter(({ name }) => name === 'raced').length, 2);
  });

  it('a revoked key is dead within 5 s, while it is being used', async () => {
    const key = await create({ name: 'revoked', scopes: ['files'] });
    assert.equal((await withKey(key.secret, '/v1/files')).status, 200);
    await admin('POST', `/keys/${key.id}/revoke`);
    const revokedAtMs = Date.now();
    let diedMs: number | null = null;
    while (Date.now() - revokedAtMs < 6_000) {
      const { status } = await withKey(key.secret, '/v1/files');
      if (status === 401) diedMs ??= Date.now() - revokedAtMs;
      else assert.equal(diedMs, null, 'it came back');
      await sleep(100);
    }
    assert.ok(diedMs !== null && diedMs <= 5_000, `died after ${diedMs} ms`);
    assert.equal(await refusal('POST', `/keys/${key.id}`, { name: 'back' }, 409), 'invalid_state');
  });

  it('a key ends when it expires, though it was used a moment before', async () => {
    const expiresAtS = Math.floor(Date.now() / 1000) + 6;
    const key = await create({ name: 'short', scopes: ['files'], expires_at: expiresAtS });
    while (Date.now() < expiresAtS * 1000 - 3_000) {
      assert.equal((await withKey(key.secret, '/v1/files')).status, 200);
      await sleep(100);
    }
    await sleep(expiresAtS * 1000 + 20 - Date.now());
    assert.equal((await withKey(key.secret, '/v1/files')).status, 401);
    assert.equal((await admin<ApiKey>('GET', `/keys/${key.id}`)).status, 'expired');
  });

  it('two keys of a tenant share its things; another tenant finds nothing, as if nothing were there', async () => {
    const mine = await admin<Tenant>('POST', '/tenants', { name: 'mine' });
    const other = await admin<Tenant>('POST', '/tenants', { name: 'other' });
    assert.match(mine.id, /^[0-9a-f]{32}$/);
    const [a, b, c] = await Promise.all([
      create({ name: 'a', tenant: mine.id }),
      create({ name: 'b', tenant: mine.id }),
      create({ name: 'c', tenant: other.id }),
    ]);
    const form = new FormData();
    form.set('purpose', 'user_data');
    form.set('file', new File(['hello'], 'hello.txt'));
    const upload = await fetch(`${edge.url}/v1/files`, {
      method: 'POST',
      headers: { authorization: `Bearer ${a.secret}` },
      body: form,
    });
    assert.equal(upload.status, 200);
    const { id } = (await upload.json()) as { id: string };
    assert.equal((await withKey(b.secret, `/v1/files/${id}`)).status, 200);
    for (const [method, path] of [
      ['GET', `/v1/files/${id}`],
      ['GET', `/v1/files/${id}/content`],
      ['DELETE', `/v1/files/${id}`],
    ] as const) {
      const foreign = await withKey(c.secret, path, method);
      const missing = await withKey(c.secret, path.replace(id, 'file-000000000000000000000000'), method);
      assert.equal(foreign.status, 404, `${method} ${path}`);
      const words = async (response: Response) => (await response.text()).replaceAll(/file-\w{24}/g, 'file-…');
      assert.equal(await words(foreign), await words(missing));
    }
    const list = (await (await withKey(c.secret, `/v1/files?after=${id}`)).json()) as List<unknown>;
    assert.deepEqual(list, { object: 'list', data: [], first_id: null, last_id: null, has_more: false });
    assert.equal((await withKey(b.secret, `/v1/files/${id}`, 'DELETE')).status, 200);
  });

  it('a disabled tenant’s keys are refused, and come back when it is enabled', async () => {
    const tenant = await admin<Tenant>('POST', '/tenants', { name: 'late payer' });
    const { secret } = await create({ name: 'k', tenant: tenant.id });
    await admin('POST', `/tenants/${tenant.id}`, { disabled: true });
    assert.equal((await withKey(secret, '/v1/files')).status, 401);
    await admin('POST', `/tenants/${tenant.id}`, { disabled: false });
    await sleep(3_100);
    assert.equal((await withKey(secret, '/v1/files')).status, 200);
    assert.equal(await refusal('POST', `/tenants/${DEFAULT_TENANT}`, { disabled: true }, 409), 'invalid_state');
  });

  it('what cannot be is refused with its reason', async () => {
    const { id } = await admin<Tenant>('POST', '/tenants', { name: 't' });
    assert.equal(await refusal('POST', '/keys', { name: 'x', tenant: id, scopes: ['admin'] }, 400), 'invalid_value');
    assert.equal(await refusal('POST', '/keys', { name: 'x', expires_at: 1 }, 400), 'invalid_value');
    assert.equal(await refusal('POST', '/keys', { name: 'x', hash: 'f00' }, 400), 'unknown_parameter');
    assert.equal(await refusal('POST', '/keys', { name: 'x', tenant: 'f'.repeat(32) }, 404), 'tenant_not_found');
    assert.equal(await refusal('GET', '/keys/key_none', undefined, 404), 'key_not_found');
    assert.equal(await refusal('GET', '/tenants/none', undefined, 404), 'tenant_not_found');
  });

  it('the log has one entry a change, no secret, and a chain that holds', async () => {
    const before = (await admin<List<AuditEntry>>('GET', '/audit?limit=1')).data[0]?.seq ?? 0;
    const key = await create({ name: 'audited' });
    await admin('POST', `/keys/${key.id}`, { limits: { requestsPerMinute: 5 } });
    const next = await admin<ApiKey & { secret: string }>('POST', `/keys/${key.id}/rotate`, {});
    await admin('POST', `/keys/${next.id}/revoke`);
    await admin('POST', `/keys/${next.id}/revoke`);
    const { data } = await admin<List<AuditEntry>>('GET', '/audit?limit=100');
    const fresh = data.filter(({ seq }) => seq > before).reverse();
    assert.deepEqual(
      fresh.map(({ action, target }) => [action, target]),
      [
        ['key.created', key.id],
        ['key.updated', key.id],
        ['key.rotated', key.id],
        ['key.revoked', next.id],
      ],
    );
    assert.ok(fresh.every(({ actor, request_id }) => actor === 'key_bootstrap' && request_id !== null));
    const text = JSON.stringify(data);
    for (const secret of [key.secret, next.secret, API_KEY]) assert.ok(!text.includes(secret));
    const verdict = await admin<AuditVerdict>('POST', '/audit/verify');
    assert.deepEqual([verdict.ok, verdict.problem], [true, null]);
    assert.equal(verdict.head?.seq, verdict.checked);
  });
});
