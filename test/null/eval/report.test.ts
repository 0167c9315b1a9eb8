import assert from 'node:assert/strict';
import { test } from 'node:test';
import { anchorsOf } from '../../../gpu-backend/eval/report/anchors.ts';
import { buildReport, type ReportInput, reportJson } from '../../../gpu-backend/eval/report/build.ts';
import { compareReports, NotComparable } from '../../../gpu-backend/eval/report/compare.ts';
import { renderComparisonHtml } from '../../../gpu-backend/eval/report/html/compare.ts';
import { picturesIn } from '../../../gpu-backend/eval/report/html/page.ts';
import { renderHtml } from '../../../gpu-backend/eval/report/html/report.ts';
import type { ReportRecord } from '../../../gpu-backend/eval/report/items.ts';
import { evalComparisonSchema, evalReportSchema } from '../../../gpu-backend/eval/report/schema.ts';
import { specDifferences } from '../../../gpu-backend/eval/report/spec-diff.ts';
import { renderComparisonText, renderText } from '../../../gpu-backend/eval/report/text.ts';
import { RandomStream } from '../../../gpu-backend/eval/statistics/random.ts';
import { type EvalItem, type EvalSpec, type EvalVariant, specHash } from '../../../gpu-backend/eval/task.ts';

const spec: EvalSpec = {
  task: 'mantis-eval',
  version: 1,
  protocol: { split: 'test' },
  aggregate: 'records',
  data: { digest: 'd', records: 60 },
  mode: 'sequence',
  variants: { orders: 2, protocolOrders: false },
};
const model = { name: 'model', identity: 'weights' };
const HOSTILE =
  "</script><script>alert(1)</script><img src=x onerror=alert(2)>\" onmouseover='alert(3)' `$0` \u202e\u0000";

interface Options {
  readonly records?: number;
  readonly seed?: string;
  /** Whether an answer is right. Default: by chance, 6 of 10. */
  readonly isRight?: (record: number, variant: EvalVariant, luck: number) => boolean;
  readonly variants?: readonly EvalVariant[];
  readonly text?: string;
}

/** A run over questions with four options and two pictures, two questions a group, three categories. */
function run({
  records = 60,
  seed = 'run',
  isRight = (_, __, luck) => luck < 0.6,
  variants = [{ control: 'none' }],
  text = '',
}: Options = {}): {
  items: EvalItem[];
  records: ReportRecord[];
} {
  const random = new RandomStream(seed);
  const all = Array.from({ length: records }, (_, i) => i);
  return {
    records: all.map((i) => ({
      id: `r${i}`,
      question: `What is it? ${text}`,
      options: ['w', 'x', text, 'z'],
      images: [{ sha256: `${i}a` }, { sha256: `${i}b` }],
    })),
    items: all.flatMap((i) =>
      variants.map((variant): EvalItem => {
        const reference = 'ABCD'[(i + (variant.optionRotation ?? 0)) % 4] as string;
        const isSo = isRight(i, variant, random.uniform());
        const parsed = isSo ? reference : ('ABCD'['BCDA'.indexOf(reference)] as string);
        return {
          record: `r${i}`,
          group: `g${Math.floor(i / 2)}`,
          category: ['count', 'place', `${text}name`][i % 3] as string,
          variant,
          answer: `(${parsed}) ${text}`,
          parsed,
          rule: 'first letter',
          score: Number(isSo),
          reference,
          logprobs: [-0.2, -1.8, -4, -5],
          usage: { promptTokens: 100, completionTokens: 2 },
        };
      }),
    ),
  };
}
const build = (options: Options = {}, overrides: Partial<ReportInput> = {}) =>
  buildReport({ spec, model, ...run(options), ...overrides });

