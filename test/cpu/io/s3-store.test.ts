import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, beforeEach } from 'node:test';
import { S3ObjectError, S3Store } from '../../../gpu-backend/io/s3-store.ts';
import { S3Server } from '../../fixtures/s3-server.ts';

const MIB = 1 << 20;
const folder = await mkdtemp(join(tmpdir(), 's3-store-'));
const s3 = await S3Server.start();
Object.assign(process.env, s3.environment);
const store = await S3Store.open('s3://bucket/checkpoints', {
  multipartBytes: 8 * MIB,
  partBytes: 5 * MIB,
  maxAttempts: 4,
});
after(async () => {
  store.close();
  await s3.stop();
  await rm(folder, { recursive: true, force: true });
});
beforeEach(() => {
  s3.faults.length = 0;
  s3.log.length = 0;
});

const facts = (bytes: Buffer) => ({ bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') });

async function fileOf(name: string, bytes: Buffer): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, bytes);
  return path;
}

test('a file goes and comes back, with its digest on the way', async () => {
  const bytes = randomBytes(100_000);
  const location = store.locationOf('jobs/ftjob-1/3/model.safetensors');
  assert.equal(location, 's3://bucket/checkpoints/jobs/ftjob-1/3/model.safetensors');
  await store.put(location, await fileOf('a', bytes), facts(bytes));
  assert.deepEqual(s3.objects.get('/bucket/checkpoints/jobs/ftjob-1/3/model.safetensors'), bytes);
  await store.get(location, join(folder, 'back', 'a'), facts(bytes));
  assert.deepEqual(await readFile(join(folder, 'back', 'a')), bytes);
  assert.deepEqual(s3.violations, []);
});

test('a large file goes in parts, through failing calls', async () => {
  const bytes = randomBytes(12 * MIB);
  const location = store.locationOf('large');
  s3.faults.push({ on: 'PUT /bucket/', as: 500, times: 2 }, { on: 'POST /bucket/', as: 503, times: 1 });
  await store.put(location, await fileOf('large', bytes), facts(bytes));
  assert.equal(s3.log.filter((line) => line.startsWith('PUT') && line.includes('partNumber')).length, 3 + 2);
  assert.ok(s3.objects.get('/bucket/checkpoints/large')?.equals(bytes));
  s3.faults.push({ on: 'GET /bucket/', as: 'cut', times: 2 });
  await store.get(location, join(folder, 'large-back'), facts(bytes));
  assert.ok((await readFile(join(folder, 'large-back'))).equals(bytes));
  assert.deepEqual([s3.uploads.size, s3.violations], [0, []]);
});

test('an upload that fails for good leaves no part behind, and no object', async () => {
  const bytes = randomBytes(9 * MIB);
  s3.faults.push({ on: 'PUT /bucket/checkpoints/never', as: 500, times: 99 });
  await assert.rejects(store.put(store.locationOf('never'), await fileOf('never', bytes), facts(bytes)));
  assert.deepEqual([s3.uploads.size, s3.objects.has('/bucket/checkpoints/never')], [0, false]);
  s3.faults.length = 0;
  // A file that is not what its digest says is refused by the store, or before its parts are put together.
  const wrong = { bytes: bytes.length, sha256: facts(randomBytes(1)).sha256 };
  await assert.rejects(
    store.put(store.locationOf('never'), join(folder, 'never'), wrong),
    /changed while it was uploaded/,
  );
  const small = randomBytes(10);
  await assert.rejects(
    store.put(store.locationOf('never'), await fileOf('small', small), { ...facts(small), sha256: wrong.sha256 }),
  );
  assert.deepEqual([s3.uploads.size, s3.objects.has('/bucket/checkpoints/never')], [0, false]);
  s3.violations.length = 0;
});

test('what is damaged or gone is said, and nothing of it is left on disk', async () => {
  const bytes = randomBytes(5_000);
  const location = store.locationOf('b');
  await store.put(location, await fileOf('b', bytes), facts(bytes));
  const dir = join(folder, 'damaged');
  const get = (where = location, expected = facts(bytes)) => store.get(where, join(dir, 'b'), expected);
  s3.faults.push({ on: 'GET /bucket/', as: 'flip', times: 1 });
  await assert.rejects(
    get(),
    (error) => error instanceof S3ObjectError && /expected 5000 bytes, sha256/.test(error.message),
  );
  await assert.rejects(
    get(store.locationOf('none')),
    (error) => error instanceof S3ObjectError && /no such object/.test(error.message),
  );
  await assert.rejects(get(location, { ...facts(bytes), bytes: 4_000 }), /longer than 4000 bytes/);
  s3.faults.push({ on: 'GET /bucket/', as: 500, times: 99 });
  await assert.rejects(get(), (error) => !(error instanceof S3ObjectError));
  assert.deepEqual(await readdir(dir), []);
});

test('only objects of the store are deleted, and those that are gone are no error', async () => {
  const bytes = randomBytes(10);
  await store.put(store.locationOf('c'), await fileOf('c', bytes), facts(bytes));
  await store.remove([store.locationOf('c'), store.locationOf('c')]);
  assert.equal(s3.objects.has('/bucket/checkpoints/c'), false);
  await assert.rejects(
    store.remove(['s3://bucket/checkpoints-of-others/c']),
    /expected an object of s3:\/\/bucket\/checkpoints/,
  );
  await assert.rejects(S3Store.open('https://bucket/x'), /expected s3:\/\/bucket\/prefix/);
});
