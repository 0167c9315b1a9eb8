/**
 * What checking keys and signatures costs a request, and the long form of the tests of the door: every route × credential, 10,000 tampered calls,
 * 5,000 audited operations. `--quick` leaves the long tests out.
 */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { Hono } from 'hono';
import type { AppEnv } from '../../edge/env.ts';
import { apiKey } from '../../edge/middleware/auth.ts';
import { isWellFormedKey, newApiKey } from '../../shared/wire/key.ts';
import { NonceCache } from '../../shared/wire/nonces.ts';
import { bodyMatches, sha256Hex, signatureHeaders, verifyHeaders } from '../../shared/wire/signature.ts';

const ROUNDS = 5;

/** Median over `ROUNDS` of the mean time of one call, in µs. */
async function costUs(calls: number, work: () => unknown): Promise<number> {
  const means: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const startMs = performance.now();
    for (let i = 0; i < calls; i++) await work();
    means.push(((performance.now() - startMs) * 1_000) / calls);
  }
  return Number((means.sort((a, b) => a - b)[ROUNDS >> 1] ?? 0).toFixed(2));
}

async function keyCosts(): Promise<Record<string, number>> {
  const key = newApiKey();
  const row = {
    id: 'key_1',
    tenant: '0'.repeat(32),
    scopes: '["files"]',
    limits: '{}',
    tenant_limits: '{}',
    expires_at: null,
    last_used_at: 1,
  };
  const found = { bind: () => ({ first: async () => ({ ...row, last_used_at: Date.now() }), run: async () => ({}) }) };
  const env = { DB: { prepare: () => found } } as unknown as AppEnv['Bindings'];
  const background = { waitUntil: () => {}, passThroughOnException: () => {}, props: {} };
  const open = new Hono<AppEnv>().all('/v1/files', (c) => c.body(null, 204));
  const closed = new Hono<AppEnv>().use('/v1/*', apiKey()).all('/v1/files', (c) => c.body(null, 204));
  const request = (app: Hono<AppEnv>) =>
    app.request('/v1/files', { headers: { authorization: `Bearer ${key}` } }, env, background);
  const without = await costUs(2_000, () => request(open));
  const withKey = await costUs(2_000, () => request(closed));
  const fake = key.slice(0, -1) + (key.endsWith('0') ? '1' : '0');
  return {
    checkKeyUs: Number((withKey - without).toFixed(2)),
    hashKeyUs: await costUs(2_000, () => sha256Hex(key)),
    refuseFakeUs: await costUs(20_000, () => isWellFormedKey(fake)),
  };
}

async function signatureCosts(bytes: number, calls: number): Promise<Record<string, number>> {
  const body = new Uint8Array(randomBytes(bytes));
  const call = {
    secret: randomBytes(32).toString('hex'),
    audience: 'backend-1',
    method: 'POST',
    target: '/v1/generate',
    nowS: Date.now() / 1000,
  };
  const headers = await signatureHeaders({ ...call, body });
  const header = (name: string) => headers[name];
  return {
    bytes,
    signUs: await costUs(calls, () => signatureHeaders({ ...call, body })),
    verifyHeadersUs: await costUs(calls, () => verifyHeaders({ ...call, header, toleranceS: 60 })),
    verifyBodyUs: await costUs(calls, () => bodyMatches(headers['x-mantis-body-sha256'] ?? '', body)),
  };
}

async function nonceCosts(): Promise<Record<string, number>> {
  const cache = new NonceCache(60, 1_000_000);
  const nonces = Array.from({ length: 100_000 }, () => randomBytes(16).toString('hex'));
  const before = process.memoryUsage().heapUsed;
  let i = 0;
  const takeUs = await costUs(nonces.length / ROUNDS, () => cache.take(nonces[i++] ?? '', 1_000 + (i % 60), 1_060));
  return { held: cache.size, takeUs, bytesEach: Math.round((process.memoryUsage().heapUsed - before) / cache.size) };
}

/** Runs a test file in its long form. @returns the JSON lines that it printed */
function longTest(file: string): { passed: boolean; results: unknown[] } {
  const root = join(import.meta.dirname, '..', '..');
  const { status, stdout } = spawnSync(process.execPath, ['--import', 'tsx', '--test', join(root, 'test', file)], {
    cwd: root,
    env: { ...process.env, MANTIS_LONG_TESTS: '1' },
    encoding: 'utf8',
    maxBuffer: 1 << 30,
    timeout: 600_000,
  });
  const results = [...stdout.matchAll(/^# (\{"(?:routes|spellings|operations|pairs)".*\})$/gm)].map(
    ([, line = '{}']) => JSON.parse(line) as unknown,
  );
  return { passed: status === 0, results };
}

const result = {
  bench: 'auth',
  keys: await keyCosts(),
  signatures: [await signatureCosts(100_000, 500), await signatureCosts(15 << 20, 10)],
  nonces: await nonceCosts(),
  long: process.argv.includes('--quick')
    ? null
    : {
        matrix: longTest('wire/edge/auth-matrix.test.ts'),
        tenants: longTest('wire/edge/auth-tenants.test.ts'),
        audit: longTest('wire/edge/auth-audit.test.ts'),
        tampered: longTest('null/server/signatures.test.ts'),
      },
};
console.log(JSON.stringify(result));
