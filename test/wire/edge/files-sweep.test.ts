/** Rows and objects agree, whatever breaks off between them: creations and deletions that stop at any step, then one sweep under a later clock. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Miniflare } from 'miniflare';
import { unstable_splitSqlQuery } from 'wrangler';
import type { Env } from '../../../edge/env.ts';
import { adopt } from '../../../edge/files/adopt.ts';
import type { ObjectStore, Staged } from '../../../edge/files/stage.ts';
import { sweepFiles } from '../../../edge/files/sweep.ts';
import { deleteFile, type FileRow, filePrefix } from '../../../edge/store/files.ts';
import { insertLoose } from '../../../edge/store/loose.ts';
import { endUpload, getUpload, insertPart, insertUpload } from '../../../edge/store/uploads.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';

const ROUNDS = process.env.MANTIS_LONG_TESTS === '1' ? 1_500 : 70;
const HOUR_MS = 3_600_000;
const MIGRATIONS = fileURLToPath(new URL('../../../edge/store/migrations/', import.meta.url));

let runtime: Miniflare;
type R2 = ObjectStore['blobs'];
let store: ObjectStore;
before(async () => {
  const script = 'export default { fetch: () => new Response() };';
  runtime = new Miniflare({ modules: true, script, r2Buckets: ['BLOBS'], d1Databases: ['DB'] });
  const db = await runtime.getD1Database('DB');
  for (const name of (await readdir(MIGRATIONS)).sort()) {
    const text = await readFile(join(MIGRATIONS, name), 'utf8');
    await db.batch(unstable_splitSqlQuery(text).map((sql) => db.prepare(sql)));
  }
  store = { db, blobs: await runtime.getR2Bucket('BLOBS') } as unknown as ObjectStore;
});
after(() => runtime.dispose());

const tenants = ['a'.repeat(32), 'b'.repeat(32)];
const actor = (tenant: string) => ({ tenant, keyId: 'key_test', requestId: null });
const contents = Array.from({ length: 6 }, (_, i) => Buffer.from(`content ${i} `.repeat(i + 1)));
const digest = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

let seed = 5;
const random = (below: number): number => {
  seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
  return Math.floor((seed / 2_147_483_648) * below);
};

async function rows(): Promise<FileRow[]> {
  return (await store.db.prepare('SELECT * FROM files').all<FileRow>()).results;
}

async function keys(): Promise<Set<string>> {
  const found = new Set<string>();
  let cursor: string | undefined;
  do {
    const page: Awaited<ReturnType<R2['list']>> = await store.blobs.list(cursor === undefined ? {} : { cursor });
    for (const { key } of page.objects) found.add(key);
    cursor = page.truncated ? page.cursor : undefined;
  } while (cursor !== undefined);
  return found;
}

const sweep = async (nowMs: number) => {
  const env = { DB: store.db, BLOBS: store.blobs } as unknown as Env;
  while (await sweepFiles(env, nowMs));
};

/** The store, with deletions of objects that fail. */
const failing: ObjectStore = {
  get db() {
    return store.db;
  },
  get blobs() {
    const refuse = () => Promise.reject(new Error('the disk is gone'));
    return new Proxy(store.blobs, {
      get: (on, name) => (name === 'delete' ? refuse : Reflect.get(on, name)) as unknown,
    });
  },
};

test(`after ${ROUNDS} creations and deletions that may break off, one sweep makes rows and objects agree`, async () => {
  for (let round = 0; round < ROUNDS; round++) {
    const tenant = tenants[random(2)]!;
    const act = random(10);
    if (act < 6) {
      // The same steps as an upload: note, object, row. It may stop after each of them.
      const bytes = contents[random(contents.length)]!;
      const staged: Staged = {
        key: `${filePrefix(tenant)}${round}`,
        bytes: bytes.length,
        sha256: digest(bytes),
        md5: null,
      };
      await insertLoose(store.db, staged.key, Date.now()).run();
      if (act === 0) continue;
      await store.blobs.put(staged.key, new Uint8Array(bytes));
      if (act === 1) continue;
      const expiresAfterS = random(4) === 0 ? LIMITS.files.minExpiryS : null;
      const facts = { purpose: 'user_data', filename: 'x', mime: 'text/plain', expiresAfterS } as const;
      await adopt(act === 2 ? failing : store, actor(tenant), staged, facts);
    } else {
      const all = await rows();
      const file = all[random(all.length)];
      if (file === undefined) continue;
      assert.ok(await deleteFile(act === 6 ? failing : store, actor(file.tenant), file));
    }
  }
  const wanted = (await rows()).filter(({ expires_at }) => expires_at === null);
  // No row points to nothing, before any sweep too.
  const before = await keys();
  for (const { object_key } of await rows()) assert.ok(before.has(object_key), object_key);
  await sweep(Date.now() + 3 * HOUR_MS);
  const left = await rows();
  assert.deepEqual(left.map(({ id }) => id).sort(), wanted.map(({ id }) => id).sort(), 'only what expires is gone');
  assert.deepEqual([...(await keys())].sort(), [...new Set(left.map(({ object_key }) => object_key))].sort());
  for (const { object_key, sha256 } of left) {
    const object = await store.blobs.get(object_key);
    assert.equal(digest(new Uint8Array((await object?.arrayBuffer()) ?? new ArrayBuffer(0))), sha256);
  }
  // Equal bytes of a tenant share an object; those of two tenants do not.
  const objects = new Set(left.map(({ tenant, sha256 }) => `${tenant} ${sha256}`));
  assert.equal((await keys()).size, objects.size);
  assert.equal((await store.db.prepare('SELECT * FROM loose_objects').all()).results.length, 0);
});

test('an upload that is not completed in time goes with its parts', async () => {
  const tenant = tenants[0]!;
  const nowMs = Date.now();
  const about = { filename: 'u', purpose: 'user_data', mime: 'text/plain', bytes: 10, expires_after_s: null } as const;
  const times = { created_at: nowMs, expires_at: nowMs + LIMITS.uploads.lifetimeMs };
  await insertUpload(store.db, actor(tenant), { id: 'upload_1', ...about, ...times });
  const part = { id: 'part_1', upload_id: 'upload_1', object_key: 'parts/upload_1/1', bytes: 10, created_at: nowMs };
  await insertLoose(store.db, part.object_key, nowMs).run();
  await store.blobs.put(part.object_key, '0123456789');
  assert.ok(await insertPart(store.db, part, nowMs));
  assert.equal(
    await insertPart(store.db, { ...part, id: 'part_2', bytes: 11 }, nowMs),
    false,
    'more than twice what was announced',
  );
  await sweep(nowMs + LIMITS.uploads.lifetimeMs - 1);
  assert.ok((await keys()).has(part.object_key));
  await sweep(nowMs + LIMITS.uploads.lifetimeMs);
  assert.equal((await getUpload(store.db, tenant, 'upload_1'))?.status, 'expired');
  assert.equal((await keys()).has(part.object_key), false);
  assert.equal(await endUpload(store.db, actor(tenant), 'upload_1', 'cancelled', nowMs), false);
  assert.equal(await insertPart(store.db, { ...part, id: 'part_3' }, nowMs), false);
});