test('a report says what came of a run, in its schema, and the same twice', async () => {
  const report = await build();
  assert.deepEqual(evalReportSchema.parse(report), report);
  assert.equal(reportJson(await build()), reportJson(report));
  const { items } = run();
  const right = items.filter(({ score }) => score === 1).length;
  assert.equal(report.headline?.mean, Number((right / 60).toFixed(6)));
  assert.equal(report.headline.clusters, 30);
  assert.equal(report.specHash, specHash(spec));
  assert.deepEqual(report.baseline, { chance: 0.25, majority: 0.25, majorityAnswer: 'A' });
  assert.equal(report.wrong.total, 60 - right);
  assert.equal(report.wrong.shown.length, 60 - right);
  assert.deepEqual(report.usage, { promptTokens: 6000, completionTokens: 120 });
  assert.equal(report.categories.length, 3);
  assert.deepEqual(
    [report.imageOrder, report.optionRotation, report.vision, report.leaveOneOut],
    [null, null, null, null],
  );
  const bottom = (report.bootstrap as [number, number])[0];
  assert.ok(Math.abs(bottom - (report.headline.interval[0] as number)) < 0.05);
  const confusion = report.answers.confusion?.counts.map((row) => row.reduce((sum, count) => sum + count, 0));
  assert.deepEqual(confusion, [15, 15, 15, 15]);
  assert.equal(report.anchors.find(({ name }) => name === 'Mantis-SigLIP')?.value, 0.5945);
  assert.deepEqual(
    anchorsOf('scienceqa').map(({ value }) => value),
    [0.865, 0.813, 0.749, 0.738, 0.717, 0.706, 0.704, 0.682, 0.656, 0.653, 0.516, 0.457],
  );
  assert.deepEqual([anchorsOf('blink').length, anchorsOf('unknown')], [21, []]);
  const confidence = Math.exp(-0.2) / [-0.2, -1.8, -4, -5].reduce((sum, x) => sum + Math.exp(x), 0);
  assert.ok(Math.abs((report.calibration?.meanConfidence ?? 0) - confidence) < 1e-6);
  assert.ok(Math.abs((report.calibration?.expectedError ?? 0) - Math.abs(confidence - right / 60)) < 1e-5);
});

test('aggregates are those of the benchmark', async () => {
  const isRight = (record: number) => record % 3 === 0 || record < 4;
  const categories = await build({ isRight, records: 61 }, { spec: { ...spec, aggregate: 'categories' } });
  // 21 of 21, 2 of 20 and 1 of 20: 1 and 4, and 2, are below 4 or not.
  const means = categories.categories.map(({ mean }) => mean);
  assert.ok(Math.abs((categories.headline?.mean ?? 0) - means.reduce((sum, mean) => sum + mean, 0) / 3) < 1e-5);
  const groups = await build({ isRight: (record) => record % 4 !== 1 }, { spec: { ...spec, aggregate: 'groups' } });
  assert.deepEqual([groups.headline?.mean, groups.headline?.items], [0.5, 30]);
  assert.equal(groups.baseline.chance, null);
});

test('what has no reference counts in no number; what has no answer counts as wrong', async () => {
  const { items, records } = run({ isRight: () => true });
  const changed = items.map((item, i): EvalItem => {
    if (i % 2 === 0) return { ...item, reference: '', score: 0 };
    return i % 4 === 1 ? item : { ...item, parsed: null, answer: '', score: 0, error: 'timed out' };
  });
  const report = await buildReport({ spec, model, items: changed, records });
  assert.deepEqual([report.counts.withoutReference, report.counts.errors, report.counts.scored], [30, 15, 30]);
  assert.equal(report.headline?.mean, 0.5);
  const none = await buildReport({ spec, model, items: changed.map((item) => ({ ...item, reference: '' })), records });
  assert.equal(none.headline, null);
  assert.match(renderHtml(none, new Map()), /No reference is published/);
  assert.match(renderText(none), /nothing to score/);
});

const every: EvalVariant[] = [
  { control: 'none' },
  { control: 'none', imageOrder: [1, 0] },
  { control: 'none', optionRotation: 1 },
  { control: 'text-only' },
  { control: 'blank' },
  { control: 'leave-one-out', leftOut: 0 },
  { control: 'leave-one-out', leftOut: 1 },
];

