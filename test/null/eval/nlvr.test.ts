import assert from 'node:assert/strict';
import { test } from 'node:test';
import { evaluateNlvr, type NlvrQuestion } from '../../../gpu-backend/eval/nlvr.ts';
import type { ChoiceRequest, ScoreChoices } from '../../../gpu-backend/eval/scoring.ts';

const orders = [
  [0, 1, 2],
  [2, 1, 0],
];
const examples: NlvrQuestion[] = [
  { id: 'a', group: 'g', statement: ' box 0 is here ', label: true, boxes: orders },
  { id: 'b', group: 'g', statement: 'box 9 is here', label: false, boxes: orders },
  {
    id: 'c',
    group: 'h',
    statement: 'box 5 is here',
    label: true,
    boxes: [
      [3, 4, 5],
      [5, 4, 3],
    ],
  },
];
const image = (box: number) => box;

/** Says true where the number in the statement is among the images. */
const seeing: ScoreChoices<number> = async (requests) =>
  requests.map(({ parts, images }) => {
    const wanted = Number(/\d+/.exec(parts.filter((part) => typeof part === 'string').join(''))?.[0]);
    return images.includes(wanted) ? [-0.1, -3] : [-3, -0.1];
  });

test('a model that sees is right in every order and group', async () => {
  const report = await evaluateNlvr(examples, { image, score: seeing });
  assert.equal(report.accuracy, 1);
  assert.equal(report.consistency, 1);
  assert.deepEqual([report.examples, report.groups, report.answers], [3, 2, 6]);
  assert.deepEqual(report.accuracyByOrder, [1, 1]);
});

test('one wrong order costs one answer and the consistency of its group', async () => {
  const positional: ScoreChoices<number> = async (requests) =>
    (await seeing(requests)).map((row, i) => (requests[i]?.images[0] === 5 ? row.toReversed() : row));
  const report = await evaluateNlvr(examples, { image, score: positional });
  assert.equal(report.accuracy, 5 / 6);
  assert.equal(report.consistency, 1 / 2);
  assert.deepEqual(report.accuracyByOrder, [1, 2 / 3]);
});

test('prompts hold the images, then the trimmed statement, and neither id nor group', async () => {
  const seen: ChoiceRequest<number>[] = [];
  await evaluateNlvr(examples, {
    image,
    score: async (requests) => {
      seen.push(...requests);
      return requests.map(() => [0, -1]);
    },
  });
  assert.deepEqual(seen[0]?.parts, [{ image: 0 }, { image: 1 }, { image: 2 }, 'box 0 is here']);
  assert.deepEqual(seen[1]?.images, [2, 1, 0]);
  assert.deepEqual(seen[0]?.choices, ['true', 'false']);
});

test('text-only shows no image; shuffled shows those of another group', async () => {
  const shown: number[][] = [];
  const watch: ScoreChoices<number> = async (requests) => {
    for (const request of requests) shown.push([...request.images]);
    return requests.map(() => [0, -1]);
  };
  const blind = await evaluateNlvr(examples, { image, score: watch, control: 'text-only' });
  assert.ok(shown.every((images) => images.length === 0));
  assert.equal(blind.accuracy, 2 / 3);
  assert.equal(blind.answeredTrue, 1);
  shown.length = 0;
  await evaluateNlvr(examples, { image, score: watch, control: 'shuffled' });
  assert.deepEqual(shown, [
    [3, 4, 5],
    [5, 4, 3],
    [3, 4, 5],
    [5, 4, 3],
    [0, 1, 2],
    [2, 1, 0],
  ]);
});

test('a missing label is named by its line', async () => {
  const unlabelled = examples.map(({ label, ...rest }, i) => (i === 1 ? rest : { ...rest, label: label === true }));
  await assert.rejects(evaluateNlvr(unlabelled, { image, score: seeing }), /line 2 .*`label`/);
});

test('a scorer that returns a wrong shape or NaN stops the run', async () => {
  await assert.rejects(evaluateNlvr(examples, { image, score: async () => [[0, 1]] }), /expected 6 rows .* got 1/);
  await assert.rejects(
    evaluateNlvr(examples, { image, score: async (requests) => requests.map(() => [Number.NaN, 0]) }),
    /request 0, choice 0 got NaN/,
  );
});
