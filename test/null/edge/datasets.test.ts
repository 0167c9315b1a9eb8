/** Rows of datasets and pinned pictures, over the real SQL: what changes at once, what is kept, what goes. */
import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { changeDataset, makeDataset } from '../../../edge/datasets/change.ts';
import { insertValidation } from '../../../edge/datasets/insert.ts';
import { pictureScope, pinPicture } from '../../../edge/datasets/pictures.ts';
import { dataDigest, dataSpecOf } from '../../../edge/datasets/spec.ts';
import type { Env } from '../../../edge/env.ts';
import { countExamples, deleteDataset, getDataset } from '../../../edge/store/datasets.ts';
import { deleteFile, getFile, insertFile } from '../../../edge/store/files.ts';
import { addReader, getPin, insertPin, sweepPins } from '../../../edge/store/pins.ts';
import { holdFiles, insertTask } from '../../../edge/store/tasks.ts';
import type { ValidateTask } from '../../../shared/contract/backend.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { openD1 } from '../../fixtures/d1.ts';
import { MemoryR2 } from '../../fixtures/r2.ts';

const TENANT = 'a'.repeat(32);
const OTHER = 'b'.repeat(32);
const actor = { tenant: TENANT, keyId: 'key_1', requestId: null };
const DAY_MS = 86_400_000;

const d1 = await openD1();
const blobs = new MemoryR2();
const env = { DB: d1, BLOBS: blobs, EGRESS_ALLOW: '' } as unknown as Env;
const db = env.DB;
const store = { db, blobs: env.BLOBS };
beforeEach(() => d1.reset());

async function file(id: string, content = id, tenant = TENANT): Promise<string> {
  const object_key = `blobs/${tenant}/${id}`;
  await blobs.put(object_key, content);
  const sha256 = Buffer.from(content).toString('hex').padEnd(64, '0').slice(0, 64);
  const facts = { purpose: 'fine-tune', filename: `${id}.jsonl`, mime: 'text/plain', bytes: content.length } as const;
  await db.batch(insertFile(db, { id, tenant, ...facts, sha256, created_at: 1, expires_at: null, object_key }));
  return id;
}

const fields = { name: 'lesson', subsets: [], balancing: false, metadata: null };

test('a version is a digest: of bytes and mixture, not of names', async () => {
  const [one, two, twin] = [await file('file-1'), await file('file-2'), await file('file-3', 'file-1')];
  const made = await makeDataset(env, actor, { ...fields, subsets: [{ file_id: one }] });
  assert.deepEqual([made.version, made.bytes, made.examples], [1, 6, null]);
  const change = (next: Partial<Parameters<Parameters<typeof changeDataset>[3]>[0]>) =>
    changeDataset(env, actor, made.id, (was) => ({ ...was, ...next }));

  await countExamples(db, TENANT, made.id, made.digest, 12, 'TRUE').run();
  const renamed = await change({ name: 'another name', metadata: { a: 'b' } });
  assert.deepEqual([renamed.version, renamed.digest, renamed.examples], [1, made.digest, 12]);
  const sameBytes = await change({ subsets: [{ file_id: twin }] });
  assert.deepEqual([sameBytes.version, sameBytes.digest], [1, made.digest]);
  const explicit = await change({ subsets: [{ file_id: twin, shuffle: true, seed: 42 }] });
  assert.deepEqual([explicit.version, explicit.digest], [1, made.digest], 'defaults that are said are no change');

  const bounded = await change({ subsets: [{ file_id: twin, max_size: 3 }] });
  const balanced = await change({ balancing: true });
  const grown = await change({ subsets: [{ file_id: twin, max_size: 3 }, { file_id: two }] });
  assert.deepEqual([bounded.version, balanced.version, grown.version, grown.examples], [2, 3, 4, null]);
  assert.equal(new Set([made, bounded, balanced, grown].map(({ digest }) => digest)).size, 4);
  await countExamples(db, TENANT, made.id, made.digest, 99, 'TRUE').run();
  assert.equal((await getDataset(db, TENANT, made.id))?.examples, null, 'what was counted of another version');
  assert.equal(grown.digest, await dataDigest(await dataSpecOf(env, TENANT, made.id)));
});

