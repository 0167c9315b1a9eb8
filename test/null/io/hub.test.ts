import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, beforeEach, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { downloadFromHub, type HubOptions, type HubProgress } from '../../../gpu-backend/io/hub.ts';
import { HubError, type HubErrorCode } from '../../../gpu-backend/io/hub-error.ts';
import { retryAfterMs } from '../../../gpu-backend/io/hub-request.ts';
import { openSafetensors } from '../../../gpu-backend/io/safetensors.ts';
import { FaultyHub } from './hub-server.ts';

const scratch = mkdtempSync(join(tmpdir(), 'mantis-hub-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

/** A safetensors file with one u8 tensor `name` of `bytes` bytes. */
function weights(name: string, bytes: number, seed: number): Buffer {
  const json = Buffer.from(`{"${name}":{"dtype":"U8","shape":[${bytes}],"data_offsets":[0,${bytes}]}}`);
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([head, json, Buffer.from(Uint8Array.from({ length: bytes }, (_, i) => (i * 31 + seed) & 255))]);
}

const ID = 'owner/small-model';
const A = 'model-00001-of-00002.safetensors';
const B = 'model-00002-of-00002.safetensors';
const INDEX = 'model.safetensors.index.json';

let hub: FaultyHub;
let dir: string;
let waits: number[];
beforeEach(async () => {
  hub = new FaultyHub();
  await hub.start();
  dir = mkdtempSync(join(scratch, 'model-'));
  waits = [];
  hub.put('config.json', '{"model_type":"llava"}');
  hub.put('tokenizer.json', '{"model":{}}', true);
  hub.put('README.md', '# A model');
  hub.put('pytorch_model.bin', 'PK\u0003\u0004', true);
  hub.put('onnx/model.onnx', 'x', true);
  hub.put(INDEX, JSON.stringify({ weight_map: { a: A, b: B } }));
  hub.put(A, weights('a', 300_000, 1), true);
  hub.put(B, weights('b', 200_000, 2), true);
  hub.put('consolidated.safetensors', weights('c', 10, 3), true);
});
afterEach(() => hub.stop());

const download = (options: Partial<HubOptions> = {}, id = ID): ReturnType<typeof downloadFromHub> =>
  downloadFromHub(id, {
    dir,
    endpoint: hub.endpoint,
    concurrency: 1,
    env: {},
    random: () => 0.5,
    sleep: async (ms) => {
      waits.push(ms);
    },
    ...options,
    patience: { headersTimeoutMs: 2000, stallTimeoutMs: 150, ...options.patience },
  });

const isCode =
  (code: HubErrorCode, text: RegExp = /./) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof HubError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, text);
    return true;
  };

const requestsFor = (name: string, host: 'hub' | 'storage' = 'storage') =>
  hub.seen.filter((seen) => seen.host === host && seen.path.includes(name));

test('takes what a model folder needs, and it opens', async () => {
  const steps: HubProgress[] = [];
  const result = await download({ onProgress: (p) => steps.push(p) });
  const names = ['config.json', A, B, INDEX, 'tokenizer.json'].sort();
  assert.deepEqual(result.files.map(({ name }) => name).sort(), names);
  assert.deepEqual(readdirSync(dir).sort(), ['.hub.json', ...names].sort());
  assert.equal(result.commit, 'c'.repeat(40));
  for (const { name, bytes, sha256 } of result.files) {
    const content = readFileSync(join(dir, name));
    assert.deepEqual(content, hub.files.get(name)?.data);
    assert.equal(bytes, content.length);
    assert.equal(sha256, createHash('sha256').update(content).digest('hex'));
  }
  const store = openSafetensors(dir);
  assert.deepEqual([...store.tensors.keys()], ['a', 'b']);
  store.close();
  const last = steps.at(-1);
  assert.ok(last !== undefined && last.doneBytes === last.totalBytes);
  assert.equal(last.allDoneBytes, last.allTotalBytes);
  assert.equal(
    last.allDoneBytes,
    result.files.reduce((sum, { bytes }) => sum + bytes, 0),
  );
  // The listing's commit is what is fetched, so that a push meanwhile cannot mix two revisions.
  assert.ok(requestsFor('resolve', 'hub').every(({ path }) => path.includes(`/resolve/${'c'.repeat(40)}/`)));
});

