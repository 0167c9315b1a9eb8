import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FeatureStore, type FeatureTier } from '../../../gpu-backend/engine/feature-store.ts';
import { DiskTier } from '../../../gpu-backend/engine/feature-store-disk.ts';
import {
  DamagedRecordError,
  decodeRecord,
  encodeRecord,
  type RecordId,
  type StoredPicture,
} from '../../../gpu-backend/engine/feature-store-record.ts';

const id = (digit: string): RecordId => ({ tenant: 'a'.repeat(32), name: digit.repeat(64) });
const picture = (value: number, floats = 100): StoredPicture => ({
  pixelDigest: 'c'.repeat(64),
  width: 30,
  height: 100,
  features: Float32Array.from({ length: floats }, (_, i) => value + Math.fround(i / 3)),
});

describe('a record', () => {
  it('gives back what was written, to the bit', async () => {
    const odd = { ...picture(1), features: Float32Array.of(-0, Number.NaN, 1e-45, -3.4e38, 0.1) };
    const read = await decodeRecord(id('1'), await encodeRecord(id('1'), odd));
    assert.deepEqual({ ...read, features: null }, { ...odd, features: null });
    assert.deepEqual(new Uint8Array(read.features.buffer), new Uint8Array(odd.features.buffer));
  });
  it('is refused when any bit of it has changed, when it is cut or longer, or under another name', async () => {
    const whole = await encodeRecord(id('1'), picture(1, 8));
    for (let at = 0; at < whole.length; at++) {
      const bad = whole.slice();
      bad[at]! ^= 1 << (at % 8);
      await assert.rejects(decodeRecord(id('1'), bad), DamagedRecordError, `bit ${at % 8} of byte ${at}`);
    }
    for (let length = 0; length < whole.length; length += 7)
      await assert.rejects(decodeRecord(id('1'), whole.subarray(0, length)), DamagedRecordError);
    await assert.rejects(decodeRecord(id('1'), Buffer.concat([whole, Buffer.alloc(4)])), DamagedRecordError);
    await assert.rejects(decodeRecord(id('2'), whole), /written as 1111/);
  });
});

