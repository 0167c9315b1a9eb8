import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import { encodeFrame } from '../../../shared/wire/frame.ts';
import { sha256Hex } from '../../../shared/wire/signature.ts';
import { frameHead, frameMatches } from '../../../shared/wire/signedFrame.ts';

const LIMITS = { maxHeaderBytes: 10_000, maxBlobs: 4, maxBlobBytes: 10_000 };
const digestOf = (bytes: Uint8Array) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const blobs = [randomBytes(100), randomBytes(50)];
const infos = blobs.map((bytes) => ({ digest: digestOf(bytes), bytes: bytes.length, mime: 'image/png' }));
const frame = encodeFrame({ text: 'hi', blobs: infos }, blobs);
const headDigest = async (bytes: Uint8Array) => await sha256Hex(frameHead(bytes) ?? assert.fail('no head'));

describe('a signed frame', () => {
  it('is taken by its header, or whole', async () => {
    assert.equal(await frameMatches(await headDigest(frame), frame, LIMITS), true);
    assert.equal(await frameMatches(await sha256Hex(frame), frame, LIMITS), true);
  });

  it('is refused with any byte changed, one less or one more', async () => {
    const digest = await headDigest(frame);
    for (let at = 0; at < frame.length; at++) {
      const changed = Uint8Array.from(frame);
      changed[at] = (changed[at] ?? 0) ^ 1;
      assert.equal(await frameMatches(digest, changed, LIMITS), false, `byte ${at}`);
    }
    assert.equal(await frameMatches(digest, frame.subarray(0, -1), LIMITS), false);
    assert.equal(await frameMatches(digest, new Uint8Array([...frame, 0]), LIMITS), false);
    assert.equal(await frameMatches(digest, frame.subarray(0, 3), LIMITS), false);
    assert.equal(await frameMatches(digest, new Uint8Array(0), LIMITS), false);
  });

  it('may leave out blobs that the header says are left out, and no others', async () => {
    const [first, second] = infos;
    assert.ok(first !== undefined && second !== undefined);
    const partial = encodeFrame({ blobs: [{ ...first, omitted: true as const }, second] }, blobs);
    assert.equal(await frameMatches(await headDigest(partial), partial, LIMITS), true);
    const digest = await headDigest(frame);
    assert.equal(await frameMatches(digest, frame.subarray(0, frame.length - 50), LIMITS), false);
  });

  it('is refused where its header lies about a digest', async () => {
    const [first, second] = infos;
    assert.ok(first !== undefined && second !== undefined);
    const lying = encodeFrame({ blobs: [{ ...first, digest: second.digest }, second] }, blobs);
    assert.equal(await frameMatches(await headDigest(lying), lying, LIMITS), false);
  });

  it('is not mistaken for another body that begins like it', async () => {
    const body = new TextEncoder().encode('{"a": 1}');
    assert.equal(await frameMatches(await sha256Hex(body), body, LIMITS), true);
    assert.equal(await frameMatches(await sha256Hex(body), new Uint8Array([...body, 32]), LIMITS), false);
  });
});
