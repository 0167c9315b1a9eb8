import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { batchOf, type ChoiceSequence, packChoices, unshared } from '../../../gpu-backend/engine/choice-packing.ts';

const HIDDEN = 2;
const pictures = [1, 2, 3].map((value) => new Float32Array(3 * HIDDEN).fill(value));
/** Slots of a picture have the same ids whatever it shows. */
const SLOT = [9, 9, 8];

/** Head, pictures in an order, a question; read after the last token, twice. */
function ordered(order: readonly number[], question: readonly number[]): ChoiceSequence {
  const ids = [1, 2, ...order.flatMap(() => SLOT), ...question];
  return {
    ids,
    images: order.map((picture, i) => ({ tokenStart: 2 + 3 * i, tokenCount: 3, features: pictures[picture]! })),
    reads: [5, 6].map((id) => ({ at: ids.length - 1, id })),
  };
}

const ORDERS = [
  [0, 1, 2],
  [0, 2, 1],
  [1, 0, 2],
  [1, 2, 0],
];

describe('batches of compared answers', () => {
  it('compute what sequences share from their beginning on once, and no more than that', () => {
    const sequences = ORDERS.map((order) => ordered(order, [4, 5]));
    const batch = batchOf(sequences, HIDDEN);
    // The head once, each of two first pictures once, and of every sequence two pictures and the question.
    assert.equal(batch.ids_T.length, 2 + 2 * 3 + 4 * (2 * 3 + 2));
    assert.equal(batch.imageRows_I.length, 2 * 3 + 4 * 2 * 3);
    assert.equal(batch.reads, 1);
    assert.deepEqual([...batch.wantedAt_R], [0, 0, 1, 1, 2, 2, 3, 3]);
    assert.deepEqual([...batch.wantedIds_R], [5, 6, 5, 6, 5, 6, 5, 6]);
    for (const [row, place] of batch.places_T.entries()) assert.equal(batch.rows_EL[place], row);
  });

  it('are the same sequences where nothing is shared', () => {
    const sequences = [ordered([0, 1], [4, 5, 6]), ordered([0], [4]), ordered([0, 1], [4, 5, 7])];
    const plain = unshared(batchOf(sequences, HIDDEN), HIDDEN);
    const length = 11;
    for (const [e, { ids, images }] of sequences.entries()) {
      assert.deepEqual([...plain.ids_EL.subarray(e * length, e * length + ids.length)], ids);
      const slots = images.flatMap(({ tokenStart, features }) =>
        [0, 1, 2].map((t) => ({ place: e * length + tokenStart + t, value: features[0]! })),
      );
      for (const { place, value } of slots)
        assert.equal(plain.features_IH[plain.imageRows_I.indexOf(place) * HIDDEN], value);
      assert.equal(plain.readRows_EQ[e], e * length + ids.length - 1);
    }
    assert.equal(plain.imageRows_I.length, 15);
  });

  it('keep together what begins alike, and ask each sequence once', () => {
    const questions = Array.from({ length: 60 }, (_, n) => [4, 100 + n, 200 + n]);
    const sequences = questions.flatMap((question, n) => [
      ordered([n % 3, (n + 1) % 3, (n + 2) % 3], [...question, ...new Array<number>(60).fill(7)]),
      ordered([n % 3, (n + 2) % 3, (n + 1) % 3], [...question, ...new Array<number>(60).fill(7)]),
    ]);
    const batches = packChoices(sequences);
    assert.deepEqual(new Set(batches.flat()), new Set(sequences));
    assert.equal(batches.flat().length, sequences.length);
    for (const batch of batches) assert.ok(batchOf(batch, HIDDEN).ids_T.length <= 1792);
    const rows = batches.reduce((sum, batch) => sum + batchOf(batch, HIDDEN).ids_T.length, 0);
    assert.ok(rows < sequences.reduce((sum, { ids }) => sum + ids.length, 0) * 0.95, `${rows}`);
  });
});