test('a token goes to the endpoint and never to another origin', async () => {
  hub.gate = { status: 401, token: 'hf_test' };
  await download({ env: { HF_TOKEN: ' hf_test\n' } });
  assert.ok(hub.seen.some(({ host }) => host === 'storage'));
  for (const { host, authorization } of hub.seen)
    assert.equal(authorization, host === 'hub' ? 'Bearer hf_test' : undefined);
});

test('HF_ENDPOINT names the mirror, HF_HUB_DISABLE_IMPLICIT_TOKEN keeps the token at home', async () => {
  await download({
    endpoint: undefined,
    env: { HF_ENDPOINT: `${hub.endpoint}/`, HF_TOKEN: 'hf_test', HF_HUB_DISABLE_IMPLICIT_TOKEN: 'yes' },
  });
  assert.ok(hub.seen.length > 5 && hub.seen.every(({ authorization }) => authorization === undefined));
});

test('a dropped connection is continued where it broke', async () => {
  hub.faults.push({ file: A, dropAfter: 100_000 }, { file: A, dropAfter: 50_000 });
  await download();
  const ranges = requestsFor(A).map(({ range }) => range);
  assert.equal(ranges.length, 3);
  assert.equal(ranges[0], undefined);
  const starts = ranges.slice(1).map((range) => Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1]));
  assert.ok(
    starts[0]! > 0 && starts[0]! <= 100_000 && starts[1]! > starts[0]! && starts[1]! <= 150_000,
    String(starts),
  );
  assert.match(requestsFor(A)[1]?.ifRange ?? '', /^"[0-9a-f]{32}-2"$/);
  assert.deepEqual(readFileSync(join(dir, A)), hub.files.get(A)?.data);
  // Full jitter over 500 ms · 2^n, drawn at one half.
  assert.deepEqual(waits, [250, 500]);
});

test('a download that was given up is continued by the next one, and a whole file is not fetched again', async () => {
  for (let i = 0; i < 2; i++) hub.faults.push({ file: B, dropAfter: 60_000 });
  await assert.rejects(download({ patience: { attempts: 2 } }), isCode('unreachable', /gave up after 2 tries.*kept/s));
  assert.ok(existsSync(join(dir, `${B}.part`)));
  hub.seen.length = 0;
  await download();
  assert.equal(requestsFor(A).length, 0);
  assert.match(requestsFor(B)[0]?.range ?? '', /^bytes=\d{5,}-$/);
  assert.deepEqual(readFileSync(join(dir, B)), hub.files.get(B)?.data);
  assert.ok(!readdirSync(dir).some((name) => name.includes('.part')));
});

test('a body shorter than the listed size is completed', async () => {
  hub.faults.push({ file: A, shorten: 1234 });
  await download();
  assert.deepEqual(
    requestsFor(A).map(({ range }) => range),
    [undefined, 'bytes=1234-'],
  );
});

test('a stalled body is dropped and continued', async () => {
  hub.faults.push({ file: A, stallAfter: 70_000 });
  await download();
  assert.equal(requestsFor(A).length, 2);
  assert.match(requestsFor(A)[1]?.range ?? '', /^bytes=\d+-$/);
});

test('content that changes in the middle of a download starts the file anew', async () => {
  const other = weights('a', 300_000, 77);
  // A mirror without digests: only the entity tag tells.
  hub.listing = (siblings) => ({ siblings: siblings.map(({ rfilename }) => ({ rfilename })) });
  hub.linkedEtag = () => 'opaque';
  hub.faults.push({ file: A, dropAfter: 90_000 }, { file: A, before: () => hub.put(A, other, true) });
  await download();
  assert.equal(requestsFor(A).length, 2);
  assert.match(requestsFor(A)[1]?.range ?? '', /^bytes=/);
  assert.deepEqual(readFileSync(join(dir, A)), other);
});

