/** `mantis keys`, `tenants` and `audit` against the real door: what an operator types. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { isWellFormedKey } from '../../../shared/wire/key.ts';
import { API_KEY, type Installation, startInstallation } from '../edge/installation.ts';

const BIN = fileURLToPath(new URL('../../../gpu-backend/cli/mantis.mjs', import.meta.url));

describe('an operator', () => {
  let door: Installation;
  before(async () => {
    door = await startInstallation();
  });
  after(() => door.close());

  async function mantis(args: string[], apiKey = API_KEY): Promise<{ code: number | null; out: string; err: string }> {
    const child = spawn(process.execPath, [BIN, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { PATH: process.env.PATH, MANTIS_BASE_URL: door.url, MANTIS_API_KEY: apiKey },
    });
    let [out, err] = ['', ''];
    child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
    const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
    return { code, out, err };
  }

  it('makes a tenant and a key for it, rotates and revokes it, and reads all that in a log that is whole', async () => {
    const tenant = (await mantis(['tenants', 'create', 'acme', '--limit', 'concurrent=4'])).out.trim();
    assert.match(tenant, /^[0-9a-f]{32}$/);
    const rights = ['--scopes', 'inference,files', '--expires', '90d', '--limit', 'requestsPerMinute=60'];
    const created = await mantis(['keys', 'create', 'ci', '--tenant', tenant, ...rights]);
    assert.equal(created.code, 0, created.err);
    const secret = created.out.trim();
    assert.ok(isWellFormedKey(secret), 'standard output is the secret alone');
    assert.match(created.err, /inference, files; expires in 90 days/);
    const id = /key_\w+/.exec(created.err)?.[0] ?? '';

    const [rotated, forbidden, wrong] = await Promise.all([
      mantis(['keys', 'rotate', id, '--overlap', '60']),
      mantis(['keys', 'list'], secret),
      mantis(['keys', 'create', 'x', '--scopes', 'everything']),
    ]);
    assert.ok(isWellFormedKey(rotated.out.trim()));
    assert.deepEqual([forbidden.code, wrong.code], [1, 2]);
    assert.match(forbidden.err, /^mantis: .*scope "admin"/);
    assert.match(wrong.err, /Expected some of inference, files/);

    const [revoked, disabled] = await Promise.all([
      mantis(['keys', 'revoke', id]),
      mantis(['tenants', 'disable', tenant]),
    ]);
    assert.deepEqual([revoked.out, disabled.out], [`${id} revoked\n`, `${tenant} disabled\n`]);

    const [list, tenants, log, whole] = await Promise.all([
      mantis(['keys', 'list', '--tenant', tenant]),
      mantis(['tenants', 'list', '--json']),
      mantis(['audit', 'list', '--target', id]),
      mantis(['audit', 'verify']),
    ]);
    assert.match(list.out, new RegExp(`^${id}\\s+ci\\s+…${secret.slice(-4)}\\s+revoked\\s+inference,files`, 'm'));
    assert.equal(list.out.trim().split('\n').length, 3);
    assert.deepEqual(
      (JSON.parse(tenants.out) as { name: string; status: string }[]).map(({ name, status }) => [name, status]),
      [
        ['acme', 'disabled'],
        ['default', 'active'],
      ],
    );
    assert.deepEqual(log.out.match(/key\.\w+/g), ['key.revoked', 'key.rotated', 'key.created']);
    assert.match(whole.out, /^whole: \d+ entries$/m);
  });
});
