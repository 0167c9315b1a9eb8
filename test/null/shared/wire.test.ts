import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { decodeFrame, encodeFrame, FrameError } from '../../../shared/wire/frame.ts';
import { newId, randomText } from '../../../shared/wire/ids.ts';
import { bodyMatches, signatureHeaders, UNSIGNED_PAYLOAD, verifyHeaders } from '../../../shared/wire/signature.ts';
import { decodeSse, encodeSse, encodeSseJson, SSE_DONE, SSE_PING } from '../../../shared/wire/sse.ts';

const limits = { maxHeaderBytes: 1 << 20, maxBlobs: 8, maxBlobBytes: 1 << 20 };

describe('frame', () => {
  it('gives back what was put in', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 64 }), { maxLength: 8 }), fc.string(), (blobs, note) => {
        const infos = blobs.map((blob, i) => ({ digest: `sha256:${i}`, bytes: blob.byteLength, mime: 'image/png' }));
        const frame = decodeFrame(encodeFrame({ note, blobs: infos }, blobs), limits);
        assert.equal(frame.header.note, note);
        assert.deepEqual(
          frame.blobs.map((blob) => [...blob]),
          blobs.map((blob) => [...blob]),
        );
      }),
    );
  });

  it('refuses every cut and every byte too many with a FrameError', () => {
    const whole = encodeFrame({ blobs: [{ digest: 'sha256:0', bytes: 5, mime: 'image/png' }] }, [new Uint8Array(5)]);
    for (let length = 0; length < whole.byteLength; length++) {
      assert.throws(() => decodeFrame(whole.subarray(0, length), limits), FrameError, `cut at ${length}`);
    }
    assert.throws(() => decodeFrame(new Uint8Array([...whole, 0]), limits), FrameError);
  });

  it('survives arbitrary bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          decodeFrame(bytes, limits);
        } catch (error) {
          assert.ok(error instanceof FrameError);
        }
      }),
    );
  });

  it('holds its limits', () => {
    const info = { digest: 'sha256:0', bytes: 5, mime: 'image/png' };
    const frame = encodeFrame({ blobs: [info] }, [new Uint8Array(5)]);
    assert.throws(() => decodeFrame(frame, { ...limits, maxBlobBytes: 4 }), /limit 4/);
    assert.throws(() => decodeFrame(frame, { ...limits, maxBlobs: 0 }), /at most 0 blobs/);
    assert.throws(() => decodeFrame(frame, { ...limits, maxHeaderBytes: 8 }), /limit 8/);
  });
});

describe('signature', () => {
  const call = { secret: 'one secret', method: 'POST', target: '/v1/generate?x=1', nowS: 1_700_000_000 };
  const check = async (headers: Record<string, string>, changed: Partial<typeof call & { audience: string }> = {}) =>
    verifyHeaders({ ...call, ...changed, header: (name) => headers[name], toleranceS: 300 });

  it('accepts its own headers and the signed body', async () => {
    const body = new TextEncoder().encode('{"a":1}');
    const verdict = await check(await signatureHeaders({ ...call, body }));
    assert.ok(verdict.ok);
    assert.equal(await bodyMatches(verdict.bodyDigest, body), true);
    assert.equal(await bodyMatches(verdict.bodyDigest, new TextEncoder().encode('{"a":2}')), false);
  });

  it('refuses any changed part', async () => {
    const headers = await signatureHeaders({ ...call, body: 'x' });
    for (const changed of [{ method: 'PUT' }, { target: '/v1/generate' }, { secret: 'another' }, { audience: 'b' }]) {
      assert.equal((await check(headers, changed)).ok, false, JSON.stringify(changed));
    }
    for (const name of Object.keys(headers)) {
      assert.equal((await check({ ...headers, [name]: `${headers[name]}0` })).ok, false, name);
      const { [name]: _, ...rest } = headers;
      assert.equal((await check(rest)).ok, false, `without ${name}`);
    }
  });

  it('keeps to its tolerance on both sides', async () => {
    const headers = await signatureHeaders({ ...call, body: null });
    for (const [offset, ok] of [
      [300, true],
      [-300, true],
      [301, false],
      [-301, false],
    ] as const) {
      assert.equal((await check(headers, { nowS: call.nowS + offset })).ok, ok, `${offset} s`);
    }
  });

  it('is another one each time, for one receiver, and good for any of several secrets while they change', async () => {
    const [one, two] = await Promise.all([
      signatureHeaders({ ...call, body: 'x' }),
      signatureHeaders({ ...call, body: 'x' }),
    ]);
    assert.notEqual(one['x-mantis-nonce'], two['x-mantis-nonce']);
    assert.notEqual(one['x-mantis-signature'], two['x-mantis-signature']);
    const forB = await signatureHeaders({ ...call, body: 'x', audience: 'backend-b' });
    assert.equal((await check(forB, { audience: 'backend-b' })).ok, true);
    assert.equal((await check(forB, { audience: 'backend-a' })).ok, false);
    assert.equal((await check({ ...forB, 'x-mantis-audience': 'backend-a' }, { audience: 'backend-a' })).ok, false);
    assert.equal((await check(one, { audience: 'backend-b' })).ok, false);
    assert.equal((await check(one, { secret: 'newer,one secret' })).ok, true);
    const rotated = await signatureHeaders({ ...call, secret: 'newer,one secret', body: 'x' });
    assert.equal((await check(rotated, { secret: 'newer' })).ok, true);
    assert.equal((await check(rotated)).ok, false);
  });

  it('marks streamed bodies', async () => {
    const verdict = await check(await signatureHeaders({ ...call, body: UNSIGNED_PAYLOAD }));
    assert.ok(verdict.ok);
    assert.equal(verdict.bodyDigest, UNSIGNED_PAYLOAD);
  });
});

