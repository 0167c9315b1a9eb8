/** How the product starts, stops and falls: the seams that scripts are written against. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
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

// One product for a whole life: it is started without a key, loses its backend, and ends by SIGTERM while it answers.
test('a life from the first start to SIGTERM', async (t) => {
  const product = await startProduct({ apiKey: '' });
  t.after(() => rm(product.dataDir, { recursive: true, force: true }));
  t.after(() => product.terminate());
  const key = /\b(mk_[\w-]{20,})/.exec(product.output())?.[1] ?? assert.fail(`no key in: ${product.output()}`);
  const client = product.client.withOptions({ apiKey: key });
  const model = (await client.models.list()).data[0]?.id ?? assert.fail('GET /v1/models lists a model');
  const content = [imagePart('frame-1'), textPart('Describe image 1.')];

  await t.test('it is ready in time and says so once', () => {
    assert.ok(product.readyAfterMs < READY_BAR_MS, `${product.readyAfterMs} ms`);
    assert.equal(product.output().match(/^ready /gm)?.length, 1);
  });

  await t.test('the key it made opens the door, another one does not, and only a hash is kept', async () => {
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

  await t.test('what is open without a key is the published list', async () => {
    const statusOf = async (path: string): Promise<number> => (await fetch(product.url + path)).status;
    for (const path of ['/health', '/health/live', '/health/ready', '/openapi.json']) {
      assert.equal(await statusOf(path), 200, path);
    }
    const openapi = (await (await fetch(`${product.url}/openapi.json`)).json()) as { paths: Record<string, unknown> };
    const paths = ['/v1/chat/completions', '/v1/models', '/v1/files', '/v1/fine_tuning/jobs', '/v1/webhook_endpoints'];
    assert.deepEqual(
      paths.filter((path) => openapi.paths[path] === undefined),
      [],
      'the contract describes every resource',
    );
    for (const path of [...paths, '/internal/models/x', '/v1/%6dodels', '//v1/models', '/v1/models/']) {
      assert.match(String(await statusOf(path)), /^(401|404)$/, path);
    }
  });

  await t.test('a backend that dies is started again, and the door stays open meanwhile', async () => {
    const backend = await findProcess(await product.processes(), 'gpu-backend/main.ts');
    process.kill(backend, 'SIGKILL');
    assert.equal((await fetch(`${product.url}/health/live`)).status, 200);
    const deadline = Date.now() + 90_000;
    for (let answered = false; !answered; ) {
      assert.ok(Date.now() < deadline, `no answer 90 s after the kill:\n${product.output().slice(-2000)}`);
      await new Promise((resolve) => setTimeout(resolve, 250));
      answered = await client.chat.completions
        .create({ model, messages: [{ role: 'user', content }], max_completion_tokens: 4 })
        .then(
          () => true,
          (error: unknown) => assertIsUnavailable(error),
        );
    }
    assert.notEqual(await findProcess(await product.processes(), 'gpu-backend/main.ts'), backend);
  });

  await t.test('SIGTERM lets a running answer end, exits 0 and leaves nothing behind', async () => {
    const stream = await client.chat.completions.create({
      model,
      messages: [{ role: 'user', content }],
      stream: true,
      temperature: 0,
    });
    const chunks = stream[Symbol.asyncIterator]();
    assert.ok((await chunks.next()).done !== true);
    const pids = await product.processes();
    const stopped = product.terminate();
    let finish: string | null | undefined;
    for (let next = await chunks.next(); next.done !== true; next = await chunks.next()) {
      finish = next.value.choices[0]?.finish_reason ?? finish;
    }
    assert.match(String(finish), /^(stop|length)$/, 'the answer that was running came to its end');
    assert.equal(await stopped, 0);
    assert.deepEqual(await eventuallyGone(pids, 5_000), []);
    const port = Number(new URL(product.url).port);
    const refused = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => resolve(socket.destroy() && false));
      socket.on('error', () => resolve(true));
    });
    assert.ok(refused, 'the port is closed');
  });
});

for (const victim of ['npm start', 'deploy/start.ts']) {
  test(`when ${victim} is killed, everything it started notices and ends`, async (t) => {
    const product = await startProduct();
    t.after(() => rm(product.dataDir, { recursive: true, force: true }));
    assert.ok(!product.output().includes(product.apiKey), 'a given key is not printed');
    const pids = await product.processes();
    assert.ok(pids.length >= 4, 'npm, start, workerd and backend');
    process.kill(await findProcess(pids, victim), 'SIGKILL');
    const left = await eventuallyGone(pids, 20_000);
    for (const pid of left) process.kill(pid, 'SIGKILL');
    assert.deepEqual(left, []);
  });
}

test('a wrong setting ends the start with one sentence and exit code 1', async (t) => {
  const root = join(dirname(fileURLToPath(import.meta.url)), '../../..');
  const dataDir = await mkdtemp(join(tmpdir(), 'mantis-e2e-'));
  t.after(() => rm(dataDir, { recursive: true, force: true }));
  const start = (env: Record<string, string>): string => {
    const { status, stderr } = spawnSync(process.execPath, ['--import', 'tsx', 'deploy/start.ts'], {
      cwd: root,
      encoding: 'utf8',
      env: { ...process.env, MANTIS_DATA_DIR: dataDir, PORT: '0', ...env },
    });
    assert.equal(status, 1);
    return stderr;
  };
  assert.match(start({ PORT: 'eighty' }), /PORT: expected .* received "eighty"/);
  assert.match(
    start({ MANTIS_KEY_LIMITS: '{"requests":1}' }),
    /MANTIS_KEY_LIMITS: expected JSON .*requestsPerMinute.*received/,
  );
  const binding = start({ MANTIS_BINDING: 'ffi' });
  assert.equal(
    binding.match(/MANTIS_BINDING: expected one of .*, received "ffi"/g)?.length,
    1,
    'it is not tried again',
  );
  const other = createServer().listen(0, '127.0.0.1');
  t.after(() => other.close());
  await once(other, 'listening');
  const { port } = other.address() as AddressInfo;
  assert.equal(
    start({ PORT: String(port) }),
    `PORT: expected a free port of 127.0.0.1, ${port} is not (something listens there). Name another one, or 0 for any.\n`,
  );
});

/** While no backend is there the door says 503, with a time to come back; anything else is a fault. */
function assertIsUnavailable(error: unknown): false {
  const status = error instanceof Error && 'status' in error ? error.status : undefined;
  assert.ok(status === 502 || status === 503, String(error));
  return false;
}

async function findProcess(pids: readonly number[], word: string): Promise<number> {
  for (const pid of pids) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (command.split('\0').join(' ').includes(word)) return pid;
  }
  throw new Error(`no process of ${pids.join(' ')} has '${word}' in its command line`);
}
