import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../..', import.meta.url));

test('a backend that can never start ends npm start with its reason', { timeout: 120_000 }, async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'mantis-never-'));
  try {
    const child = spawn(process.execPath, ['--import', 'tsx', 'deploy/start.ts'], {
      cwd: root,
      env: { ...process.env, PORT: '0', MANTIS_DATA_DIR: dataDir, MANTIS_MODELS: 'x=/nonexistent' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const told = { stdout: '', stderr: '' };
    child.stdout.on('data', (data) => (told.stdout += String(data)));
    child.stderr.on('data', (data) => (told.stderr += String(data)));
    const [code] = await once(child, 'close');
    assert.equal(code, 1, told.stderr);
    assert.doesNotMatch(told.stdout, /^ready /m);
    assert.match(told.stderr, /the model x in \/nonexistent cannot be served/);
    assert.match(told.stderr, /ended 5 times before it was ready/);
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
});