test('files of others and unknown ones are no part of a dataset; nor are datasets of others to be had', async () => {
  const [own, foreign] = [await file('file-own'), await file('file-foreign', 'x', OTHER)];
  const refused = { code: 'file_not_found' };
  await assert.rejects(makeDataset(env, actor, { ...fields, subsets: [{ file_id: foreign }] }), refused);
  await assert.rejects(dataSpecOf(env, TENANT, foreign), refused);
  const made = await makeDataset(env, actor, { ...fields, subsets: [{ file_id: own }] });
  await assert.rejects(dataSpecOf(env, OTHER, made.id), { code: 'dataset_not_found' });
  await assert.rejects(
    changeDataset(env, { ...actor, tenant: OTHER }, made.id, (was) => was),
    {
      code: 'dataset_not_found',
    },
  );
  assert.equal(await deleteDataset(db, { ...actor, tenant: OTHER }, made.id), false);
  const empty = await makeDataset(env, actor, fields);
  await assert.rejects(dataSpecOf(env, TENANT, empty.id), { code: 'invalid_value' });
});

test('appends from many sides at once all count', async () => {
  const { id } = await makeDataset(env, actor, fields);
  const files = await Promise.all(Array.from({ length: 12 }, (_, i) => file(`file-${i}`)));
  await Promise.all(
    files.map((file_id) =>
      changeDataset(env, actor, id, (was) => ({ ...was, subsets: [...was.subsets, { file_id }] })),
    ),
  );
  const row = await getDataset(db, TENANT, id);
  const named = (JSON.parse(row?.subsets ?? '[]') as { file_id: string }[]).map(({ file_id }) => file_id);
  assert.deepEqual(named.sort(), files.sort());
  assert.equal(row?.version, 13);
});

test('a file stays as long as a dataset or unfinished work names it', async () => {
  const id = await file('file-1');
  const row = () => getFile(db, TENANT, id);
  const made = await makeDataset(env, actor, { ...fields, subsets: [{ file_id: id }] });
  assert.equal(await deleteFile(store, actor, (await row())!), false);
  await changeDataset(env, actor, made.id, (was) => ({ ...was, subsets: [] }));
  await holdFiles(db, 'ftjob-that-has-gone', [id]).run();
  assert.equal(await deleteFile(store, actor, (await row())!), true);
  assert.equal(await blobs.get(`blobs/${TENANT}/${id}`), null);
});

test('deleting a dataset lets its files go', async () => {
  const id = await file('file-1');
  const made = await makeDataset(env, actor, { ...fields, subsets: [{ file_id: id }] });
  assert.equal(await deleteDataset(db, actor, made.id), true);
  assert.equal(await deleteDataset(db, actor, made.id), false);
  assert.equal(await deleteFile(store, actor, (await getFile(db, TENANT, id))!), true);
});

test('a picture is pinned by the files that name it, and its bytes outlive the upload', async () => {
  const data = await file('file-data');
  const picture = await file('file-picture', 'picture');
  const spec = await dataSpecOf(env, TENANT, data);
  const scope = await pictureScope(TENANT, [spec]);
  const pin = await pinPicture(env, scope, picture, AbortSignal.timeout(1_000));
  assert.equal(pin.object_key, `blobs/${TENANT}/${picture}`);
  assert.equal(await deleteFile(store, actor, (await getFile(db, TENANT, picture))!), true);
  assert.ok((await blobs.get(pin.object_key)) !== null, 'its bytes are still there');
  // The same data with other bounds, and without its upload, has the same picture.
  const bounded = { ...spec, files: spec.files.map((one) => ({ ...one, max_size: 3 })) };
  assert.deepEqual(await pictureScope(TENANT, [bounded, spec]), scope);
  assert.deepEqual(await pinPicture(env, scope, picture, AbortSignal.timeout(1_000)), pin);
  await assert.rejects(pinPicture(env, { ...scope, scope: 'of other data' }, picture, AbortSignal.timeout(1_000)), {
    code: 'image_file_not_found',
  });
  await assert.rejects(pinPicture(env, { ...scope, tenant: OTHER }, picture, AbortSignal.timeout(1_000)), {
    code: 'image_file_not_found',
  });
});

