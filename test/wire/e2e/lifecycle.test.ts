/** How the product starts, stops and falls: the seams that scripts are written against. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdir, readFile, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { imagePart, textPart } from './pictures.ts';
import { startProduct } from './product.ts';

const READY_BAR_MS = 90_000;

const alive = async (pids: readonly number[]): Promise<number[]> => {
  const states = await Promise.all(
    pids.map(async (pid) => {
      const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
      return /\) [^ZX ]/.test(stat) ? pid : undefined;
    }),
  );
  return states.filter((pid) => pid !== undefined);
};

const eventuallyGone = async (pids: readonly number[], timeoutMs: number): Promise<number[]> => {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const left = await alive(pids);
    if (left.length === 0 || Date.now() > deadline) return left;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
};

test('SIGTERM lets a running answer end, exits 0 and leaves nothing behind', async (t) => {
  const product = await startProduct();
  t.after(() => rm(product.dataDir, { recursive: true, force: true }));
  assert.ok(product.readyAfterMs < READY_BAR_MS);
  assert.equal(product.output().match(/^ready /gm)?.length, 1, 'one ready line');
  assert.ok(!product.output().includes(product.apiKey), 'a given key is not printed');

  const model = (await product.client.models.list()).data[0]?.id ?? assert.fail('GET /v1/models lists a model');
  const stream = await product.client.chat.completions.create({
    model,
    messages: [{ role: 'user', content: [imagePart('frame-1'), textPart('Describe image 1.')] }],
    stream: true,
    temperature: 0,
  });
  const chunks = stream[Symbol.asyncIterator]();
  const first = await chunks.next();
  assert.ok(first.done !== true);
  const pids = await product.processes();
  const stopped = product.terminate();
  let finish: string | null | undefined;
  for (let next = await chunks.next(); next.done !== true; next = await chunks.next()) {
    finish = next.value.choices[0]?.finish_reason ?? finish;
  }
  assert.match(String(finish), /^(stop|length)$/, 'the answer that was running came to its end');
  assert.equal(await stopped, 0);
  assert.deepEqual(await eventuallyGone(pids, 2_000), []);
  const port = Number(new URL(product.url).port);
  const refused = await new Promise<boolean>((resolve) => {
    const socket = connect(port, '127.0.0.1', () => resolve(socket.destroy() && false)).on('error', () =>
      resolve(true),
    );
  });
  assert.ok(refused, 'the port is closed');
});

test('when the start process is killed, its children notice and end', async (t) => {
  const product = await startProduct();
  t.after(() => rm(product.dataDir, { recursive: true, force: true }));
  const pids = await product.processes();
  assert.ok(pids.length >= 3, 'start, workerd and backend');
  process.kill(pids[0] ?? assert.fail('the start process is the first'), 'SIGKILL');
  const left = await eventuallyGone(pids, 10_000);
  for (const pid of left) process.kill(pid, 'SIGKILL');
  assert.deepEqual(left, []);
});

test('a backend that dies is started again, and the door stays open meanwhile', async (t) => {
  const product = await startProduct();
  t.after(() => rm(product.dataDir, { recursive: true, force: true }));
  t.after(() => product.terminate());
  const backend = await findProcess(await product.processes(), 'gpu-backend/main.ts');
  process.kill(backend, 'SIGKILL');
  assert.equal((await fetch(`${product.url}/health/live`)).status, 200);
  const deadline = Date.now() + 60_000;
  for (let ready = false; !ready; ) {
    assert.ok(Date.now() < deadline, `no new backend after a minute:\n${product.output().slice(-2000)}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
    const again = await findProcess(await product.processes(), 'gpu-backend/main.ts').catch(() => backend);
    ready = again !== backend && (await fetch(`${product.url}/health/ready`)).ok;
  }
  const model = (await product.client.models.list()).data[0]?.id ?? assert.fail('GET /v1/models lists a model');
  const answer = await product.client.chat.completions.create({
    model,
    messages: [{ role: 'user', content: [imagePart('frame-1'), textPart('What is in image 1?')] }],
    max_completion_tokens: 4,
  });
  assert.equal(typeof answer.choices[0]?.message.content, 'string');
});

test('without a given key one is made, printed once, and kept as a hash only', async (t) => {
  const product = await startProduct({ apiKey: '' });
  t.after(() => rm(product.dataDir, { recursive: true, force: true }));
  t.after(() => product.terminate());
  const key = /\b(mk_[\w-]{20,})/.exec(product.output())?.[1] ?? assert.fail(`no key in: ${product.output()}`);
  const get = (authorization: string): Promise<Response> =>
    fetch(`${product.url}/v1/models`, { headers: { authorization } });
  assert.equal((await get(`Bearer ${key}`)).status, 200);
  assert.equal((await get('Bearer mk_something_else')).status, 401);
  for (const entry of await readdir(product.dataDir, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const bytes = await readFile(join(entry.parentPath, entry.name));
    assert.ok(!bytes.includes(key), `${entry.name} holds the key`);
  }
});

test('what is open without a key is the published list', async (t) => {
  const product = await startProduct();
  t.after(() => rm(product.dataDir, { recursive: true, force: true }));
  t.after(() => product.terminate());
  const statusOf = async (path: string): Promise<number> => (await fetch(product.url + path)).status;
  assert.equal(await statusOf('/health'), 200);
  assert.equal(await statusOf('/openapi.json'), 200);
  for (const path of [
    '/v1/models',
    '/v1/files',
    '/v1/fine_tuning/jobs',
    '/v1/webhook_endpoints',
    '/internal/models/x',
  ]) {
    assert.equal(await statusOf(path), 401, path);
  }
  const openapi = (await (await fetch(`${product.url}/openapi.json`)).json()) as { paths: Record<string, unknown> };
  const wanted = ['/v1/chat/completions', '/v1/models', '/v1/files', '/v1/fine_tuning/jobs', '/v1/webhook_endpoints'];
  assert.deepEqual(
    wanted.filter((path) => openapi.paths[path] === undefined),
    [],
  );
});

test('a wrong setting ends the start with one sentence and exit code 1', () => {
  const root = join(dirname(fileURLToPath(import.meta.url)), '../../..');
  const { status, stderr } = spawnSync(process.execPath, ['--import', 'tsx', 'deploy/start.ts'], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, PORT: 'eighty' },
  });
  assert.equal(status, 1);
  assert.match(stderr, /PORT: expected .* received "eighty"/);
});

async function findProcess(pids: readonly number[], word: string): Promise<number> {
  for (const pid of pids) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (command.includes(word)) return pid;
  }
  throw new Error(`no process of ${pids.join(' ')} has '${word}' in its command line`);
}
