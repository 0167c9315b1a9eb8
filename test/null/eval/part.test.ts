import assert from 'node:assert/strict';
import { it } from 'node:test';
import { partOf } from '../../../gpu-backend/eval/run/part.ts';
import { sampleRecords } from '../../../gpu-backend/eval/source/sample.ts';
import type { EvalRecord, EvalRecords } from '../../../gpu-backend/eval/task.ts';

/** 90 questions of `a`, 9 of `b` and 1 of `c`, in this order, two a group. */
const records = (order: 1 | -1 = 1): EvalRecords => ({
  length: 100,
  digest: 'all',
  get: async (index) => {
    const i = order === 1 ? index : 99 - index;
    const category = i < 90 ? 'a' : i < 99 ? 'b' : 'c';
    const record = { id: `q${i}`, group: `g${i >> 1}`, category, images: [], question: '', options: [], answers: [] };
    return { ...record, fields: {} };
  },
  close: async () => {},
});

async function all(of: EvalRecords): Promise<EvalRecord[]> {
  return await Promise.all(Array.from({ length: of.length }, (_, i) => of.get(i)));
}

const sizes = async (of: EvalRecords): Promise<number[]> => {
  const drawn = await all(of);
  return ['a', 'b', 'c'].map((name) => drawn.filter(({ category }) => category === name).length);
};

it('a sample takes of every category its share, and one of each where that fits', async () => {
  const expected: [number, number[]][] = [
    [2, [2, 0, 0]],
    [3, [1, 1, 1]],
    [10, [8, 1, 1]],
    [50, [45, 4, 1]],
    [100, [90, 9, 1]],
  ];
  for (const [count, shares] of expected)
    assert.deepEqual(await sizes(await sampleRecords(records(), { count, seed: 0 })), shares);
});

it('a sample is drawn by seed and ids, not by the order of the files', async () => {
  const draw = async (order: 1 | -1, seed: number) =>
    (await all(await sampleRecords(records(order), { count: 20, seed }))).map(({ id }) => id);
  assert.deepEqual((await draw(1, 0)).sort(), (await draw(-1, 0)).sort());
  assert.notDeepEqual(await draw(1, 0), await draw(1, 1));
  const groups = await sampleRecords(records(), { count: 20, seed: 0, byGroup: true });
  const drawn = await all(groups);
  assert.equal(new Set(drawn.map(({ group }) => group)).size * 2, drawn.length);
});

it('a run says of what whole it is a part', async () => {
  const whole = { split: 'test', records: 120, parts: ['a', 'b', 'c', 'd'] };
  assert.deepEqual(await partOf({ whole }, records()), {
    published: 120,
    parts: { asked: 3, of: 4, missing: ['d'] },
  });
  assert.deepEqual(await partOf({ whole: { split: 'test', records: 100 } }, records()), null);
  assert.deepEqual(await partOf({ whole }, records(), { split: 'dev' }), null);
  assert.deepEqual(await partOf({}, await sampleRecords(records(), { count: 5, seed: 3 })), {
    chosen: { how: 'sample', of: 100, seed: 3 },
    published: null,
  });
  assert.deepEqual((await partOf({}, records(), { limit: 7 }))?.chosen, { how: 'first', of: 100 });
});
