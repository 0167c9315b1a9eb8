import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { beforeEach, describe, it } from 'node:test';
import { type Blob, encodeFor, forgetMissing, remember } from '../../../edge/images/transfer.ts';
import { BlobCache, BlobsMissingError } from '../../../gpu-backend/server/blob-cache.ts';
import { BlobsMissing } from '../../../shared/contract/images.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { decodeFrame, decodePartialFrame } from '../../../shared/wire/frame.ts';

const A = 'a'.repeat(32);
const B = 'b'.repeat(32);
const limits = { maxHeaderBytes: 1 << 20, maxBlobs: 64, maxBlobBytes: 1 << 26 };

function picture(bytes = 5_000): Blob {
  const data = Uint8Array.from(randomBytes(bytes));
  return { digest: `sha256:${createHash('sha256').update(data).digest('hex')}`, mime: 'image/png', bytes: data };
}

/** A backend as far as pictures go: what the real server does with a frame. */
class Receiver {
  cache = new BlobCache(1 << 20);
  bodies: number[] = [];
  seen: Uint8Array[][] = [];

  post = async (tenant: string | undefined, body: Uint8Array): Promise<Response> => {
    this.bodies.push(body.byteLength);
    const { header, blobs } = decodePartialFrame(body, limits);
    try {
      this.seen.push(this.cache.complete(tenant, header.blobs, blobs));
      return new Response('{}');
    } catch (error) {
      if (!(error instanceof BlobsMissingError)) throw error;
      return Response.json({ error: {}, missing: error.missing }, { status: 409 });
    }
  };
}

/** One exchange, as the edge makes it. */
async function exchange(
  id: string,
  tenant: string | undefined,
  blobs: readonly Blob[],
  post: (body: Uint8Array) => Promise<Response>,
): Promise<Response> {
  const { body, omitted } = encodeFor(id, tenant, { n: 1 }, blobs);
  let response = await post(body);
  if (response.status === 409) {
    const { missing } = BlobsMissing.parse(await response.json());
    assert.ok(missing.every((digest) => omitted.includes(digest)));
    forgetMissing(id, tenant, omitted);
    response = await post(encodeFor(id, tenant, { n: 1 }, blobs).body);
  }
  if (response.ok) remember(id, tenant, blobs);
  return response;
}

let number = 0;
let id = '';
beforeEach(() => {
  id = `backend-${number++}`;
});

describe('pictures on the inner hop', () => {
  it('travel once to a process and tenant', async () => {
    const receiver = new Receiver();
    const pictures = [picture(), picture(20_000)];
    const send = (tenant: string, blobs = pictures, instance = id) =>
      exchange(instance, tenant, blobs, (body) => receiver.post(tenant, body));
    for (let i = 0; i < 3; i++) assert.equal((await send(A)).status, 200);
    assert.ok(receiver.bodies[0]! > 25_000);
    assert.ok(receiver.bodies[1]! < 600 && receiver.bodies[2]! < 600, String(receiver.bodies));
    for (const seen of receiver.seen)
      assert.deepEqual(
        seen.map((blob) => Buffer.from(blob)),
        pictures.map(({ bytes }) => Buffer.from(bytes)),
      );
    await send(A, [picture(3_000), pictures[1]!]);
    assert.ok(receiver.bodies[3]! > 3_000 && receiver.bodies[3]! < 4_000, 'only the new one');
    await send(B);
    assert.ok(receiver.bodies[4]! > 25_000, 'another tenant profits from nothing');
    await send(A, pictures, `${id}-restarted`);
    assert.ok(receiver.bodies[5]! > 25_000, 'another process is expected to hold nothing');
  });

  it('come whole when the backend has dropped them, as one exchange', async () => {
    const receiver = new Receiver();
    const one = picture();
    const send = () => exchange(id, A, [one], (body) => receiver.post(A, body));
    await send();
    receiver.cache = new BlobCache(1 << 20);
    assert.equal((await send()).status, 200);
    assert.equal(receiver.bodies.length, 3);
    assert.deepEqual(receiver.seen.length, 2);
    await send();
    assert.ok(receiver.bodies[3]! < 600, `${receiver.bodies}`);
  });

  it('are not remembered after a refusal, nor for nobody, nor when small', async () => {
    const one = picture();
    await exchange(id, A, [one], async () => new Response('', { status: 503 }));
    assert.deepEqual(encodeFor(id, A, {}, [one]).omitted, []);
    remember(id, undefined, [one]);
    assert.deepEqual(encodeFor(id, undefined, {}, [one]).omitted, []);
    const small = picture(LIMITS.backends.minOmittedBlobBytes - 1);
    remember(id, A, [small, one]);
    assert.deepEqual(encodeFor(id, A, {}, [small, one]).omitted, [one.digest]);
    forgetMissing(id, A, [one.digest]);
    assert.deepEqual(encodeFor(id, A, {}, [small, one]).omitted, []);
  });

  it('are seldom asked for in vain of a backend that keeps none', async () => {
    const receiver = new Receiver();
    receiver.cache = new BlobCache(0);
    const pictures = Array.from({ length: 8 }, () => picture(40_000));
    for (let i = 0; i < 100; i++) await exchange(id, A, [pictures[i % 8]!], (body) => receiver.post(A, body));
    const inVain = receiver.bodies.length - 100;
    assert.ok(inVain < 25, `${inVain} of 100`);
  });

  it('are sent whole where the backend has no room for all of them', async () => {
    const receiver = new Receiver();
    receiver.cache = new BlobCache(100_000);
    const pictures = [picture(60_000), picture(60_000)];
    for (const blobs of [[pictures[0]!], [pictures[1]!], pictures, [...pictures].reverse(), pictures])
      assert.equal((await exchange(id, A, blobs, (body) => receiver.post(A, body))).status, 200);
  });

  it('are remembered up to a number of bytes, the oldest forgotten first', () => {
    const bytes = new Uint8Array(8 << 20);
    const blob = (name: string): Blob => ({ digest: name, mime: 'image/png', bytes });
    for (let i = 0; i < 9; i++) remember(id, A, [blob(`p${i}`)]);
    const kept = Array.from({ length: 9 }, (_, i) => encodeFor(id, A, {}, [blob(`p${i}`)]).omitted.length);
    assert.deepEqual(kept, [0, 0, 0, 1, 1, 1, 1, 1, 1]);
  });
});

