/** Files and uploads against the real Worker and its store, by the official client where it can. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import OpenAI, { toFile } from 'openai';
import type { FileObject } from '../../../shared/contract/files.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import type { Upload } from '../../../shared/contract/uploads.ts';
import { png } from '../../null/edge/pictures.ts';
import { API_KEY, type Installation, startInstallation, until } from './installation.ts';

const MIB = 1024 * 1024;
let door: Installation;
let openai: OpenAI;

before(async () => {
  door = await startInstallation();
  openai = door.openai;
});
after(() => door.close());

const digest = (bytes: Uint8Array, algorithm = 'sha256') => createHash(algorithm).update(bytes).digest('hex');
const upload = async (bytes: Uint8Array, purpose: OpenAI.FilePurpose = 'user_data', more: object = {}) =>
  (await openai.files.create({ file: await toFile(bytes, 'a.bin'), purpose, ...more })) as unknown as FileObject;
const content = async (id: string) => Buffer.from(await (await openai.files.content(id)).arrayBuffer());
const authorization = { authorization: `Bearer ${API_KEY}` };

/** Bytes of all objects that the store holds, its own bookkeeping left out. */
async function storedBytes(): Promise<number> {
  let sum = 0;
  for (const entry of await readdir(door.dataDir, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !entry.parentPath.includes('blobs')) continue;
    sum += (await stat(join(entry.parentPath, entry.name)).catch(() => null))?.size ?? 0;
  }
  return sum;
}

async function refused(
  promise: Promise<unknown>,
): Promise<[number | undefined, string | null | undefined, string | null | undefined]> {
  const error = await promise.then(
    (value) => assert.fail(`expected a refusal, received ${JSON.stringify(value).slice(0, 300)}`),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof OpenAI.APIError, String(error));
  return [error.status, error.code, error.param];
}

