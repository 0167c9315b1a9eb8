import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, beforeEach, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { FaultyHub } from '../../null/io/hub-server.ts';

const BIN = fileURLToPath(new URL('../../../gpu-backend/cli/mantis.mjs', import.meta.url));
const CHECKPOINT = fileURLToPath(new URL('../../fixtures/checkpoints/tiny-idefics2', import.meta.url));
const ID = 'owner/tiny-idefics2';
const SHARD = 'model-00002-of-00005.safetensors';

const scratch = mkdtempSync(join(tmpdir(), 'mantis-import-hub-'));
after(() => rmSync(scratch, { recursive: true, force: true }));
let hub: FaultyHub;
beforeEach(async () => {
  hub = new FaultyHub();
  await hub.start();
  for (const name of readdirSync(CHECKPOINT))
    if (/^(config|model)/.test(name))
      hub.put(name, readFileSync(join(CHECKPOINT, name)), name.endsWith('.safetensors'));
  hub.put('pytorch_model.bin', 'PK\u0003\u0004', true);
});
afterEach(() => hub.stop());

interface Outcome {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

function mantis(args: readonly string[], env: Record<string, string> = {}, watch?: (kill: () => void) => void) {
  const child = spawn(process.execPath, [BIN, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: process.env.PATH, HF_ENDPOINT: hub.endpoint, ...env },
  });
  let [out, err] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
  watch?.(() => child.kill('SIGKILL'));
  return new Promise<Outcome>((resolve) => child.once('close', (code) => resolve({ code, out, err })));
}

test('a hub id is imported over dropped connections and a busy hub, and gives what the folder gives', async () => {
  hub.gate = { status: 401, token: 'hf_test' };
  hub.faults.push(
    { file: 'listing', status: 503 },
    { file: SHARD, dropAfter: 20_000, dropDelayMs: 500 },
    { file: SHARD, dropAfter: 10_000, dropDelayMs: 500 },
  );
  const [fromHub, fromFolder] = [join(scratch, 'hub'), join(scratch, 'folder')];
  const got = await mantis(['import', ID, '--out', fromHub, '--precision', 'int8'], { HF_TOKEN: 'hf_test' });
  assert.equal(got.code, 0, got.err);
  const requests = hub.seen.filter(({ host, path }) => host === 'storage' && path.includes(SHARD));
  assert.equal(requests.length, 3);
  assert.ok(requests.slice(1).every(({ range, authorization }) => range !== undefined && authorization === undefined));
  assert.ok(!existsSync(`${fromHub}.download`));

  const want = await mantis(['import', CHECKPOINT, '--out', fromFolder, '--precision', 'int8']);
  assert.equal(want.code, 0, want.err);
  const weights = readdirSync(fromFolder).filter((name) => statSync(join(fromFolder, name)).size > 5000);
  assert.ok(weights.length > 0);
  for (const name of weights)
    assert.deepEqual(readFileSync(join(fromHub, name)), readFileSync(join(fromFolder, name)), name);
});

test('an import that was killed during the download goes on from what had come', async () => {
  const out = join(scratch, 'killed');
  hub.faults.push({ file: SHARD, stallAfter: 30_000 });
  const first = await mantis(['import', ID, '--out', out], {}, (kill) => {
    const wait = setInterval(() => {
      const part = statSync(join(`${out}.download`, `${SHARD}.part`), { throwIfNoEntry: false });
      if ((part?.size ?? 0) < 1000) return;
      clearInterval(wait);
      kill();
    }, 20);
    wait.unref();
  });
  assert.equal(first.code, null);
  hub.seen.length = 0;
  const second = await mantis(['import', ID, '--out', out]);
  assert.equal(second.code, 0, second.err);
  const requests = hub.seen.filter(({ path }) => path.includes(SHARD) && path.includes('/blobs/'));
  assert.match(requests[0]?.range ?? '', /^bytes=\d{4,}-$/);
  assert.ok(existsSync(out));
});

test('a gated repository says what to do', async () => {
  hub.gate = { status: 403, code: 'GatedRepo', token: 'hf_right' };
  const { code, err } = await mantis(['import', ID, '--out', join(scratch, 'gated')]);
  assert.notEqual(code, 0);
  assert.match(err, /owner\/tiny-idefics2.*accept its licence.*HF_TOKEN/);
});