test('a model that looks at the second picture alone is found out', async () => {
  const report = await build({
    records: 400,
    variants: every,
    isRight: (record, { control, leftOut }, luck) => {
      const couldBe = record % 10 < 8;
      if (control === 'none' || leftOut === 0) return couldBe;
      return luck < 0.25;
    },
  });
  assert.equal(report.vision?.verdict, 'partly');
  assert.match(report.vision?.summary ?? '', /hardly picture 1/);
  assert.equal(report.leaveOneOut?.[0]?.changed.mean, 0);
  assert.ok((report.leaveOneOut?.[1]?.lost?.mean ?? 0) > 0.6);
  assert.equal(report.imageOrder?.sameAnswer.mean, 1);
  assert.equal(report.imageOrder?.flipped.mean, 0);
  assert.equal(report.optionRotation?.circular.mean, 0.8);
  assert.equal(report.controls.find(({ control }) => control === 'text-only')?.change.test, 'sign-flip');
  assert.equal(report.counts.scored, 400, 'the headline counts the questions as published');
});

test('a model that does not look, and one that was asked too little, are told apart', async () => {
  const blind = await build({ records: 2_000, variants: every, isRight: (record) => record % 10 < 7 });
  assert.equal(blind.vision?.verdict, 'no');
  const few = await build({ records: 12, variants: every });
  assert.equal(few.vision?.verdict, 'unclear');
  const seeing = await build({
    records: 300,
    variants: every.filter(({ control }) => control !== 'leave-one-out'),
    isRight: (record, { control }, luck) => (control === 'none' ? record % 10 < 9 : luck < 0.3),
  });
  assert.equal(seeing.vision?.verdict, 'unclear');
  assert.match(seeing.vision?.summary ?? '', /It uses pictures\. Whether it uses every one was not asked/);
});

test('orders of the protocol all count, and groups must be right throughout', async () => {
  const report = await build(
    {
      variants: [{ control: 'none' }, { control: 'none', imageOrder: [1, 0] }],
      isRight: (record, { imageOrder }) => record % 4 !== 0 && (imageOrder === undefined || record % 4 !== 1),
    },
    { spec: { ...spec, variants: { orders: 'protocol', protocolOrders: true } } },
  );
  assert.equal(report.counts.scored, 120);
  assert.equal(report.headline?.mean, 0.625);
  assert.deepEqual(
    report.imageOrder?.orders.map(({ order, mean }) => [order, mean]),
    [
      ['as published', 0.75],
      ['2 1', 0.5],
    ],
  );
  assert.equal(report.imageOrder?.groupsAllRight.mean, 0.5);
  assert.deepEqual([report.wrong.total, report.wrong.shown[1]?.wrong, report.wrong.shown[1]?.asked], [30, 1, 2]);
});

test('many orders are shown by the number of pictures', async () => {
  const { items, records } = run({ records: 40, isRight: (i) => i % 2 === 0 });
  const three = ['021', '102', '120', '201', '210'];
  const four = ['0132', '0213', '0231', '0312', '3210'];
  const asked = items.flatMap((item, i): EvalItem[] => {
    const order = (i % 2 === 0 ? four : three)[Math.floor(i / 2) % 5] as string;
    return [item, { ...item, variant: { control: 'none', imageOrder: order.split('').map(Number) }, score: 0 }];
  });
  const report = await buildReport({ spec, model, items: asked, records });
  assert.deepEqual(
    report.imageOrder?.orders.map(({ order, mean, items: count }) => [order, mean, count]),
    [
      ['3 pictures, as published', 0, 20],
      ['3 pictures, another order', 0, 20],
      ['4 pictures, as published', 1, 20],
      ['4 pictures, another order', 0, 20],
    ],
  );
});

