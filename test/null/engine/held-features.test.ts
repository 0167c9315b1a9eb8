import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { FeatureCache } from '../../../gpu-backend/engine/feature-cache.ts';
import { HeldFeatures } from '../../../gpu-backend/engine/held-features.ts';

const floats = (count: number) => new Float32Array(count);

describe('HeldFeatures', () => {
  it('pins what a request found until it ends, whatever the cache has room for', () => {
    const cache = new FeatureCache(0);
    const held = new HeldFeatures(cache);
    assert.deepEqual(held.hold('r', ['a', 'b']), [0, 1]);
    held.restore('r', [{ key: 'a', features: floats(4) }], []);
    assert.equal(cache.bytes, 16);
    assert.deepEqual(held.hold('s', ['a', 'b']), [1]);
    held.release('r');
    assert.equal(cache.bytes, 16, 's holds it too');
    held.release('s');
    assert.deepEqual([cache.bytes, cache.size, cache.evictions], [0, 0, 1]);
    held.release('s');
  });
  it('restores for nobody who has already ended', () => {
    const held = new HeldFeatures(new FeatureCache(100));
    held.hold('r', []);
    held.release('r');
    assert.throws(() => held.restore('r', [{ key: 'a', features: floats(1) }], []), /r holds nothing/);
  });
  it('hands out what was computed once, to a request that is still there, never what was restored', () => {
    const told: (string | null)[] = [];
    const cache: FeatureCache = new FeatureCache(1000, (key) => told.push(held.takeWanted(key)));
    const held = new HeldFeatures(cache);
    for (const request of ['r', 's']) held.hold(request, []);
    held.restore('r', [], ['a', 'b']);
    held.restore('s', [{ key: 'c', features: floats(1) }], ['b']);
    assert.deepEqual(told, []);
    cache.insert('a', floats(1));
    cache.insert('a', floats(1));
    assert.deepEqual(told, ['r']);
    held.release('s');
    cache.insert('b', floats(1));
    cache.insert('d', floats(1));
    assert.deepEqual(told, ['r', null, null]);
  });
});
