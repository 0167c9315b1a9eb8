import assert from 'node:assert/strict';
import { test } from 'node:test';
import { evaluateSkills, type SkillQuestion } from '../../../gpu-backend/eval/skills.ts';
import { clusteredShare } from '../../../gpu-backend/eval/statistics/clustered.ts';

const items: SkillQuestion<string>[] = [
  {
    id: '1',
    skill: 'temporal',
    images: ['a', 'b'],
    question: 'which way?',
    choices: ['left', 'right'],
    answer: 'right',
  },
  {
    id: '2',
    skill: 'temporal',
    images: ['a', 'b', 'c'],
    question: 'which way?',
    choices: ['left', 'right'],
    answer: 'left',
  },
  { id: '3', skill: 'comparison', images: ['a', 'b'], question: 'more?', choices: ['true', 'false'], answer: 'true' },
];

test('accuracy is reported over all, by skill and by number of images', async () => {
  const report = await evaluateSkills(items, {
    score: async (requests) => requests.map(({ images }) => (images.length === 2 ? [-2, -1] : [-1, -2])),
  });
  assert.equal(report.accuracy, 2 / 3);
  assert.deepEqual(report.bySkill, {
    temporal: { accuracy: 1, majority: 0.5, items: 2 },
    comparison: { accuracy: 0, majority: 1, items: 1 },
  });
  assert.deepEqual(report.byImages, { 2: 0.5, 3: 1 });
});

test('the text-only control sends no image', async () => {
  const report = await evaluateSkills(items, {
    control: 'text-only',
    score: async (requests) => {
      assert.ok(requests.every(({ parts, images }) => images.length === 0 && parts.length === 1));
      return requests.map(() => [0, -1]);
    },
  });
  assert.equal(report.control, 'text-only');
});

test('an answer outside the choices is refused', async () => {
  const broken = [{ ...(items[0] as SkillQuestion<string>), answer: 'up' }];
  await assert.rejects(evaluateSkills(broken, { score: async () => [[0, 0]] }), /item 1: answer `up`/);
});

test('the clustered error equals the binomial one for single answers and grows when answers repeat', () => {
  const single = Array.from({ length: 400 }, (_, i) => ({ cluster: String(i), right: i % 2 === 0 }));
  const repeated = single.map(({ right }, i) => ({
    cluster: String(Math.floor(i / 8)),
    right: Math.floor(i / 8) % 2 === 0 || right === undefined,
  }));
  assert.ok(Math.abs(clusteredShare(single).standardError - Math.sqrt(0.25 / 399)) < 1e-9);
  assert.ok(clusteredShare(repeated).standardError > 2.5 * clusteredShare(single).standardError);
  assert.throws(() => clusteredShare([]), RangeError);
});