test('two runs are compared answer by answer', async () => {
  const first = { spec, model: { name: 'old', identity: '1' }, items: run({ isRight: (i) => i % 3 === 0 }).items };
  const second = { spec, model: { name: 'new', identity: '2' }, items: run({ isRight: (i) => i % 3 !== 2 }).items };
  const { records } = run();
  const compared = await compareReports({ first, second, records });
  assert.deepEqual(evalComparisonSchema.parse(compared), compared);
  assert.deepEqual(compared.counts, { both: 20, onlyFirst: 0, onlySecond: 20, neither: 20 });
  assert.equal(compared.verdict.outcome, 'second');
  assert.match(
    compared.verdict.words,
    /^new is better than old, by 33\.3 points on these 60 answers; its true lead .* \d+\.\d … \d+\.\d points\.$/,
  );
  assert.deepEqual([compared.wins.total, compared.losses.total], [20, 0]);
  assert.deepEqual(
    compared.categories.map(({ name, difference, adjustedPValue }) => [name, difference, adjustedPValue < 0.001]),
    [
      ['count', 0, false],
      ['name', 0, false],
      ['place', 1, true],
    ],
  );
  const back = await compareReports({ first: second, second: first, records });
  assert.equal(back.verdict.outcome, 'first');
  assert.equal(back.verdict.words, compared.verdict.words, 'the lead has no sign, whichever run comes first');
  assert.match(renderComparisonHtml(back, new Map()), /<div class="big bad">−33\.3/);
  const same = await compareReports({ first, second: first, records });
  assert.equal(same.verdict.outcome, 'equal');
  assert.match(renderComparisonText(compared), /place +\+100\.0 .*\*\*\*/);
});

test('runs that did different things are refused by what differs, unless forced', async () => {
  const other: EvalSpec = { ...spec, mode: 'merge', data: { ...spec.data, records: 30 } };
  const first = { spec, model, items: run().items };
  const second = { spec: other, model, items: run({ records: 30 }).items };
  const { records } = run();
  await assert.rejects(
    compareReports({ first, second, records }),
    (error: Error) =>
      error instanceof NotComparable &&
      /data: 60 questions and 30 questions; mode: "sequence" and "merge"/.test(error.message),
  );
  const forced = await compareReports({ first, second, records, force: true });
  assert.deepEqual([forced.pairs, forced.unpaired], [30, { first: 30, second: 0 }]);
  assert.match(renderComparisonHtml(forced, new Map()), /The two runs did different things/);
  // On one's own items another prompt is what the second run is for.
  const asking = (prompt: string, criteria: string) => ({ ...spec, protocol: { prompt, criteria, sampling: {} } });
  const own = (prompt: string, criteria: string) => ({
    spec: asking(prompt, criteria),
    model,
    items: run().items,
    isOwn: true,
  });
  const prompts = await compareReports({ first: own('a', 'x'), second: own('b', 'x'), records });
  assert.deepEqual(prompts.specDifferences, [{ path: 'protocol.prompt', first: '"a"', second: '"b"' }]);
  await assert.rejects(compareReports({ first: own('a', 'x'), second: own('b', 'y'), records }), /protocol\.criteria/);
  const strange = { spec, model, items: run({ records: 1 }).items.map((item) => ({ ...item, record: 'other' })) };
  await assert.rejects(compareReports({ first, second: strange, records }), /no question in common/);
});

test('where all score alike or groups are few, no precision is claimed', async () => {
  for (const records of [3, 6, 40]) {
    const report = await build({ records, isRight: () => true });
    assert.equal(report.power, null);
    for (const text of [renderText(report), renderHtml(report, new Map())]) {
      assert.doesNotMatch(text, /below 0\.0 points|−?NaN|standard error 0\.00|bootstrap/);
      assert.match(
        text,
        records < 12
          ? /No difference, however large, can be shown by \d independent groups?:/
          : /All answers score alike/,
      );
    }
  }
  const few = await build({ records: 14, isRight: (i) => Math.floor(i / 2) % 2 === 0 });
  assert.match(
    renderText(few),
    few.power?.sameQuestions.smallestDifference == null ? /unlikely to show any/ : /Differences below \d\d/,
  );
  const run1 = { spec, model, items: run({ isRight: () => true }).items };
  const alike = await compareReports({ first: run1, second: run1, records: run().records });
  assert.deepEqual([alike.power, alike.verdict.outcome], [null, 'equal']);
  assert.match(renderComparisonText(alike), /No answer scores differently/);
});

