/** What counts as right, what belongs together, and what can be said of two models. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  compareHeldOut,
  groupOf,
  outcomeLines,
  referenceOf,
  scoreHeldOut,
} from '../../../gpu-backend/eval/held-out.ts';
import type { EvalItem, EvalVariant } from '../../../gpu-backend/eval/task.ts';
import { isEnough } from '../../../gpu-backend/train/early-stopping.ts';

const text = (words: string) => ({ type: 'text' as const, text: words });
const image = (at: number) => ({ type: 'image' as const, image: at });
const turn = (role: string, ...parts: (ReturnType<typeof text> | ReturnType<typeof image>)[]) => ({ role, parts });

test('an answer is right where it is the same one, whatever its case, quotation marks and full stop', () => {
  for (const [answer, reference, score] of [
    ['True', 'true', 1],
    ['“Two  cats”.', 'two cats', 1],
    ['ＹＥＳ', 'yes', 1],
    ['two cats and a dog', 'two cats', 0],
    ['cats two', 'two cats', 0],
    ['', 'no', 0],
  ] as const)
    assert.deepEqual([answer, scoreHeldOut(answer, reference).score], [answer, score]);
  assert.equal(
    referenceOf({ messages: [turn('user', text('?')), turn('assistant', text('a'), text('b'))], images: [] }),
    'ab',
  );
  assert.equal(referenceOf({ messages: [turn('user', text('?'))], images: [] }), null);
});

test('questions about the same first pictures are one group, whatever the order; without pictures those that begin alike', () => {
  const about = (images: readonly string[], words: string, more: object = {}) =>
    groupOf({ messages: [turn('user', ...images.map((_, i) => image(i)), text(words))], images, ...more });
  assert.equal(about(['a', 'b'], 'one?'), about(['b', 'a'], 'two?'));
  assert.notEqual(about(['a', 'b'], 'one?'), about(['a', 'c'], 'one?'));
  assert.notEqual(about(['a'], 'one?'), about([], 'one?'));
  assert.equal(about(['a'], 'x', { group: 'scene 1' }), about(['z'], 'y', { group: 'scene 1' }));
  const dialogue = (turns: number) =>
    groupOf({
      messages: Array.from({ length: turns }, (_, i) => turn(i % 2 === 0 ? 'user' : 'assistant', text(`turn ${i}`))),
      images: [],
    });
  assert.equal(dialogue(2), dialogue(6), 'a dialogue that was cut in two places');
  const laterPicture = groupOf({
    messages: [turn('user', text('hi')), turn('assistant', text('yes?')), turn('user', image(0))],
    images: ['a'],
  });
  assert.equal(laterPicture, about(['a'], 'what?'));
});

const item = (record: string, group: string, score: number, variant: EvalVariant = { control: 'none' }): EvalItem => ({
  record,
  group,
  category: null,
  variant,
  answer: score === 1 ? 'yes' : 'no',
  parsed: score === 1 ? 'yes' : 'no',
  rule: 'equal answer',
  score,
  reference: 'Yes.',
});

test('single questions have Newcombe and McNemar; questions of a group widen the interval', () => {
  const scores = (right: (i: number) => boolean, groupSize: number) =>
    Array.from({ length: 60 }, (_, i) => item(`line ${i}`, `g${Math.floor(i / groupSize)}`, right(i) ? 1 : 0));
  const [isBefore, isAfter] = [(i: number) => i % 12 < 4, (i: number) => i % 12 < 8];
  const alone = compareHeldOut(scores(isBefore, 1), scores(isAfter, 1), 0.95);
  assert.deepEqual(alone.counts, { firstRight: 20, secondRight: 40, onlyFirst: 0, onlySecond: 20 });
  assert.ok(Math.abs(alone.difference - 1 / 3) < 1e-12);
  assert.ok(Math.abs(alone.pValue - 2 ** -19) < 1e-15, 'twenty of twenty discordant pairs');
  const grouped = compareHeldOut(scores(isBefore, 4), scores(isAfter, 4), 0.95);
  assert.deepEqual([alone.groups, grouped.groups, grouped.examples], [60, 15, 60]);
  const width = ([low, high]: readonly [number, number]) => high - low;
  assert.ok(width(grouped.interval) > 1.5 * width(alone.interval), `${grouped.interval} ${alone.interval}`);
  assert.ok(width(grouped.second.interval) > width(alone.second.interval));
  assert.ok((grouped.detectable ?? 0) > (alone.detectable ?? 1), 'fewer groups see less');
  assert.throws(() => compareHeldOut(scores(isBefore, 1), scores(isAfter, 1).slice(1), 0.95), /same questions/);
});

test('three groups have no detectable difference, and one example tells nothing', () => {
  const asked = (right: (i: number) => boolean) =>
    Array.from({ length: 8 }, (_, i) => item(`line ${i}`, `g${i % 3}`, right(i) ? 1 : 0));
  const few = compareHeldOut(
    asked((i) => i === 0),
    asked((i) => i < 5),
    0.95,
  );
  assert.deepEqual([few.groups, few.detectable], [3, null]);
  const one = compareHeldOut([item('a', 'a', 0)], [item('a', 'a', 1)], 0.95);
  assert.deepEqual([one.interval, one.second.interval, one.detectable], [[-1, 1], [0, 1], null]);
});

test('several orders of pictures are one question; without pictures it is told apart', () => {
  const orders: EvalVariant[] = [{ control: 'none' }, { control: 'none', imageOrder: [1, 0] }];
  const ask = (right: readonly [number, number], record: string) =>
    orders.map((variant, i) => item(record, record, right[i] ?? 0, variant));
  const base = [...ask([0, 0], 'a'), ...ask([1, 1], 'b')];
  const tuned = [
    ...ask([1, 0], 'a'),
    ...ask([1, 1], 'b'),
    item('a', 'a', 0, { control: 'text-only' }),
    item('b', 'b', 1, { control: 'text-only' }),
  ];
  const { examples, second, orderConsistency, textOnly, counts } = compareHeldOut(base, tuned, 0.95);
  assert.deepEqual([examples, second.accuracy, orderConsistency, textOnly?.accuracy], [2, 0.75, 0.5, 0.5]);
  assert.deepEqual([counts.onlyFirst, counts.onlySecond], [0, 1]);
  const lines = outcomeLines(base, tuned, ['base', 'checkpoint'], new Map([['a', '<image><image>Is it?']]))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.equal(lines.length, 6);
  assert.deepEqual(lines[0], {
    example: 'a',
    group: 'a',
    image_order: [1, 0],
    question: '<image><image>Is it?',
    reference: 'Yes.',
    base: { answer: 'no', right: false },
    checkpoint: { answer: 'no', right: false },
  });
  assert.deepEqual(
    lines.map(({ control, question, base: other }) => [control, question, other === undefined]),
    [
      [undefined, '<image><image>Is it?', false],
      [undefined, '<image><image>Is it?', false],
      [undefined, '', false],
      [undefined, '', false],
      ['text-only', 'Is it?', true],
      ['text-only', '', true],
    ],
    'controls come last, without marks of pictures that nobody saw and without a model that was not asked',
  );
});

test('enough is so many evaluations in a row without a new best', () => {
  const stop = { patience: 2, minDelta: 0 };
  assert.equal(isEnough([0.5, 0.5, 0.6, 0.6], stop), false);
  assert.equal(isEnough([0.5, 0.6, 0.6, 0.55], stop), true);
  assert.equal(isEnough([0.5, 0.55, 0.59], { patience: 2, minDelta: 0.1 }), true);
  assert.equal(isEnough([0.9, 0.1, 0.1], null), false);
  assert.equal(isEnough([], stop), false);
});
