/** Reports on a client's own items: what criteria said, and nothing that only a benchmark's reference would tell. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { buildReport } from '../../../gpu-backend/eval/report/build.ts';
import { renderHtml } from '../../../gpu-backend/eval/report/html/report.ts';
import { OwnItems, ownRecord } from '../../../gpu-backend/eval/report/own-items.ts';
import { evalReportSchema } from '../../../gpu-backend/eval/report/schema.ts';
import type { EvalSpec } from '../../../gpu-backend/eval/task.ts';
import type { EvalResult, Grader } from '../../../shared/contract/evals.ts';
import type { EvalItemsPage } from '../../../shared/contract/evalTask.ts';

type Written = EvalItemsPage['items'][number];

const spec: EvalSpec = {
  task: 'eval_1',
  version: 1,
  protocol: {},
  aggregate: 'records',
  data: { digest: 'd', records: 12 },
  mode: 'sequence',
  variants: {},
};
const PICTURE = 'a'.repeat(64);

function written(line: number, item: Record<string, unknown>, answer: string | null, results: EvalResult[]): Written {
  const isError = answer === null || results.some(({ error }) => error !== undefined);
  return {
    line,
    status: isError ? 'error' : results.every(({ passed }) => passed) ? 'pass' : 'fail',
    datasourceItem: item,
    results,
    sample: {
      input: [{ role: 'user', content: `[image sha256:${PICTURE}][image sha256:${PICTURE}] Same?` }],
      output: answer === null ? [] : [{ role: 'assistant', content: answer }],
      finish_reason: 'stop',
      model: 'nano',
      usage: null,
      error: answer === null ? { code: 'invalid_image', message: `image ${line}: no picture` } : null,
      temperature: 0,
      max_completion_tokens: null,
      top_p: null,
      seed: null,
    },
  };
}

async function reportOf(criteria: Grader[], all: readonly Written[]) {
  const own = new OwnItems(criteria);
  const items = all.map((one) => own.add(one));
  const model = { name: 'nano', identity: 'nano' };
  const run = { name: 'monday', createdAt: 1_790_000_000, metadata: { branch: 'main' } };
  const report = await buildReport({ spec, model, items, run, records: all.map(ownRecord), own: own.facts() });
  assert.deepEqual(evalReportSchema.parse(report), report);
  return { report, page: renderHtml(report, new Map()) };
}

const check = (name: string, reference: string, operation: 'eq' | 'ne' = 'eq'): Grader => ({
  type: 'string_check',
  name,
  input: '{{sample.output_text}}',
  reference,
  operation,
});
const result = (name: string, score: number, more: Partial<EvalResult> = {}): EvalResult => ({
  name,
  type: 'x',
  passed: score === 1,
  score,
  ...more,
});

test('the reference is what the criterion holds the answer against, whatever the field is called', async () => {
  const all = Array.from({ length: 12 }, (_, i) =>
    written(i, { a: i % 3 === 0 ? 'x' : 'y' }, i % 2 === 0 ? 'x' : 'y', [
      result('same', Number((i % 3 === 0) === (i % 2 === 0))),
    ]),
  );
  const { report, page } = await reportOf([check('same', '{{item.a}}')], all);
  assert.deepEqual(report.baseline, { chance: null, majority: Number((8 / 12).toFixed(6)), majorityAnswer: 'y' });
  assert.deepEqual(report.answers.distribution, [
    { answer: 'y', given: 6, expected: 8 },
    { answer: 'x', given: 6, expected: 4 },
  ]);
  assert.doesNotMatch(page, /criteria of item|>X</);
  assert.match(page, /run monday · 2026-09-21 \d\d:\d\d UTC/);
  assert.match(page, /<span class="chip">branch: main<\/span>/);
  assert.doesNotMatch(page, new RegExp(`image sha256:${PICTURE}`));
  assert.match(page, /<p dir="auto">Same\?<\/p>/, 'marks before the question go without saying');
});

test('several criteria have a table, errors are no wrong answers, and nobody always answers x', async () => {
  const criteria = [
    check('eq', '{{item.answer}}'),
    check('ne', '{{item.answer}}', 'ne'),
    check('judge', '{{item.missing}}'),
  ];
  const all = Array.from({ length: 12 }, (_, i) => {
    const judge =
      i < 2 ? result('judge', 0, { passed: false, error: `judge ${i}: no number` }) : result('judge', 0.25 * (i % 4));
    return written(
      i,
      { answer: 'x' },
      i < 5 && i > 1 ? null : 'x',
      i < 5 && i > 1 ? [] : [result('eq', 1), result('ne', 0), judge],
    );
  });
  const { report, page } = await reportOf(criteria, all);
  assert.deepEqual(
    report.criteria.map(({ name, passed, failed, errored, mean }) => [name, passed, failed, errored, mean]),
    [
      ['eq', 9, 0, 3, 1],
      ['ne', 0, 9, 3, 0],
      ['judge', 0, 7, 5, Number((3 / 7).toFixed(6))],
    ],
  );
  assert.ok((report.criteria[2]?.interval?.[1] ?? 1) < 1);
  assert.deepEqual(report.baseline, { chance: null, majority: null, majorityAnswer: null });
  assert.deepEqual([report.answers.distribution, report.answers.confusion], [[], null]);
  assert.deepEqual(
    report.answers.rules.map(({ rule, items }) => [rule, items]),
    [
      ['not ne, judge', 7],
      ['no answer', 3],
      ['no verdict', 2],
    ],
  );
  assert.deepEqual([report.wrong.total, report.wrong.unanswered, report.counts.errors], [7, 5, 5]);
  assert.deepEqual(report.errors, [
    { cause: 'image 2: no picture', items: 3 },
    { cause: 'judge 0: no number', items: 2 },
  ]);
  assert.match(page, /<h2>Criteria<\/h2>/);
  assert.doesNotMatch(page, /always “|without looking|--compare/);
});

test('criteria without a reference show none, and scores of another range have no interval', async () => {
  const grader: Grader = {
    type: 'score_model',
    name: 'nice',
    model: 'nano',
    range: [1, 7],
    input: [{ role: 'user', content: 'x' }],
  };
  const all = Array.from({ length: 8 }, (_, i) => written(i, {}, 'free', [result('nice', 1 + (i % 7))]));
  const { report, page } = await reportOf([grader], all);
  assert.deepEqual([report.criteria[0]?.mean, report.criteria[0]?.interval], [3.625, null]);
  assert.equal(report.wrong.shown[0]?.reference, null);
  assert.equal(report.headline?.items, 8, 'they count without references');
  assert.doesNotMatch(page, /<dt>Right<\/dt>/);
  // What an answer must not be is no right answer.
  const other = [written(0, { a: 'no' }, 'no', [result('not no', 0)])];
  const negative = await reportOf([check('not no', '{{item.a}}', 'ne')], other);
  assert.deepEqual([negative.report.wrong.shown[0]?.reference, negative.report.baseline.majority], [null, null]);
});