test('a server that ignores If-Range and sends the rest of other content is noticed', async () => {
  hub.listing = (siblings) => ({ siblings: siblings.map(({ rfilename }) => ({ rfilename })) });
  hub.linkedEtag = () => 'opaque';
  hub.faults.push({ file: A, dropAfter: 90_000 }, { file: A, headers: { etag: '"other"' } });
  await download();
  assert.deepEqual(
    requestsFor(A).map(({ range }) => range !== undefined),
    [false, true, false],
  );
  assert.deepEqual(readFileSync(join(dir, A)), hub.files.get(A)?.data);
});

test('wrong content is fetched once more and then refused; nothing of it stays', async () => {
  hub.listing = (siblings) => ({
    siblings: siblings.map((s) => (s.rfilename === A ? { ...s, lfs: { sha256: '0'.repeat(64), size: s.size } } : s)),
  });
  hub.linkedEtag = () => '0'.repeat(64);
  hub.put('tokenizer.json', '{"model":{}}');
  await assert.rejects(download(), isCode('wrong_hash', /expected SHA-256 0{64}, got [0-9a-f]{64}, twice/));
  assert.equal(requestsFor(A).length, 2);
  assert.ok(!readdirSync(dir).some((name) => name.startsWith(A)));
});

test('a small file is checked by its git blob id', async () => {
  hub.listing = (siblings) => ({
    siblings: siblings.map((s) => (s.rfilename === 'config.json' ? { ...s, blobId: 'a'.repeat(40) } : s)),
  });
  await assert.rejects(download(), isCode('wrong_hash', /config\.json: expected git blob a{40}/));
});

test('a listing and an address that disagree are refused before anything is kept', async () => {
  hub.linkedEtag = (name) =>
    name === A ? '1'.repeat(64) : createHash('sha256').update(hub.files.get(name)!.data).digest('hex');
  await assert.rejects(download(), isCode('wrong_hash', /the listing gives SHA-256/));
  assert.ok(!readdirSync(dir).some((name) => name.startsWith(A)));
});

test('more bytes than listed end the transfer', async () => {
  hub.listing = (siblings) => ({
    siblings: siblings.map((s) => (s.rfilename === 'config.json' ? { ...s, size: 5 } : s)),
  });
  await assert.rejects(download(), isCode('wrong_size', /config\.json: expected 5 bytes, more came/));
});

test('a busy server is asked again: 429 with Retry-After, 503, and a drop before any answer', async () => {
  hub.faults.push(
    { file: 'listing', status: 503 },
    { file: 'listing', status: 429, headers: { 'retry-after': '7' } },
    { file: A, status: 500 },
  );
  await download();
  assert.deepEqual(waits, [250, 7500, 250]);
});

test('an expired storage address is asked for again at the hub', async () => {
  hub.faults.push({ file: A, status: 403 });
  await download();
  assert.equal(requestsFor(A, 'hub').length, 2);
});

test('a longer Retry-After than we wait is an error that names the time', async () => {
  hub.faults.push({ file: 'listing', status: 429, headers: { 'retry-after': '4000' } });
  await assert.rejects(download(), isCode('rate_limited', /come back in 4000 s/));
});

test('Retry-After is seconds or a date; RateLimit gives the reset', () => {
  const now = Date.parse('2026-01-01T00:00:00Z');
  assert.equal(retryAfterMs(new Headers({ 'retry-after': '3' }), now), 3000);
  assert.equal(retryAfterMs(new Headers({ 'retry-after': 'Thu, 01 Jan 2026 00:00:09 GMT' }), now), 9000);
  assert.equal(retryAfterMs(new Headers({ ratelimit: '"api";r=0;t=55' }), now), 55_000);
  assert.equal(retryAfterMs(new Headers(), now), undefined);
});