describe('server-sent events', () => {
  /** A stream that hands out `chunks` one by one. */
  const streamOf = (chunks: Uint8Array[]) =>
    new ReadableStream<Uint8Array>({
      pull(controller) {
        const chunk = chunks.shift();
        if (chunk === undefined) controller.close();
        else controller.enqueue(chunk);
      },
    });

  it('are rebuilt from any split of their bytes', async () => {
    const awkward = ['a\nb', 'data: x', '\r\n', 'ü€𝄞', '\u2028', '', JSON.stringify({ text: 'line\nline' })];
    const text = awkward.map((data) => encodeSse({ data })).join('') + SSE_PING + encodeSseJson({ z: 1 }) + SSE_DONE;
    const bytes = new TextEncoder().encode(text);
    const expected = [...awkward.map((data) => data.replace(/\r\n|\r/g, '\n')), '{"z":1}', '[DONE]'];
    for (const size of [1, 2, 3, 7, 64, bytes.byteLength]) {
      const chunks = Array.from({ length: Math.ceil(bytes.byteLength / size) }, (_, i) =>
        bytes.slice(i * size, (i + 1) * size),
      );
      const seen: string[] = [];
      for await (const { data } of decodeSse(streamOf(chunks))) seen.push(data);
      assert.deepEqual(seen, expected, `chunks of ${size}`);
    }
  });

  it('close the stream when the reader leaves', async () => {
    let cancelled = false;
    const stream = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.enqueue(new TextEncoder().encode('data: x\n\n')),
      cancel: () => {
        cancelled = true;
      },
    });
    for await (const _ of decodeSse(stream)) break;
    assert.equal(cancelled, true);
  });

  it('end with the signal, also where the stream never does', async () => {
    const [abort, before] = [new AbortController(), new AbortController()];
    const hangs = () =>
      new ReadableStream<Uint8Array>({
        start: (controller) => controller.enqueue(new TextEncoder().encode('data: x\n\n')),
        // As a connection that nobody hears of any more.
        cancel: () => new Promise(() => {}),
      });
    const events = decodeSse(hangs(), abort.signal);
    assert.deepEqual(await events.next(), { done: false, value: { data: 'x' } });
    const next = events.next();
    abort.abort(new Error('enough'));
    await assert.rejects(next, /enough/);
    assert.deepEqual(await events.next(), { done: true, value: undefined });
    before.abort(new Error('too late'));
    await assert.rejects(decodeSse(hangs(), before.signal).next(), /too late/);
  });
});

describe('ids', () => {
  it('have their prefix, their alphabet and no repeats', () => {
    const ids = new Set(Array.from({ length: 1000 }, () => newId('file-')));
    assert.equal(ids.size, 1000);
    for (const id of ids) assert.match(id, /^file-[0-9A-Za-z]{24}$/);
    assert.equal(randomText(7).length, 7);
  });
});
