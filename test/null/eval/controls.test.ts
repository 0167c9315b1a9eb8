import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  applyVariant,
  asPublished,
  rotateOptions,
  Strangers,
  variantKey,
  variantsFor,
  variantsJson,
} from '../../../gpu-backend/eval/controls.ts';
import type { EvalImage, EvalPrompt, EvalRecord } from '../../../gpu-backend/eval/task.ts';

const image = (sha256: string): EvalImage => ({ sha256, bytes: async () => new Uint8Array() });
const record = (overrides: Partial<EvalRecord> = {}): EvalRecord => ({
  id: 'one',
  group: 'g1',
  category: null,
  images: ['a', 'b', 'c'].map(image),
  question: 'which?',
  options: ['red', 'green', 'blue', 'black'],
  answers: ['(B)'],
  fields: {},
  ...overrides,
});
const task = {
  name: 'colours',
  prompt: ({ images, question, options }: EvalRecord): EvalPrompt => ({
    parts: [...images.map((_, i) => ({ image: i })), [question, ...options].join('\n')],
    images,
    maxTokens: 4,
  }),
};
const keys = (...asked: Parameters<typeof variantsFor>) => variantsFor(...asked).map(variantKey);

test('as published is one way, or the orders of the protocol', () => {
  assert.deepEqual(variantsFor(record(), asPublished, {}), [{ control: 'none' }]);
  const orders = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
  ];
  const nlvr = { imageOrders: () => orders };
  assert.deepEqual(keys(record(), asPublished, nlvr), ['none', 'none, order 1 3 2', 'none, order 2 1 3']);
  assert.deepEqual(keys(record(), { ...asPublished, orders: 2 }, nlvr), ['none', 'none, order 1 3 2']);
  assert.deepEqual(variantsJson(asPublished, nlvr), {
    orders: 'protocol',
    rotate: false,
    controls: [],
    protocolOrders: true,
  });
});

test('orders are all, or drawn by the record, the published one first', () => {
  const all = variantsFor(record(), { ...asPublished, orders: 'all' }, {});
  assert.equal(all.length, 6);
  assert.equal(new Set(all.map(variantKey)).size, 6);
  assert.deepEqual(all[0], { control: 'none' });
  const drawn = keys(record(), { ...asPublished, orders: 3 }, {});
  assert.equal(drawn.length, 3);
  assert.deepEqual(keys(record(), { ...asPublished, orders: 3 }, {}), drawn);
  const seen = new Set(
    Array.from({ length: 60 }, (_, i) => keys(record({ id: `${i}` }), { ...asPublished, orders: 2 }, {})[1]),
  );
  assert.equal(seen.size, 5, 'over many records every other order is asked');
  const many = keys(record({ images: 'abcdefg'.split('').map(image) }), { ...asPublished, orders: 'all' }, {});
  assert.equal(new Set(many).size, 24);
  assert.deepEqual(keys(record({ images: [image('a')] }), { ...asPublished, orders: 'all' }, {}), ['none']);
});

test('rotations and controls, without doubles', () => {
  const asked = {
    orders: 'protocol',
    rotate: true,
    controls: ['leave-one-out', 'text-only', 'blank', 'shuffled'],
  } as const;
  assert.deepEqual(keys(record(), asked, {}), [
    'none',
    'none, rotated 1',
    'none, rotated 2',
    'none, rotated 3',
    'text-only',
    'blank',
    'shuffled',
    'leave-one-out, without 1',
    'leave-one-out, without 2',
    'leave-one-out, without 3',
  ]);
  assert.deepEqual(keys(record({ images: [], options: [] }), asked, {}), ['none']);
});

test('a rotated letter follows its option', async () => {
  for (const [answer, moved] of [
    ['(B)', '(C)'],
    ['B', 'C'],
    ['b.', 'c.'],
    [' D ', ' A '],
    ['green', 'green'],
    ['E', 'E'],
    ['I', 'I'],
  ] as const)
    assert.deepEqual(rotateOptions(record({ answers: [answer] }), 1).answers, [moved]);
  assert.deepEqual(rotateOptions(record(), 3).options, ['green', 'blue', 'black', 'red']);
  for (let by = 0; by < 4; by++) {
    const { options, answers } = rotateOptions(record(), by);
    assert.equal(options[(answers[0] as string).charCodeAt(1) - 65], 'green');
  }
  assert.throws(() => rotateOptions(record(), 4), /cannot rotate 4 options by 4/);
  const applied = await applyVariant(task, record(), { control: 'none', optionRotation: 2 });
  assert.deepEqual(applied.record.answers, ['(D)']);
  assert.equal(applied.prompt.parts[3], 'which?\nblue\nblack\nred\ngreen');
  const deaf = { ...task, prompt: (one: EvalRecord) => ({ ...task.prompt(one), parts: ['which?'] }) };
  await assert.rejects(
    applyVariant(deaf, record(), { control: 'none', optionRotation: 1 }),
    /the prompt of record one is the same with its options rotated/,
  );
});

test('pictures in another order, of strangers, and none at all', async () => {
  const shownBy = async (variant: Parameters<typeof applyVariant>[2], stranger?: EvalRecord) =>
    (await applyVariant(task, record(), variant, stranger)).prompt.images.map(({ sha256 }) => sha256).join('');
  assert.equal(await shownBy({ control: 'none', imageOrder: [2, 0, 1] }), 'cab');
  await assert.rejects(
    shownBy({ control: 'none', imageOrder: [0, 0, 1] }),
    /\[0, 0, 1\] is no order of its 3 pictures/,
  );
  await assert.rejects(shownBy({ control: 'none', imageOrder: [0, 1] }), /is no order/);
  const stranger = record({ id: 'two', images: ['w', 'x', 'y', 'z'].map(image) });
  assert.equal(await shownBy({ control: 'shuffled', imageOrder: [1, 0, 2] }, stranger), 'xwy');
  await assert.rejects(shownBy({ control: 'shuffled' }), /needs a stranger with 3 pictures, got none/);
  const { prompt } = await applyVariant(task, record(), { control: 'text-only' });
  assert.deepEqual([prompt.images, prompt.parts], [[], ['which?\nred\ngreen\nblue\nblack']]);
});

test('strangers are of another group, have enough pictures and share none', async () => {
  const all = [
    record({ id: '0', group: 'a', images: ['p', 'q'].map(image) }),
    record({ id: '1', group: 'a', images: ['r', 's'].map(image) }),
    record({ id: '2', group: 'b', images: ['p', 't'].map(image) }),
    record({ id: '3', group: 'b', images: [image('u')] }),
    record({ id: '4', group: 'c', images: ['v', 'w', 'x'].map(image) }),
  ];
  const strangers = await Strangers.read({ get: async (i) => all[i] as EvalRecord }, all.length);
  assert.equal(strangers.indexFor(0), 4, 'not 2, which shows p, nor 3, which has one picture');
  assert.equal(strangers.indexFor(1), 4);
  assert.equal(strangers.indexFor(3), 0);
  assert.throws(() => strangers.indexFor(4), /no record of another group than c has 3 pictures/);
  const seeded = await Strangers.read({ get: async (i) => all[i] as EvalRecord }, all.length, 1);
  assert.equal(seeded.indexFor(3), 1);
});