for (const [what, gate, env, code, text] of [
  ['gated', { status: 403, code: 'GatedRepo' }, {}, 'gated', /accept its licence.*HF_TOKEN/],
  ['gated, 401', { status: 401, code: 'GatedRepo' }, { HF_TOKEN: 'other' }, 'gated', /present token is not let in/],
  ['private or absent', { status: 401 }, {}, 'unauthorized', /does not exist, or is private or gated.*HF_TOKEN/],
  ['bad token', { status: 401 }, { HF_TOKEN: 'other' }, 'unauthorized', /does not accept this token/],
  ['no revision', { status: 404, code: 'RevisionNotFound' }, {}, 'not_found', /has no such revision/],
  ['not found', { status: 404, code: 'RepoNotFound' }, {}, 'not_found', /was not found/],
  ['teapot', { status: 418 }, {}, 'bad_response', /answered 418/],
] as const) {
  test(`refused clearly: ${what}`, async () => {
    hub.gate = { ...gate, token: 'hf_right' };
    await assert.rejects(download({ env }), isCode(code, text));
    assert.deepEqual(waits, []);
  });
}

test('a pickle is refused by name when there is nothing else', async () => {
  for (const name of [A, B, INDEX, 'consolidated.safetensors']) hub.files.delete(name);
  await assert.rejects(download(), isCode('pickle', /pytorch_model\.bin, a pickle/));
  hub.files.delete('pytorch_model.bin');
  await assert.rejects(download(), isCode('no_weights'));
  assert.ok(!hub.seen.some(({ path }) => path.includes('/resolve/')));
});

test('a pickle under a safe name is refused by its first bytes, not fetched to the end', async () => {
  const pickle = Buffer.concat([Buffer.from([0x80, 2, 0x8a, 10]), Buffer.alloc(3_000_000, 65)]);
  hub.put(A, pickle, true);
  await assert.rejects(download(), isCode('pickle', /the hub sends a pickle/));
  hub.put(A, Buffer.from('PK\u0003\u0004'), true);
  await assert.rejects(download(), isCode('pickle', /zip archive/));
  assert.ok(!readdirSync(dir).some((name) => name.startsWith(A)));
});

for (const name of ['../evil.safetensors', '/etc/x', 'a/../../b', 'a\\b', 'C:evil', 'a\u0000b', 'a//b', './a', '']) {
  test(`a listing with the name ${JSON.stringify(name)} is refused whole`, async () => {
    hub.listing = (siblings) => ({ siblings: [...siblings, { rfilename: name }] });
    await assert.rejects(download(), isCode('unsafe_name'));
    assert.ok(!hub.seen.some(({ path }) => path.includes('/resolve/')));
  });
}

for (const shard of [
  '../x.safetensors',
  '/x.safetensors',
  'onnx/model.onnx',
  'pytorch_model.bin',
  7,
  '.x.safetensors',
]) {
  test(`an index that names the shard ${JSON.stringify(shard)} is refused`, async () => {
    hub.put(INDEX, JSON.stringify({ weight_map: { a: A, b: shard } }));
    await assert.rejects(download(), isCode('unsafe_name'));
    assert.equal(requestsFor(A).length, 0);
  });
}

test('ids, revisions and endpoints that are none are refused without a request', async () => {
  for (const id of ['', 'a/b/c', '../x', 'a/..', 'a b', 'a/b?x', 'a/-', '/a', 'a--b/c'])
    await assert.rejects(download({}, id), isCode('bad_id'));
  for (const revision of ['', '../x', 'a b', '/x', 'x/', 'a//b', 'a/.b'])
    await assert.rejects(download({ revision }), isCode('bad_id'));
  for (const endpoint of ['hub', 'ftp://x', 'http://user:secret@x'])
    await assert.rejects(download({ endpoint }), isCode('bad_endpoint', /^(?!.*secret)/));
  assert.equal(hub.seen.length, 0);
});

test('what is not enough room for is not begun', async () => {
  const free = (64 << 20) + 400_000;
  await assert.rejects(download({ freeBytes: async () => free }), isCode('disk_full', /must stay free/));
  assert.equal(requestsFor(A).length, 0);
  assert.equal(requestsFor('config.json', 'hub').length, 1);
});

test('HF_HUB_OFFLINE hands back a complete download and asks nothing', async () => {
  const env = { HF_HUB_OFFLINE: '1' };
  await assert.rejects(download({ env }), isCode('offline', /holds no complete download/));
  const online = await download();
  hub.seen.length = 0;
  assert.deepEqual(await download({ env }), online);
  await assert.rejects(download({ env, revision: 'other' }), isCode('offline', /holds revision main/));
  writeFileSync(join(dir, A), 'short');
  await assert.rejects(download({ env }), isCode('offline', /should have \d+ bytes, it has 5/));
  assert.equal(hub.seen.length, 0);
});