/** A tier in memory that can be slow, or down. */
class TestTier implements FeatureTier {
  readonly records = new Map<string, Uint8Array<ArrayBuffer>>();
  reads = 0;
  delayMs = 0;
  isDown = false;
  constructor(readonly name: FeatureTier['name']) {}
  async read({ name }: RecordId, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer> | null> {
    this.reads++;
    if (this.isDown) throw new Error('down');
    if (this.delayMs > 0) await sleep(this.delayMs, undefined, { signal });
    return this.records.get(name) ?? null;
  }
  async write({ name }: RecordId, record: Uint8Array<ArrayBuffer>): Promise<void> {
    if (this.isDown) throw new Error('down');
    if (this.delayMs > 0) await sleep(this.delayMs);
    this.records.set(name, record);
  }
  async drop({ name }: RecordId): Promise<void> {
    this.records.delete(name);
  }
}

describe('FeatureStore', () => {
  it('writes to every tier behind the caller, reads the nearest, and moves what it finds nearer', async () => {
    const [near, far] = [new TestTier('disk'), new TestTier('objects')];
    const store = new FeatureStore({ tiers: [near, far] });
    far.delayMs = 30;
    store.write(id('1'), picture(1));
    assert.equal(far.records.size, 0, 'write does not wait');
    await store.flush(5_000);
    assert.deepEqual([near.records.size, far.records.size], [1, 1]);
    assert.equal((await store.read(id('1')))?.tier, 'disk');
    assert.equal(far.reads, 0);
    near.records.clear();
    const [found, shared] = await Promise.all([store.read(id('1')), store.read(id('1'))]);
    assert.equal(found?.tier, 'objects');
    assert.equal(shared, found, 'who asks at the same time waits for the same read');
    assert.equal(far.reads, 1);
    assert.deepEqual(found?.picture.features, picture(1).features);
    await store.flush(5_000);
    assert.equal(near.records.size, 1);
    assert.equal(await store.read(id('2')), null);
  });
  it('passes over a tier that takes too long, and leaves one alone that keeps failing', async () => {
    let nowMs = 0;
    const [near, far] = [new TestTier('disk'), new TestTier('objects')];
    const store = new FeatureStore({ tiers: [near, far], readTimeoutMs: 20, pauseMs: 1_000, nowMs: () => nowMs });
    store.write(id('1'), picture(1));
    await store.flush(5_000);
    near.delayMs = 10_000;
    const start = performance.now();
    assert.equal((await store.read(id('1')))?.tier, 'objects');
    assert.ok(performance.now() - start < near.delayMs);
    assert.equal(store.stats()[0]?.timeouts, 1);
    near.delayMs = 0;
    near.isDown = true;
    far.isDown = true;
    for (let i = 0; i < 10; i++) assert.equal(await store.read(id('1')), null);
    assert.equal(far.reads, 1 + 3);
    near.isDown = false;
    far.isDown = false;
    assert.equal(await store.read(id('1')), null, 'both are left alone');
    nowMs = 1_001;
    assert.equal((await store.read(id('1')))?.tier, 'disk');
  });
  it('drops a damaged record and finds the one behind it', async () => {
    const [near, far] = [new TestTier('disk'), new TestTier('objects')];
    const store = new FeatureStore({ tiers: [near, far] });
    store.write(id('1'), picture(1));
    await store.flush(5_000);
    near.records.set(id('1').name, near.records.get(id('1').name)!.slice(0, -1));
    assert.equal((await store.read(id('1')))?.tier, 'objects');
    assert.equal(store.stats()[0]?.damaged, 1);
    await store.flush(5_000);
    assert.equal((await store.read(id('1')))?.tier, 'disk');
  });
  it('holds no more than it may while writes wait', async () => {
    const slow = new TestTier('objects');
    slow.delayMs = 20;
    const store = new FeatureStore({ tiers: [slow], maxPendingBytes: 2 * 400 });
    for (const digit of ['1', '2', '3']) store.write(id(digit), picture(1));
    await store.flush(5_000);
    assert.deepEqual([...slow.records.keys()], [id('1').name, id('2').name]);
    assert.equal(store.stats()[0]?.dropped, 1);
    store.write(id('3'), picture(1));
    await store.flush(5_000);
    assert.equal(slow.records.size, 3);
  });
});

describe('DiskTier', () => {
  async function folder(t: { after: (fn: () => unknown) => void }): Promise<string> {
    const dir = await mkdtemp(join(tmpdir(), 'mantis-features-'));
    t.after(() => rm(dir, { recursive: true, force: true }));
    return dir;
  }

  it('keeps within its bytes, the least recently used out first, over a restart too', async (t) => {
    const dir = await folder(t);
    const record = new Uint8Array(1000).fill(7);
    const tier = await DiskTier.open(dir, 3000);
    for (const digit of ['1', '2', '3']) await tier.write(id(digit), record);
    await tier.read(id('1'));
    await tier.write(id('4'), record);
    assert.equal(await tier.read(id('2')), null);
    assert.deepEqual(new Uint8Array((await tier.read(id('1')))!), record);
    assert.deepEqual(tier.size, { bytes: 3000, entries: 3, evictions: 1 });
    await tier.write(id('5'), new Uint8Array(3001));
    assert.equal(tier.size.entries, 3, 'what can never fit evicts nothing');

    // Times of use in an order of their own, and what a killed process leaves behind.
    const files = (await readdir(dir)).sort();
    for (const [age, file] of files.entries()) await utimes(join(dir, file), 1000 - age, 1000 - age);
    await writeFile(join(dir, `${files[0]}.0.part`), 'half');
    await writeFile(join(dir, 'README'), 'not ours');
    const again = await DiskTier.open(dir, 2000);
    assert.deepEqual(again.size, { bytes: 2000, entries: 2, evictions: 1 });
    assert.deepEqual((await readdir(dir)).sort(), ['README', ...files.slice(0, 2)].sort());
  });
  it('keeps no more files than it may', async (t) => {
    const dir = await folder(t);
    const tier = await DiskTier.open(dir, 1 << 20, 2);
    for (const digit of ['1', '2', '3']) await tier.write(id(digit), new Uint8Array(10));
    assert.deepEqual(tier.size, { bytes: 20, entries: 2, evictions: 1 });
    assert.deepEqual((await DiskTier.open(dir, 1 << 20, 1)).size, { bytes: 10, entries: 1, evictions: 1 });
    assert.equal((await readdir(dir)).length, 1);
  });
  it('a damaged file counts as none, and is gone after it was read', async (t) => {
    const dir = await folder(t);
    const store = new FeatureStore({ tiers: [await DiskTier.open(dir, 1 << 20)] });
    store.write(id('1'), picture(1));
    await store.flush(5_000);
    const [file] = await readdir(dir);
    const path = join(dir, file!);
    const bytes = await readFile(path);
    bytes[bytes.length - 1]! ^= 1;
    await writeFile(path, bytes);
    const later = new FeatureStore({ tiers: [await DiskTier.open(dir, 1 << 20)] });
    assert.equal(await later.read(id('1')), null);
    assert.equal(later.stats()[0]?.damaged, 1);
    assert.deepEqual(await readdir(dir), []);
    later.write(id('1'), picture(1));
    await later.flush(5_000);
    assert.deepEqual((await later.read(id('1')))?.picture.features, picture(1).features);
  });
  it('forgets a file that somebody else has removed', async (t) => {
    const dir = await folder(t);
    const tier = await DiskTier.open(dir, 1 << 20);
    await tier.write(id('1'), new Uint8Array(10));
    await rm(join(dir, (await readdir(dir))[0]!));
    assert.equal(await tier.read(id('1')), null);
    assert.deepEqual(tier.size, { bytes: 0, entries: 0, evictions: 0 });
  });
  it('takes no name that could lead elsewhere', async (t) => {
    const tier = await DiskTier.open(await folder(t), 1 << 20);
    const up = { tenant: '../'.repeat(10).padEnd(32, 'x'), name: '1'.repeat(64) };
    await assert.rejects(tier.write(up, new Uint8Array(10)), /hexadecimal/);
  });
});
