/** Endpoints and deliveries of an earlier version go on: what was to be sent is, and who wanted all wants all. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { DEFAULT_TENANT } from '../../../shared/contract/keys.ts';

const FOLDER = fileURLToPath(new URL('../../../edge/store/migrations/', import.meta.url));

type Sqlite = {
  run(sql: string): void;
  exec(sql: string): { columns: string[]; values: (string | number | null)[][] }[];
};

const body = (job: string) =>
  JSON.stringify({ id: 'evt', object: 'event', type: 'fine_tuning.job.succeeded', created_at: 1, data: { id: job } });

test('webhooks of an earlier version go on', async () => {
  const sqlJs = createRequire(import.meta.url)('sql.js') as () => Promise<{ Database: new () => Sqlite }>;
  const db = new (await sqlJs()).Database();
  const names = readdirSync(FOLDER)
    .filter((name) => name.endsWith('.sql'))
    .sort();
  const apply = (name: string) => db.run(readFileSync(join(FOLDER, name), 'utf8'));
  const ours = names.findIndex((name) => name.startsWith('0008'));
  names.slice(0, ours).forEach(apply);
  const all = ['succeeded', 'failed', 'cancelled'].map((end) => `fine_tuning.job.${end}`);
  all.push(...['completed', 'failed', 'expired', 'cancelled'].map((end) => `batch.${end}`));
  const endpoint = (id: string, events: string[], disabledAt: number | 'NULL') =>
    `('${id}', 'https://example.com/${id}', '${JSON.stringify(events)}', 'whsec_x', 1, ${disabledAt}, ${id.charCodeAt(4)})`;
  db.run(`INSERT INTO webhook_endpoints (id, url, events, secret, created_at, disabled_at, seq) VALUES
    ${endpoint('whe_all', all, 'NULL')}, ${endpoint('whe_one', ['batch.failed'], 'NULL')}, ${endpoint('whe_gone', all, 99)}`);
  const delivery = (
    event: string,
    to: string,
    job: string,
    at: number,
    attempts: number,
    next: number | 'NULL',
    done: number | 'NULL',
  ) => `('${event}', '${to}', 'fine_tuning.job.succeeded', '${body(job)}', ${at}, ${attempts}, ${next}, ${done})`;
  db.run(`INSERT INTO webhook_deliveries (event_id, endpoint_id, type, body, created_at, attempts, next_at, delivered_at) VALUES
    ${delivery('evt_2', 'whe_all', 'ftjob-1', 20, 2, 500, 'NULL')},
    ${delivery('evt_1', 'whe_all', 'ftjob-1', 10, 1, 'NULL', 11)},
    ${delivery('evt_1', 'whe_gone', 'ftjob-1', 10, 1, 'NULL', 'NULL')},
    ${delivery('evt_3', 'whe_all', 'ftjob-2', 30, 10, 'NULL', 'NULL')},
    ${delivery('evt_4', 'whe_deleted', 'ftjob-3', 40, 1, 700, 'NULL')}`);
  names.slice(ours).forEach(apply);
  const rows = (sql: string) => db.exec(sql)[0]?.values ?? [];
  assert.deepEqual(
    rows("SELECT id, tenant, object_id, sequence, body ->> '$.data.sequence' FROM webhook_events ORDER BY seq"),
    [
      ['evt_1', DEFAULT_TENANT, 'ftjob-1', 1, 1],
      ['evt_2', DEFAULT_TENANT, 'ftjob-1', 2, 2],
      ['evt_3', DEFAULT_TENANT, 'ftjob-2', 1, 1],
    ],
  );
  assert.deepEqual(
    rows('SELECT event_id, endpoint_id, status, attempts, next_at FROM webhook_deliveries ORDER BY 1, 2'),
    [
      ['evt_1', 'whe_all', 'delivered', 1, null],
      ['evt_1', 'whe_gone', 'cancelled', 1, null],
      ['evt_2', 'whe_all', 'pending', 2, 500],
      ['evt_3', 'whe_all', 'failed', 10, null],
    ],
  );
  assert.deepEqual(rows('SELECT object_id, last FROM webhook_sequences ORDER BY 1'), [
    ['ftjob-1', 2],
    ['ftjob-2', 1],
  ]);
  assert.deepEqual(rows('SELECT id, events, disabled_reason, old_secrets FROM webhook_endpoints ORDER BY 1'), [
    ['whe_all', '["*"]', null, '[]'],
    ['whe_gone', '["*"]', 'gone', '[]'],
    ['whe_one', '["batch.failed"]', null, '[]'],
  ]);
});