test('a second download fetches only what changed, and repairs what was damaged', async () => {
  await download();
  const damaged = readFileSync(join(dir, A));
  damaged[1000] = damaged[1000]! ^ 1;
  writeFileSync(join(dir, A), damaged);
  // As an attentive file system would: damage moves the time of change.
  utimesSync(join(dir, A), new Date(), new Date(Date.now() + 5000));
  hub.put('config.json', '{"model_type":"llava","x":1}');
  hub.seen.length = 0;
  await download();
  assert.deepEqual(readFileSync(join(dir, A)), hub.files.get(A)?.data);
  assert.equal(readFileSync(join(dir, 'config.json'), 'utf8'), '{"model_type":"llava","x":1}');
  assert.equal(requestsFor(B).length, 0);
});

test('weights of an earlier revision do not shadow those of this one', async () => {
  const kept = new Map(hub.files);
  hub.put('model.safetensors', weights('old', 10, 1), true);
  await download();
  assert.ok(existsSync(join(dir, 'model.safetensors')) && !existsSync(join(dir, INDEX)));
  hub.files.clear();
  for (const [name, file] of kept) hub.files.set(name, file);
  await download();
  assert.ok(!existsSync(join(dir, 'model.safetensors')) && existsSync(join(dir, INDEX)));
  await assert.rejects(download({}, 'owner/other'), isCode('bad_id', /holds a download of owner\/small-model/));
});

test('a link in the folder is never written through', async () => {
  const target = join(scratch, 'target');
  writeFileSync(target, 'mine');
  symlinkSync(target, join(dir, 'config.json'));
  symlinkSync(target, join(dir, `${A}.part`));
  await download();
  assert.equal(readFileSync(target, 'utf8'), 'mine');
  assert.deepEqual(readFileSync(join(dir, A)), hub.files.get(A)?.data);
});

test('an aborted download ends with the reason and keeps what has come', async () => {
  const controller = new AbortController();
  hub.faults.push({ file: A, stallAfter: 80_000 });
  const reason = new Error('the user pressed stop');
  await assert.rejects(
    download({
      signal: controller.signal,
      patience: { stallTimeoutMs: 5000 },
      onProgress: ({ file, doneBytes }) => {
        if (file === A && doneBytes > 0) controller.abort(reason);
      },
    }),
    (error) => error === reason,
  );
  assert.ok(existsSync(join(dir, `${A}.part`)));
});

test('an abort during a wait ends with its reason too', async () => {
  const controller = new AbortController();
  const reason = new Error('stop');
  hub.faults.push({ file: 'listing', status: 503 });
  const sleep = (ms: number, signal?: AbortSignal): Promise<void> => {
    setImmediate(() => controller.abort(reason));
    return delay(ms + 60_000, undefined, signal === undefined ? {} : { signal });
  };
  await assert.rejects(download({ signal: controller.signal, sleep }), (error) => error === reason);
});

test('room for a file that replaces another is asked for in full', async () => {
  await download();
  hub.put(A, weights('a', 300_000, 9), true);
  const free = (64 << 20) + 200_000;
  await assert.rejects(download({ freeBytes: async () => free }), isCode('disk_full'));
  await download({ freeBytes: async () => free + 200_000 });
  assert.deepEqual(readFileSync(join(dir, A)), hub.files.get(A)?.data);
});

test('redirects are followed a few times and never to another scheme', async () => {
  hub.faults.push({ file: 'config.json', status: 302, headers: { location: 'file:///etc/passwd' } });
  await assert.rejects(download(), isCode('bad_response', /redirects to file:/));
  for (let i = 0; i < 8; i++)
    hub.faults.push({ file: 'config.json', status: 307, headers: { location: `/${ID}/resolve/main/config.json` } });
  await assert.rejects(download(), isCode('bad_response', /more than 6 redirects/));
});

test('something that is no hub is said to be none', async () => {
  hub.listing = () => 'hello';
  await assert.rejects(download(), isCode('bad_response', /expected a list/));
});
