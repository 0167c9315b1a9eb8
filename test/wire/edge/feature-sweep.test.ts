import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Miniflare } from 'miniflare';
import { featuresKey, sweepFeatures } from '../../../edge/store/features.ts';

const DAY_MS = 24 * 3_600_000;

let runtime: Miniflare;
before(() => {
  const script = 'export default { fetch: () => new Response() };';
  runtime = new Miniflare({ modules: true, script, r2Buckets: ['BLOBS'] });
});
after(() => runtime.dispose());

test('features are deleted page by page once they are old, and nothing else is', async () => {
  const blobs = (await runtime.getR2Bucket('BLOBS')) as unknown as Parameters<typeof sweepFeatures>[0];
  for (const digit of '12345') await blobs.put(featuresKey('a'.repeat(32), digit.repeat(64)), 'record');
  await blobs.put('files/file-1', 'a file');
  const sweepAll = async (nowMs: number): Promise<number> => {
    let pages = 0;
    let cursor: string | null = null;
    do {
      cursor = await sweepFeatures(blobs, cursor, nowMs, 2);
      pages++;
    } while (cursor !== null);
    return pages;
  };
  assert.equal(await sweepAll(Date.now() + 29 * DAY_MS), 3);
  assert.equal((await blobs.list({ prefix: 'features/' })).objects.length, 5);
  await sweepAll(Date.now() + 31 * DAY_MS);
  assert.deepEqual(
    (await blobs.list()).objects.map(({ key }: { key: string }) => key),
    ['files/file-1'],
  );
});
