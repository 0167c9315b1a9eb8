import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const BIN = fileURLToPath(new URL('../../../gpu-backend/cli/mantis.mjs', import.meta.url));
const NANO = fileURLToPath(new URL('../../../gpu-backend/models/nano', import.meta.url));
const data = mkdtempSync(join(tmpdir(), 'mantis-devices-'));
after(() => rmSync(data, { recursive: true }));

/** No drivers are named, so that a machine with a software adapter answers as one without. */
async function devices(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
  const child = spawn(process.execPath, [BIN, 'devices', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: process.env.PATH, MANTIS_DATA_DIR: data, ...env },
  });
  let [out, err] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, out, err };
}

test('a table names every device and a reason, JSON says the same', async () => {
  const { code, out, err } = await devices([]);
  assert.deepEqual([code, err], [0, '']);
  for (const device of ['cuda', 'webgpu', 'cpu']) assert.match(out, new RegExp(`^${device} .*\\w{3}`, 'm'));
  assert.equal(out.match(/ used /g)?.length, 1);
  const json = await devices(['--json']);
  const { choice, verdicts } = JSON.parse(json.out) as {
    choice: string;
    verdicts: { device: string; used: boolean; reason: string }[];
  };
  assert.equal(choice, 'auto');
  for (const { device, reason } of verdicts) {
    assert.ok(reason.length > 0, device);
    assert.ok(out.includes(reason), reason);
  }
});

test('MANTIS_DEVICE is what a backend would choose', async () => {
  const { code, out } = await devices(['--model', NANO], { MANTIS_DEVICE: 'cpu' });
  assert.equal(code, 0);
  assert.match(out, /cpu was asked for/);
  assert.match(out, /\d+ nodes on cpu, 0 copies between/);
  const wrong = await devices([], { MANTIS_DEVICE: 'tpu' });
  assert.notEqual(wrong.code, 0);
  assert.match(wrong.err, /tpu.*Allowed choices are auto, cuda, webgpu, cpu/s);
});
