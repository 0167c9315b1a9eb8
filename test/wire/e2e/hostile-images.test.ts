/** A small part of `npm run bench -- hostile-images`: mutations, bombs and valid pictures through the public door. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { makeBombs } from '../../fixtures/pictures/bombs.ts';
import { answerFault, ask, canary, type Door, isSameCanary, sendPicture } from '../../fixtures/pictures/door.ts';
import { hostilePicture, hostileSeeds } from '../../fixtures/pictures/hostile.ts';
import { type ValidPicture, validPictures } from '../../fixtures/pictures/valid.ts';
import { dataUrl, picture } from './pictures.ts';
import { type Product, startProduct, stopAndForget } from './product.ts';

const SEED = 20261126;
const MUTATIONS = 300;
const VALID = 60;
const AT_ONCE = 4;

let product: Product;
let door: Door;
let expected: readonly [string, string];
const canaryPictures = [dataUrl(picture('frame-1')), dataUrl(picture('frame-2'))];

before(async () => {
  product = await startProduct();
  const model = (await product.client.models.list()).data[0]?.id ?? assert.fail('GET /v1/models lists a model');
  door = { url: product.url, apiKey: product.apiKey, model };
  await ask(door, [dataUrl(picture('yellow-circle'))]);
  expected = await canary(door, canaryPictures);
});
after(() => stopAndForget(product));

/** Runs over numbers, a few at once, and gives all faults. */
async function faultsOf(count: number, check: (index: number) => Promise<string | null>): Promise<string[]> {
  const faults: string[] = [];
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let index = next++; index < count; index = next++) {
      const fault = await check(index);
      if (fault !== null) faults.push(`${index}: ${fault}`);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
  return faults;
}

test(`${MUTATIONS} mutated pictures are answered or refused, by data URL and by upload`, async () => {
  const seeds = await hostileSeeds(SEED, 56);
  const faults = await faultsOf(MUTATIONS, async (index) => {
    // Not all of the cuts that stand first.
    const hostile = hostilePicture(seeds, SEED, index * 7);
    const fault = answerFault(await sendPicture(door, hostile, index % 5 === 0 ? 'file' : 'data'));
    return fault === null ? null : `${hostile.name} ${fault}`;
  });
  assert.deepEqual(faults, [], `seed ${SEED}`);
});

test('bombs are answered or refused', async () => {
  const bombs = await makeBombs({ withLarge: false });
  const faults = await faultsOf(bombs.length, async (index) => {
    const { name, end, ...bomb } = bombs[index]!;
    const sent = await sendPicture(door, bomb, 'data');
    const fault = answerFault(sent);
    if (fault !== null) return `${name} ${fault}`;
    if (end === 'image' && sent.status !== 200) return `${name} was refused: ${sent.message}`;
    return end === 'refused' && sent.status === 200 ? `${name} was taken` : null;
  });
  assert.deepEqual(faults, []);
});

test(`${VALID} valid pictures of every kind are answered`, async () => {
  const pictures: ValidPicture[] = [];
  for await (const valid of validPictures(VALID, SEED)) pictures.push(valid);
  const faults = await faultsOf(VALID, async (index) => {
    const valid = pictures[index]!;
    const { status, message } = await sendPicture(door, valid, index % 5 === 0 ? 'file' : 'data');
    return status === 200 ? null : `${valid.name} was refused: ${message}`;
  });
  assert.deepEqual(faults, []);
});

test('nothing of it changed an answer or ended a backend', async () => {
  const now = await canary(door, canaryPictures);
  assert.ok(isSameCanary(expected, now), `${expected.join('\n')}\nbecame\n${now.join('\n')}`);
  assert.doesNotMatch(product.output(), /backend_ended/);
});