describe('blob cache', () => {
  const info = ({ digest, mime, bytes }: Blob) => ({ digest, mime, bytes: bytes.byteLength });
  const put = (cache: BlobCache, tenant: string, blob: Blob) => cache.complete(tenant, [info(blob)], [blob.bytes]);
  const has = (cache: BlobCache, tenant: string, blob: Blob) => {
    try {
      return cache.complete(tenant, [info(blob)], [null])[0]!.byteLength === blob.bytes.byteLength;
    } catch {
      return false;
    }
  };

  it('names all that is missing', () => {
    const cache = new BlobCache(1 << 20);
    const blobs = [picture(), picture(), picture()];
    put(cache, A, blobs[1]!);
    assert.throws(
      () => cache.complete(A, blobs.map(info), [null, null, null]),
      (error) =>
        error instanceof BlobsMissingError && error.missing.join() === [blobs[0]!.digest, blobs[2]!.digest].join(),
    );
  });

  it('keeps tenants apart and drops from the one that holds most', () => {
    const cache = new BlobCache(50_000);
    const modest = [picture(), picture()];
    for (const blob of modest) put(cache, A, blob);
    const flood = Array.from({ length: 30 }, () => picture());
    for (const blob of flood) put(cache, B, blob);
    assert.ok(modest.every((blob) => has(cache, A, blob)));
    assert.ok(!has(cache, B, modest[0]!), 'a tenant finds nothing of another');
    assert.ok(has(cache, B, flood[29]!) && !has(cache, B, flood[0]!));
    assert.ok(cache.stats().bytes <= 50_000, `${cache.stats().bytes}`);
  });

  it('holds no view of the request and refuses bytes under a wrong name', () => {
    const cache = new BlobCache(1 << 20);
    const blob = picture();
    const body = new Uint8Array(1 << 20);
    body.set(blob.bytes, 100);
    put(cache, A, { ...blob, bytes: body.subarray(100, 5_100) });
    body.fill(0);
    assert.deepEqual(Buffer.from(cache.complete(A, [info(blob)], [null])[0]!), Buffer.from(blob.bytes));
    assert.throws(
      () => put(cache, A, { ...blob, digest: `sha256:${'0'.repeat(64)}` }),
      /expected the bytes of this digest/,
    );
    assert.ok(has(cache, A, blob));
  });

  it('keeps nothing at 0 and nothing for nobody', () => {
    const blob = picture();
    const none = new BlobCache(0);
    put(none, A, blob);
    assert.ok(!has(none, A, blob));
    const cache = new BlobCache(1 << 20);
    cache.complete(undefined, [info(blob)], [blob.bytes]);
    assert.equal(cache.stats().entries, 0);
  });
});

it('a frame without a blob is refused where all are expected', () => {
  const blob = picture();
  remember('frames', A, [blob]);
  const { body } = encodeFor('frames', A, {}, [blob]);
  assert.throws(() => decodeFrame(body, limits), /digest alone/);
  assert.deepEqual(decodePartialFrame(body, limits).blobs, [null]);
});