test('a part says so and stands beside no published score', async () => {
  const part = {
    chosen: { how: 'sample', of: 217, seed: 1 },
    published: 217,
    parts: { asked: 1, of: 2, missing: ['count'] },
  } as const;
  const report = await build({}, { spec: { ...spec, data: { ...spec.data, part } } });
  assert.deepEqual(evalReportSchema.parse(report), report);
  const words = 'a sample of 60 of 217 questions; 1 of 2 parts (not count)';
  assert.ok(renderText(report).includes(words));
  assert.doesNotMatch(renderText(report), /GPT-4V|Mantis-/);
  const page = renderHtml(report, new Map());
  assert.ok(page.includes(words));
  assert.ok(page.indexOf('GPT-4V') > page.indexOf('Published over the whole benchmark'));
  const whole = renderText(await build());
  assert.match(whole, /Mantis-/);
  assert.match(whole, /… \d+ more published/);
});

test('two runs of one model are told apart by what they did, and data by how it was chosen', async () => {
  const [first, second] = [
    { spec, model, items: run().items },
    { spec: { ...spec, mode: 'merge' } as EvalSpec, model, items: run().items },
  ];
  const compared = await compareReports({ first, second, records: [], force: true });
  assert.deepEqual([compared.first.label, compared.second.label], ['model (sequence)', 'model (merge)']);
  assert.match(compared.verdict.words, /^model \(sequence\) and model \(merge\) score the same/);
  const same = await compareReports({ first, second: first, records: [] });
  assert.deepEqual([same.first.label, same.second.label], ['model (first run)', 'model (second run)']);
  const limited: EvalSpec = {
    ...spec,
    data: { digest: 'e'.repeat(64), records: 5, part: { chosen: { how: 'first', of: null }, published: 217 } },
  };
  assert.deepEqual(specDifferences(limited, spec), [
    { path: 'data', first: 'the first 5 questions', second: '60 questions' },
  ]);
  const other = { ...spec, data: { ...spec.data, digest: 'f'.repeat(64) } };
  assert.deepEqual(specDifferences(spec, other), [
    { path: 'data', first: '60 questions, digest d', second: '60 questions, digest ffffffffffff' },
  ]);
});

test('marks of pictures are numbers, nouns agree with their counts, errors have causes', async () => {
  const { items, records } = run({ records: 12, isRight: (i) => i !== 3 });
  const asked = records.map((record, i) => ({
    ...record,
    question: i === 3 ? 'Is <image> like <image>? <image>' : '<image><image> What is it?',
  }));
  const failing = items.map(
    (item, i): EvalItem =>
      i < 3 ? { ...item, parsed: null, answer: '', score: 0, error: `timed out after ${i} ms` } : item,
  );
  const report = await buildReport({ spec, model, items: failing, records: asked });
  assert.deepEqual([report.wrong.total, report.wrong.unanswered, report.counts.withPictures], [1, 3, 12]);
  assert.deepEqual(report.errors, [{ cause: 'timed out after 0 ms', items: 3 }]);
  const page = renderHtml(report, new Map());
  assert.match(page, />1 question with a wrong answer, 3 questions without an answer/);
  assert.match(
    page,
    /Is <span class="slot">picture 1<\/span> like <span class="slot">picture 2<\/span>\? &lt;image&gt;/,
  );
  assert.match(page, /<p dir="auto">What is it\?<\/p>/);
  assert.doesNotMatch(page, /\b1 (questions|answers|points)\b/);
});

