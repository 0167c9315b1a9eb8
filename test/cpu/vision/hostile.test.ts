import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { ImageError } from '../../../gpu-backend/vision/image-error.ts';
import { DecodePool } from '../../../gpu-backend/vision/pool.ts';
import { nanoRecipe } from '../../../gpu-backend/vision/recipes.ts';
import { makeBombs } from '../../fixtures/pictures/bombs.ts';
import { hostilePicture, hostileSeeds } from '../../fixtures/pictures/hostile.ts';

const isLong = process.env.MANTIS_LONG_TESTS === '1';
const recipe = nanoRecipe(32);
// Time is the benchmark's to judge (`npm run bench -- hostile-images`): tests run beside others.
const pool = new DecodePool({ processes: 2, timeoutMs: 20_000 });
pool.warm();
after(() => pool.close());

/** How the picture ended: 'image', or the code it was refused with and why. Anything else is an error of ours. */
async function outcome(bytes: Uint8Array): Promise<string> {
  try {
    await pool.preprocess(bytes, recipe);
    return 'image';
  } catch (error) {
    if (error instanceof ImageError) return `${error.code}: ${error.message}`;
    throw error;
  }
}

test('mutated pictures are decoded or refused, and no process dies of them', async () => {
  const seed = 20261125;
  const seeds = await hostileSeeds(seed, 56);
  const count = isLong ? 50_000 : 800;
  const ends = new Map<string, number>();
  for (let index = 0; index < count; index += 8) {
    const group = Array.from({ length: 8 }, (_, i) => hostilePicture(seeds, seed, index + i));
    for (const end of await Promise.all(group.map(({ bytes }) => outcome(bytes))))
      ends.set(end.split(':')[0]!, (ends.get(end.split(':')[0]!) ?? 0) + 1);
  }
  const { crashed, timedOut, tooLarge } = pool.stats();
  assert.deepEqual({ crashed, timedOut, tooLarge }, { crashed: 0, timedOut: 0, tooLarge: 0 }, `seed ${seed}`);
  // The mutations are neither all fatal nor all harmless.
  assert.ok(
    (ends.get('image') ?? 0) > count / 20 && (ends.get('image_parse_error') ?? 0) > count / 5,
    String([...ends]),
  );
});

test('bombs end in time, and those that are whole are shown', async (t) => {
  for (const { name, bytes, end } of await makeBombs({ withLarge: isLong })) {
    const start = performance.now();
    const got = await outcome(bytes);
    const ms = performance.now() - start;
    if (ms > 300) t.diagnostic(`${name}: ${got} after ${ms.toFixed(0)} ms`);
    if (end === 'image') assert.equal(got, 'image', name);
    else if (end === 'refused') assert.notEqual(got, 'image', name);
  }
  assert.equal(pool.stats().crashed, 0);
});