describe('a file', () => {
  it('of every size around a part comes back as it went', async () => {
    const part = LIMITS.files.partBytes;
    for (const size of [1, 300_000, part, part + 1]) {
      const bytes = randomBytes(size);
      const file = await upload(bytes);
      assert.deepEqual(
        [file.bytes, file.sha256, file.purpose, file.status],
        [size, digest(bytes), 'user_data', 'processed'],
      );
      assert.ok((await content(file.id)).equals(bytes), `${size} bytes`);
      await openai.files.delete(file.id);
    }
  });

  it('streams from disk, also where its length is not told', async () => {
    const bytes = randomBytes(12 * MIB);
    const path = join(door.dataDir, 'big.bin');
    await writeFile(path, bytes);
    const file = await openai.files.create({ file: createReadStream(path), purpose: 'user_data' });
    assert.equal((file as unknown as FileObject).sha256, digest(bytes));
    const boundary = 'xyz';
    async function* body() {
      yield Buffer.from(`--${boundary}\r\ncontent-disposition: form-data; name="file"; filename="c.bin"\r\n\r\n`);
      for (let at = 0; at < bytes.length; at += 100_000) yield bytes.subarray(at, at + 100_000);
      yield Buffer.from(
        `\r\n--${boundary}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nevals\r\n--${boundary}--`,
      );
    }
    const chunked = await fetch(`${door.url}/v1/files`, {
      method: 'POST',
      headers: { ...authorization, 'content-type': `multipart/form-data; boundary=${boundary}` },
      body: ReadableStream.from(body()),
      duplex: 'half',
    } as RequestInit);
    const second = (await chunked.json()) as FileObject;
    assert.deepEqual([second.sha256, second.purpose, second.filename], [digest(bytes), 'evals', 'c.bin']);
    await openai.files.delete(file.id);
    await openai.files.delete(second.id);
  });

  it('with bytes that are there already is stored once, and goes with the last id', async () => {
    const before = await storedBytes();
    const bytes = randomBytes(3 * MIB);
    const ids = await Promise.all(Array.from({ length: 4 }, () => upload(bytes).then(({ id }) => id)));
    assert.equal(new Set(ids).size, 4);
    await until(async () => (await storedBytes()) < before + 4 * MIB, 15_000, 'one of four is kept');
    for (const id of ids.slice(1)) await openai.files.delete(id);
    assert.ok((await content(ids[0]!)).equals(bytes));
    await openai.files.delete(ids[0]!);
    assert.deepEqual(await refused(openai.files.retrieve(ids[0]!)), [404, 'file_not_found', 'id']);
    await until(async () => (await storedBytes()) < before + MIB, 15_000, 'its bytes are gone');
    const again = await upload(bytes);
    assert.ok((await content(again.id)).equals(bytes));
  });

  it('is read in ranges', async () => {
    const bytes = randomBytes(10_000);
    const { id } = await upload(bytes);
    const get = (range: string, more: Record<string, string> = {}) =>
      fetch(`${door.url}/v1/files/${id}/content`, { headers: { ...authorization, range, ...more } });
    for (const [range, from, to] of [
      ['bytes=0-0', 0, 0],
      ['bytes=100-199', 100, 199],
      ['bytes=9990-', 9_990, 9_999],
      ['bytes=-10', 9_990, 9_999],
      ['bytes=9000-99999', 9_000, 9_999],
      ['bytes=-99999', 0, 9_999],
    ] as const) {
      const response = await get(range);
      assert.equal(response.status, 206, range);
      assert.equal(response.headers.get('content-range'), `bytes ${from}-${to}/10000`);
      assert.ok(Buffer.from(await response.arrayBuffer()).equals(bytes.subarray(from, to + 1)), range);
    }
    for (const range of ['bytes=5-2', 'bytes=-', 'lines=1-2', 'bytes=0-1,4-5'])
      assert.equal((await get(range)).status, 200, range);
    const outside = await get('bytes=10000-');
    assert.deepEqual([outside.status, outside.headers.get('content-range')], [416, 'bytes */10000']);
    assert.equal((await get('bytes=0-1', { 'if-range': `"${digest(bytes)}"` })).status, 206);
    assert.equal((await get('bytes=0-1', { 'if-range': '"other"' })).status, 200);
  });

  it('may delete itself, within bounds', async () => {
    const expires_after = { anchor: 'created_at', seconds: LIMITS.files.minExpiryS };
    const file = await upload(randomBytes(10), 'user_data', { expires_after });
    assert.equal(file.expires_at, file.created_at + 3_600);
    for (const wrong of [
      { anchor: 'created_at', seconds: LIMITS.files.minExpiryS - 1 },
      { anchor: 'created_at', seconds: LIMITS.files.maxExpiryS + 1 },
      { anchor: 'created_at', seconds: 'soon' },
    ])
      assert.deepEqual(
        (await refused(upload(randomBytes(10), 'user_data', { expires_after: wrong }))).slice(0, 1),
        [400],
        JSON.stringify(wrong),
      );
    assert.deepEqual(
      await refused(upload(randomBytes(10), 'user_data', { expires_after: { anchor: 'now', seconds: 7_200 } })),
      [400, 'invalid_value', 'expires_after.anchor'],
    );
  });

  it('for vision is a picture, or is refused and forgotten', async () => {
    const file = await upload(png(8, 8), 'vision');
    assert.equal(
      (await fetch(`${door.url}/v1/files/${file.id}/content`, { headers: authorization })).headers.get('content-type'),
      'image/png',
    );
    assert.deepEqual(await refused(upload(randomBytes(5_000), 'vision')), [400, 'invalid_image_format', 'file']);
    const [status] = await refused(upload(Buffer.concat([png(8, 8), Buffer.alloc(LIMITS.images.maxBytes)]), 'vision'));
    assert.equal(status, 413);
  });

  it('is refused with everything that is wrong', async () => {
    const post = (form: FormData) =>
      fetch(`${door.url}/v1/files`, { method: 'POST', headers: authorization, body: form });
    const form = new FormData();
    form.set('purpose', 'batch_output');
    form.set('nonsense', '1');
    const response = await post(form);
    const { error } = (await response.json()) as { error: { details: { code: string; param: string }[] } };
    assert.equal(response.status, 400);
    assert.deepEqual(
      error.details.map(({ code, param }) => [code, param]),
      [
        ['missing_required_parameter', 'file'],
        ['unsupported_parameter', 'nonsense'],
        ['invalid_value', 'purpose'],
      ],
    );
    const empty = new FormData();
    empty.set('purpose', 'batch');
    empty.set('file', new File([], 'empty'));
    assert.equal((await post(empty)).status, 400);
    const json = await door.call('POST', '/v1/files', {});
    assert.equal(json.status, 415);
    const list = await door.call('GET', '/v1/files?order=up&purpose=nothing');
    assert.equal(list.status, 400);
  });

  it('whose sender goes away leaves nothing behind', async () => {
    const before = await storedBytes();
    const { hostname, port } = new URL(door.url);
    const socket = connect(Number(port), hostname);
    socket.write(
      `POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${API_KEY}\r\ncontent-type: multipart/form-data; boundary=b\r\n` +
        `content-length: ${100 * MIB}\r\n\r\n--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\n`,
    );
    const chunk = randomBytes(MIB);
    for (let i = 0; i < 40; i++)
      if (!socket.write(chunk)) await new Promise((resolve) => socket.once('drain', resolve));
    await until(async () => (await storedBytes()) > before + 16 * MIB, 15_000, 'parts have been stored');
    socket.destroy();
    await until(async () => (await storedBytes()) <= before + MIB, 10_000, 'they are gone');
  });
});