test('what models and data sets say stays text', async () => {
  const options = { text: HOSTILE, variants: every };
  const hostileModel = { name: HOSTILE, identity: HOSTILE };
  const report = await build(options, { model: hostileModel, title: HOSTILE });
  const first = { spec: { ...spec, protocol: { [HOSTILE]: HOSTILE } }, model: hostileModel, items: run(options).items };
  const second = { ...first, spec, items: run({ ...options, isRight: (i) => i % 2 === 0 }).items };
  const compared = await compareReports({ first, second, records: run(options).records, title: HOSTILE, force: true });
  for (const page of [renderHtml(report, new Map()), renderComparisonHtml(compared, new Map())]) {
    assert.equal(page.match(/<script/g)?.length, 1, 'the page’s own');
    assert.doesNotMatch(page, /<img|\u202e|(?![\n\t])\p{Cc}/u);
    // Outside of text and attribute values nothing of it is left: every tag has only attributes that the page gives.
    for (const [, attributes = ''] of page.matchAll(/<[a-z][a-z0-9]*((?:\s[^<>]*)?)>/g))
      assert.doesNotMatch(attributes.replace(/"[^"]*"/g, '""'), /\bon[a-z]+\s*=|&#39;|alert/, attributes);
    assert.match(page, /script-src 'sha256-[A-Za-z0-9+/=]+'/);
    assert.doesNotMatch(page, /(src|href)="(?!#|data:image\/webp;base64,)/, 'nothing is fetched');
  }
  for (const text of [renderText(report), renderComparisonText(compared)])
    assert.doesNotMatch(text, /(?!\n)\p{Cc}|\u202e/u);
});

test('a page has its parts, its pictures once, and the same bytes twice', async () => {
  const report = await build({ variants: every });
  const wrong = report.wrong.shown[0];
  const webp = new Uint8Array([1, 2, 3]);
  const thumbnails = new Map((wrong?.images ?? []).map((sha256) => [sha256, { width: 200, height: 100, webp }]));
  const page = renderHtml(report, thumbnails);
  assert.equal(renderHtml(report, thumbnails), page);
  assert.deepEqual(
    [...page.matchAll(/<h2>([^<]+)<\/h2>/g)].map(([, title]) => title),
    [
      'Does it use every picture?',
      'Categories',
      'Order of the pictures',
      'Places of the options',
      'Answers',
      'Is it as sure as it is right?',
      'What so many questions can tell',
      'Wrong answers',
    ],
  );
  assert.equal(page.match(/data:image\/webp;base64,AQID/g)?.length, 2);
  // What it shows can be had back from it, and nothing that only looks like it.
  const [shown] = [...thumbnails].filter(([sha256]) => page.includes(`data-sha256="${sha256}"`));
  assert.deepEqual([...picturesIn(page)].slice(0, 1), [
    [shown?.[0], { width: 200, height: 100, webp: Buffer.from(webp) }],
  ]);
  assert.equal(picturesIn(page).size, 2);
  assert.equal(picturesIn(page.replace('<main>', '<main><main>')).size, 2);
  const [, sprites = ''] = /<defs>(.*?)<\/defs>/s.exec(page) ?? [];
  assert.equal(picturesIn(`<body><main>${sprites}</main>`).size, 0);
  assert.match(page, /<svg role="img" aria-label="picture 1 of 2" width="140" height="70"/);
  assert.match(page, /picture 1 of 2, not embedded/);
  assert.match(page, /<option>count<\/option>/);
  assert.match(page, new RegExp(report.specHash));
  for (const tag of ['section', 'table', 'article', 'dl', 'ul', 'details', 'figure', 'form'])
    assert.equal(
      page.match(new RegExp(`<${tag}[\\s>]`, 'g'))?.length,
      page.match(new RegExp(`</${tag}>`, 'g'))?.length,
      tag,
    );
});

test('many questions make a report of bounded size', async () => {
  const long = 'word '.repeat(2_000);
  const { items, records } = run({ records: 4_000, isRight: () => false });
  const report = await buildReport({
    spec,
    model,
    items: items.map((item) => ({ ...item, answer: long })),
    records: records.map((record) => ({ ...record, question: long, options: Array(40).fill(long) as string[] })),
  });
  assert.deepEqual([report.wrong.total, report.wrong.shown.length], [4_000, 150]);
  assert.ok(reportJson(report).length < 2_000_000);
  assert.ok(renderHtml(report, new Map()).length < 3_000_000);
});