test("a picture of another tenant is nobody's", async () => {
  const foreign = await file('file-foreign', 'secret', OTHER);
  const scope = { tenant: TENANT, scope: 'data' };
  await assert.rejects(pinPicture(env, scope, foreign, AbortSignal.timeout(1_000)), { code: 'image_file_not_found' });
  for (const reference of ['../secret', 'data:image/png;base64,AAAA', 'ftp://example.com/a.png', ''])
    await assert.rejects(pinPicture(env, scope, reference, AbortSignal.timeout(1_000)), { code: 'invalid_image_url' });
  for (const url of ['https://127.0.0.1/a.png', 'http://example.com/a.png', 'https://metadata.goog/a'])
    await assert.rejects(pinPicture(env, scope, url, AbortSignal.timeout(1_000)), { code: 'failed_to_download_image' });
});

test('old pins go with their objects, but not under work that has not ended', async () => {
  const base = { tenant: TENANT, reference: 'https://example.com/a.png', bytes: 1, sha256: 'c'.repeat(64) };
  const loose = (key: string) => db.prepare('INSERT INTO loose_objects (key, due_at) VALUES (?, 0)').bind(key).run();
  const pin = async (scope: string, object_key: string, pinned_at: number) => {
    await loose(object_key);
    return insertPin(db, { ...base, scope, digest: 'd'.repeat(64), object_key, pinned_at }, true);
  };
  await pin('old', 'blobs/old', 0);
  await pin('read', 'blobs/read', 0);
  await pin('young', 'blobs/young', 25 * DAY_MS);
  const count = async (sql: string) => (await db.prepare(sql).first<{ n: number }>())?.n;
  assert.equal(await count('SELECT COUNT(*) AS n FROM loose_objects'), 0, 'a pin owns its object');
  await addReader(db, TENANT, 'read', 'dsval_1').run();
  await db
    .prepare(
      `INSERT INTO tasks (id, tenant, seq, kind, base_model, request, spec, created_at, status, revision)
       VALUES ('dsval_1', ?, 1, 'validate', 'm', '{}', '{}', 0, 'running', 'r')`,
    )
    .bind(TENANT)
    .run();
  const later = LIMITS.dataset.pinsKeptMs + DAY_MS;
  assert.equal(await sweepPins(db, later), false);
  const isThere = async (scope: string) => (await getPin(db, TENANT, scope, 'd'.repeat(64))) !== null;
  assert.deepEqual(await Promise.all(['old', 'read', 'young'].map(isThere)), [false, true, true]);
  const { results } = await db.prepare('SELECT key FROM loose_objects').all<{ key: string }>();
  assert.deepEqual(results, [{ key: 'blobs/old' }]);
  await db.prepare(`UPDATE tasks SET status = 'succeeded', finished_at = 1`).run();
  await sweepPins(db, later);
  assert.deepEqual(await Promise.all(['read', 'young'].map(isThere)), [false, true]);
  assert.equal(await count('SELECT COUNT(*) AS n FROM pin_readers'), 0);
});

test('so many validations may wait, and no more; those of jobs do not count', async () => {
  const most = 3;
  const data = await file('file-data');
  const spec: ValidateTask = {
    kind: 'validate',
    baseModel: 'm',
    adapter: null,
    training: [await dataSpecOf(env, TENANT, data)],
    validation: null,
    stages: [],
    maxBadShare: 0.1,
    estimate: true,
  };
  const ask = async (id: string, tenant = TENANT) => {
    const task = { id, tenant, subject: null, spec, request: {}, fileIds: [data] };
    const [made] = await db.batch(insertValidation(db, { ...actor, tenant }, task, most));
    return made?.meta.changes;
  };
  await db.batch(
    insertTask(db, { id: 'dsval_job', tenant: TENANT, subject: 'ftjob-1', spec, request: {}, fileIds: [] }),
  );
  assert.deepEqual([await ask('dsval_1'), await ask('dsval_2'), await ask('dsval_3')], [1, 1, 1]);
  assert.equal(await ask('dsval_4'), 0);
  assert.equal(await ask('dsval_5', OTHER), 1);
  const held = await db.prepare(`SELECT work_id FROM work_files ORDER BY work_id`).all<{ work_id: string }>();
  assert.deepEqual(
    held.results.map((row: { work_id: string }) => row.work_id),
    ['dsval_1', 'dsval_2', 'dsval_3', 'dsval_5'],
  );
  const audit = await db.prepare(`SELECT object FROM audit_log ORDER BY seq`).all<{ object: string }>();
  assert.equal(audit.results.length, 4);
  await db.prepare(`UPDATE tasks SET finished_at = 1, status = 'succeeded' WHERE id = 'dsval_2'`).run();
  assert.equal(await ask('dsval_6'), 1);
});
