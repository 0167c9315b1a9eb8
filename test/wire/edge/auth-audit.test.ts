/** Random operations, many at once, good and bad: the audit log has one entry for each change, none for what did not happen, and its chain holds. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { AuditEntry, AuditVerdict } from '../../../shared/contract/audit.ts';
import type { List } from '../../../shared/contract/files.ts';
import { type Installation, startInstallation } from './installation.ts';

const OPERATIONS = process.env.MANTIS_LONG_TESTS === '1' ? 5_000 : 400;
const LANES = 8;
const SEED = 20_261_126;

describe('the audit log', () => {
  let door: Installation;
  before(async () => {
    door = await startInstallation({ egressAllow: 'localhost:1' });
  });
  after(() => door.close());

  it(`has one entry for each change of ${OPERATIONS} random operations`, async () => {
    let state = SEED;
    const random = (below: number) => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      return Math.floor((state / 4_294_967_296) * below);
    };
    const ids: Record<'key' | 'tenant' | 'file' | 'hook', string[]> = { key: [], tenant: [], file: [], hook: [] };
    const changes = new Map<string, number>();
    const happened = (action: string) => changes.set(action, (changes.get(action) ?? 0) + 1);
    const any = (kind: keyof typeof ids) => ids[kind][random(ids[kind].length)] ?? `${kind}_none`;

    /** @returns the answer's body where the call succeeded */
    const call = async (method: string, path: string, body?: object): Promise<Record<string, unknown> | null> => {
      const answer = await door.call(method, path, body);
      assert.ok(answer.status < 500, `seed ${SEED}: ${method} ${path}: ${JSON.stringify(answer.body)}`);
      return answer.status === 200 ? (answer.body as Record<string, unknown>) : null;
    };
    const operations: (() => Promise<void>)[] = [
      async () => {
        const key = await call('POST', '/v1/admin/keys', {
          name: 'k',
          ...(random(4) === 0 ? { scopes: ['nonsense'] } : {}),
        });
        if (key === null) return;
        ids.key.push(String(key.id));
        happened('key.created');
      },
      async () => {
        if ((await call('POST', `/v1/admin/keys/${any('key')}`, { name: `n${random(9)}` })) !== null)
          happened('key.updated');
      },
      async () => {
        const key = await call('POST', `/v1/admin/keys/${any('key')}/rotate`, { overlap_s: random(2) });
        if (key === null) return;
        ids.key.push(String(key.id));
        happened('key.rotated');
      },
      async () => {
        const tenant = await call('POST', '/v1/admin/tenants', random(4) === 0 ? {} : { name: 't' });
        if (tenant === null) return;
        ids.tenant.push(String(tenant.id));
        happened('tenant.created');
      },
      async () => {
        const change = { disabled: random(2) === 0 };
        if ((await call('POST', `/v1/admin/tenants/${any('tenant')}`, change)) !== null) happened('tenant.updated');
      },
      async () => {
        const form = new FormData();
        form.set('purpose', random(4) === 0 ? 'nothing' : 'user_data');
        form.set('file', new File([`content ${random(1_000)}`], 'a.txt'));
        const headers = { authorization: `Bearer ${door.openai.apiKey}` };
        const response = await fetch(`${door.url}/v1/files`, { method: 'POST', headers, body: form });
        const body = (await response.json()) as { id?: string };
        if (!response.ok) return;
        ids.file.push(String(body.id));
        happened('file.created');
      },
      async () => {
        if ((await call('DELETE', `/v1/files/${any('file')}`)) !== null) happened('file.deleted');
      },
      async () => {
        const hook = await call('POST', '/v1/webhook_endpoints', { url: `http://localhost:${1 + random(2)}/` });
        if (hook === null) return;
        ids.hook.push(String(hook.id));
        happened('webhook_endpoint.created');
      },
      async () => {
        const hook = await call('DELETE', `/v1/webhook_endpoints/${any('hook')}`);
        if (hook !== null) happened('webhook_endpoint.deleted');
      },
    ];
    const revoked = new Set<string>();
    operations.push(async () => {
      const id = any('key');
      if ((await call('POST', `/v1/admin/keys/${id}/revoke`)) !== null) revoked.add(id);
    });

    let left = OPERATIONS;
    await Promise.all(
      Array.from({ length: LANES }, async () => {
        while (left-- > 0) await operations[random(operations.length)]?.();
      }),
    );
    // A key that is revoked twice, also at the same time, was revoked once.
    changes.set('key.revoked', revoked.size);

    const logged = new Map<string, number>();
    let newest: number | null = null;
    for (let after: string | undefined; ; ) {
      const query = after === undefined ? '' : `&after=${after}`;
      const page = (await door.call('GET', `/v1/admin/audit?limit=100${query}`)).body as List<AuditEntry>;
      for (const { action, actor, seq } of page.data) {
        newest ??= seq;
        if (actor !== 'system') logged.set(action, (logged.get(action) ?? 0) + 1);
      }
      after = page.last_id ?? undefined;
      if (!page.has_more) break;
    }
    const sorted = (counts: Map<string, number>) => [...counts].filter(([, count]) => count > 0).sort();
    assert.deepEqual(sorted(logged), sorted(changes), `seed ${SEED}`);
    const verdict = (await door.call('POST', '/v1/admin/audit/verify')).body as AuditVerdict;
    assert.deepEqual([verdict.ok, verdict.head?.seq, verdict.checked], [true, newest, newest]);
    console.log(
      JSON.stringify({
        operations: OPERATIONS,
        changes: [...changes.values()].reduce((a, b) => a + b, 0),
        entries: newest,
      }),
    );
  });
});