describe('an upload', () => {
  const begin = (bytes: number, more: object = {}) =>
    openai.uploads.create({
      filename: 'u.bin',
      purpose: 'user_data',
      bytes,
      mime_type: 'application/x-thing',
      ...more,
    });
  const add = async (id: string, bytes: Uint8Array) =>
    (await openai.uploads.parts.create(id, { data: await toFile(bytes, 'part') })).id;
  const retrieve = async (id: string) => (await door.call('GET', `/v1/uploads/${id}`)).body as Upload;

  it('becomes a file, its parts in the order that is asked for', async () => {
    const before = await storedBytes();
    const pieces = [randomBytes(100), randomBytes(9 * MIB), randomBytes(5 * MIB + 7), randomBytes(1)];
    const whole = Buffer.concat(pieces);
    const { id, status, expires_at, created_at } = await begin(whole.length);
    assert.deepEqual([status, expires_at - created_at], ['pending', 3_600]);
    // Sent in another order, and one of them twice.
    const ids: string[] = [];
    for (const i of [2, 0, 3, 1]) ids[i] = await add(id, pieces[i]!);
    await add(id, pieces[0]!);
    const done = await openai.uploads.complete(id, { part_ids: ids, md5: digest(whole, 'md5') });
    assert.equal(done.status, 'completed');
    const file = done.file as unknown as FileObject;
    assert.deepEqual([file.bytes, file.sha256, file.filename], [whole.length, digest(whole), 'u.bin']);
    assert.ok((await content(file.id)).equals(whole));
    assert.equal((await retrieve(id)).file?.id, file.id);
    await openai.files.delete(file.id);
    await until(async () => (await storedBytes()) < before + MIB, 20_000, 'parts and file are gone');
  });

  it('is completed once, with what was announced', async () => {
    const bytes = randomBytes(1_000);
    const { id } = await begin(2_000);
    const part = await add(id, bytes);
    const complete = (part_ids: string[], more: object = {}) => openai.uploads.complete(id, { part_ids, ...more });
    assert.deepEqual(await refused(complete([part])), [400, 'invalid_value', 'part_ids']);
    assert.deepEqual(await refused(complete([part, part])), [400, 'invalid_value', 'part_ids[1]']);
    assert.deepEqual(await refused(complete([part, 'part_other'])), [400, 'invalid_value', 'part_ids[1]']);
    const second = await add(id, bytes);
    assert.deepEqual(await refused(complete([part, second], { md5: '0'.repeat(32) })), [400, 'digest_mismatch', 'md5']);
    const answers = await Promise.allSettled(Array.from({ length: 4 }, () => complete([part, second])));
    const files = new Set(answers.flatMap((one) => (one.status === 'fulfilled' ? [one.value.file?.id] : [])));
    assert.equal(files.size, 1);
    assert.deepEqual(await refused(complete([part, second])), [409, 'invalid_state', 'id']);
    assert.deepEqual(await refused(add(id, bytes)), [409, 'invalid_state', 'id']);
  });

  it('can be given up', async () => {
    const before = await storedBytes();
    const { id } = await begin(4 * MIB);
    await add(id, randomBytes(4 * MIB));
    assert.equal((await openai.uploads.cancel(id)).status, 'cancelled');
    assert.equal((await retrieve(id)).status, 'cancelled');
    assert.deepEqual(await refused(openai.uploads.cancel(id)), [409, 'invalid_state', 'id']);
    await until(async () => (await storedBytes()) < before + MIB, 20_000, 'its parts are gone');
  });

  it('is refused where it can never be', async () => {
    assert.deepEqual(await refused(begin(LIMITS.uploads.maxBytes + 1)), [400, 'invalid_value', 'bytes']);
    assert.deepEqual(await refused(begin(1, { mime_type: 'a\r\nb: c' })), [400, 'invalid_value', 'mime_type']);
    assert.deepEqual(await refused(begin(1, { purpose: 'batch_output' })), [400, 'invalid_value', 'purpose']);
    assert.deepEqual(await refused(openai.uploads.cancel('upload_none')), [404, 'upload_not_found', 'id']);
    const { id } = await begin(10);
    assert.deepEqual((await refused(add(id, new Uint8Array(0))))[0], 400);
    if (process.env.MANTIS_LONG_TESTS === '1')
      assert.equal((await refused(add(id, randomBytes(LIMITS.uploads.maxPartBytes + 1))))[0], 413);
  });
});
