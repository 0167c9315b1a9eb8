/** What lies in the stores: data from before there were tenants, the audit chain under a hand that changes rows, and no secret anywhere. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Miniflare } from 'miniflare';
import { unstable_getMiniflareWorkerOptions, unstable_splitSqlQuery } from 'wrangler';
import { databaseWorker, type Row, type Statement } from '../../../deploy/database.ts';
import { type RunningEdge, startEdge } from '../../../deploy/edge.ts';
import type { AuditEntry, AuditVerdict } from '../../../shared/contract/audit.ts';
import type { FileObject, List } from '../../../shared/contract/files.ts';
import { type ApiKey, DEFAULT_TENANT } from '../../../shared/contract/keys.ts';
import { signatureHeaders } from '../../../shared/wire/signature.ts';
import { SECRET } from './installation.ts';

const root = join(import.meta.dirname, '..', '..', '..');
/** As an earlier version made them: no checksum. */
const OLD_KEY = 'mk_q83vEjRWeJq83vEjRWeJq83vEjRWeJq83';

describe('the stores', () => {
  let dataDir: string;
  let edge: RunningEdge | null = null;
  before(async () => {
    dataDir = await mkdtemp(join(tmpdir(), 'mantis-stores-'));
  });
  after(async () => {
    await edge?.dispose();
    await rm(dataDir, { recursive: true, force: true });
  });

  /** Runs statements in the database while no door is open. @returns the rows of each */
  async function inDatabase(statements: readonly Statement[]): Promise<Row[][]> {
    await mkdir(join(dataDir, 'edge'), { recursive: true });
    const { workerOptions } = unstable_getMiniflareWorkerOptions(join(root, 'deploy', 'wrangler.jsonc'));
    const database = databaseWorker(workerOptions.d1Databases);
    const miniflare = new Miniflare({
      ...database.worker,
      cf: false,
      defaultPersistRoot: join(dataDir, 'edge'),
    });
    try {
      return await database.open(miniflare).batch(statements);
    } finally {
      await miniflare.dispose();
    }
  }

  async function open(): Promise<void> {
    edge = await startEdge({ port: 0, dataDir, backendSecret: SECRET });
    assert.equal(edge.newApiKey, null, 'the old key goes on');
  }

  async function close(): Promise<void> {
    await edge?.dispose();
    edge = null;
  }

  async function call<T>(method: string, path: string, body?: object): Promise<T> {
    const response = await fetch(`${edge?.url}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${OLD_KEY}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    assert.equal(response.status, 200, `${method} ${path}`);
    return (await response.json()) as T;
  }

  it('from before there were tenants keep their key, and what they hold is the default tenant’s', async () => {
    const sql = await readFile(join(root, 'edge', 'store', 'migrations', '0001_init.sql'), 'utf8');
    await inDatabase([
      ...unstable_splitSqlQuery(sql).map((statement) => ({ sql: statement })),
      {
        sql: 'CREATE TABLE d1_migrations (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL)',
      },
      { sql: `INSERT INTO d1_migrations (name) VALUES ('0001_init.sql')` },
      {
        sql: `INSERT INTO api_keys (hash, id, name, created_at) VALUES (?, 'key_0123456789ab', 'bootstrap', 1)`,
        values: [createHash('sha256').update(OLD_KEY).digest('hex')],
      },
      {
        sql: `INSERT INTO files (id, purpose, filename, mime, bytes, sha256, created_at, seq) VALUES ('file-old', 'user_data', 'a.txt', 'text/plain', 1, 'x', 1, 1)`,
      },
      {
        sql: `INSERT INTO webhook_endpoints (id, url, events, secret, created_at, seq) VALUES ('whe_old', 'https://example.com/', '[]', 'whsec_x', 1, 1)`,
      },
    ]);
    await open();
    const files = await call<List<FileObject>>('GET', '/v1/files');
    assert.deepEqual(
      files.data.map(({ id }) => id),
      ['file-old'],
    );
    assert.equal((await call<List<unknown>>('GET', '/v1/webhook_endpoints')).data.length, 1);
    const { data } = await call<List<ApiKey>>('GET', '/v1/admin/keys');
    assert.deepEqual([data.length, data[0]?.tenant, data[0]?.status], [1, DEFAULT_TENANT, 'active']);
  });

  it('hold none of the secrets that were issued, in no form but their hashes', async () => {
    const secrets: string[] = [];
    for (let i = 0; i < 40; i++)
      secrets.push((await call<{ secret: string }>('POST', '/v1/admin/keys', { name: `key ${i}` })).secret);
    for (const secret of secrets.slice(0, 20)) {
      const used = await fetch(`${edge?.url}/v1/files`, { headers: { authorization: `Bearer ${secret}` } });
      assert.equal(used.status, 200);
    }
    // A backend's call, taken once.
    const target = '/internal/files/file-none/content';
    const nowS = Date.now() / 1000;
    const signature = await signatureHeaders({ secret: SECRET, method: 'GET', target, body: null, nowS });
    const internal = async () => (await fetch(`${edge?.url}${target}`, { headers: signature })).status;
    assert.deepEqual([await internal(), await internal()], [404, 401]);
    await close();
    let read = 0;
    for (const entry of await readdir(dataDir, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const bytes = await readFile(join(entry.parentPath, entry.name));
      read += bytes.byteLength;
      // The middle of the secret is enough to find it whatever stands around it.
      for (const secret of [OLD_KEY, ...secrets]) {
        assert.ok(!bytes.includes(secret.slice(6, 30)), `${entry.name} holds a secret`);
        assert.ok(
          !bytes.includes(Buffer.from(secret).toString('base64').slice(8, 32)),
          `${entry.name} holds one in base64`,
        );
      }
    }
    assert.ok(read > 100_000, `${read} bytes were searched`);
    await open();
    assert.equal(await internal(), 401, 'a call that was taken before a restart stays taken');
  });

  it('show each change of the audit log by hand: a flipped bit, a row taken out, rows cut off', async () => {
    const { data } = await call<List<AuditEntry>>('GET', '/v1/admin/audit?limit=100');
    const newest = data[0]?.seq ?? 0;
    assert.ok(newest >= 40 && data.every(({ hash }) => hash !== null));
    const middle = data[20]?.seq ?? 0;
    const tampered: [name: string, sql: string, seq: number][] = [
      ['a flipped bit', `UPDATE audit_log SET data = replace(data, '"', '#') WHERE seq = ${middle}`, middle],
      ['a row taken out', `DELETE FROM audit_log WHERE seq = ${middle}`, middle],
      ['rows cut off', `DELETE FROM audit_log WHERE seq > ${newest - 3}`, newest - 2],
    ];
    await close();
    const [whole = []] = await inDatabase([{ sql: 'SELECT * FROM audit_log' }]);
    const columns = Object.keys(whole[0] ?? {});
    const insert = `INSERT INTO audit_log (${columns.join(', ')}) VALUES (${columns.map(() => '?').join(', ')})`;
    for (const [name, sql, seq] of tampered) {
      await inDatabase([
        { sql: 'DELETE FROM audit_log' },
        ...whole.map((row) => ({ sql: insert, values: columns.map((column) => row[column] ?? null) })),
        { sql },
      ]);
      await open();
      const verdict = await call<AuditVerdict>('POST', '/v1/admin/audit/verify');
      assert.deepEqual([verdict.ok, verdict.problem?.seq], [false, seq], `${name}: ${JSON.stringify(verdict)}`);
      await close();
    }
  });
});
