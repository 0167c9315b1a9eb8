/** Graders of evaluations: metrics against the libraries that define them, templates and formulas against people who write them badly. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { conversationIn, conversationOf } from '../../../gpu-backend/eval/graders/conversation.ts';
import { type GradeContext, graderOf } from '../../../gpu-backend/eval/graders/grade.ts';
import { similarity } from '../../../gpu-backend/eval/graders/similarity.ts';
import { taskFactories, taskNamed } from '../../../gpu-backend/eval/registry.ts';
import { EvalBenchmark } from '../../../shared/contract/evalBenchmarks.ts';
import { FormulaError, parseFormula } from '../../../shared/contract/evalFormula.ts';
import type { Grader } from '../../../shared/contract/evals.ts';
import { parseTemplate, renderTemplate, TemplateError, templateValue } from '../../../shared/contract/evalTemplate.ts';
import { schemaMismatch, schemaProblems } from '../../../shared/contract/jsonSchema.ts';

type Case = { text: string; reference: string; bleu: number; gleu: number; fuzzy_match: number };

test('metrics equal sacreBLEU, NLTK and RapidFuzz', () => {
  const path = new URL('similarity-cases.json', import.meta.url);
  const cases = JSON.parse(readFileSync(path, 'utf8')) as Case[];
  assert.ok(cases.length >= 40);
  for (const { text, reference, ...expected } of cases)
    for (const [metric, value] of Object.entries(expected))
      assert.ok(
        Math.abs(similarity(metric as 'bleu', text, reference) - value) < 1e-8,
        `${metric} of ${JSON.stringify([text, reference])}: expected ${value}, received ${similarity(metric as 'bleu', text, reference)}`,
      );
});

test('ROUGE is F1 over shared n-grams, and over the longest common subsequence', () => {
  const [text, reference] = ['The cat sat on the mat', 'the cat is on the mat'];
  // 5 of 6 words; 3 of 5 pairs (the cat, on the, the mat); 1 of 4 triples; LCS 5.
  for (const [metric, value] of [
    ['rouge_1', 5 / 6],
    ['rouge_2', 3 / 5],
    ['rouge_3', 1 / 4],
    ['rouge_4', 0],
    ['rouge_l', 5 / 6],
  ] as const)
    assert.ok(Math.abs(similarity(metric, text, reference) - value) < 1e-12, metric);
  assert.throws(() => similarity('rouge_l', 'a'.repeat(70_000), 'a'), /at most 65536 characters/);
});

test('templates look up and do nothing else', () => {
  const data = {
    item: { a: 'x', list: [1, { b: null }], Größe: 2, text: '{{sample.output_text}}' },
    sample: { output_text: 'out' },
  };
  const render = (text: string) => renderTemplate(parseTemplate(text), data);
  assert.equal(
    render('a {{ item.a }}-{{item.list[1].b}}-{{item.list[0]}}-{{item["Größe"]}}-{{sample.output_text}}'),
    'a x-null-1-2-out',
  );
  // What an item holds is never a template itself.
  assert.equal(render('{{item.text}}'), '{{sample.output_text}}');
  assert.deepEqual(templateValue(parseTemplate('{{item.list}}'), data), [1, { b: null }]);
  for (const path of ['item.nope', 'item.__proto__', 'item.constructor', 'item.a.length', 'item.list.length'])
    assert.throws(() => render(`{{${path}}}`), /no such field/, path);
  for (const text of ['{{', '{{}}', '{{ env.KEY }}', '{{item.a | upper}}', '{{item.a()}}', '{{1+1}}', '{% if x %}{{'])
    assert.throws(() => parseTemplate(text), TemplateError, text);
  assert.throws(() => parseTemplate('{{sample.x}}', ['item']), /there is no sample yet/);
});

test('pictures are where the template has them, and text is text', () => {
  const write = conversationOf(
    [
      { role: 'developer', content: 'look' },
      {
        role: 'user',
        content: [
          { type: 'input_text', text: '{{item.q}}' },
          { type: 'mantis.images', image_urls: '{{item.images}}' },
          { type: 'image_url', image_url: { url: '{{item.one}}' } },
          'end',
        ],
      },
    ],
    ['item'],
  );
  const messages = write({ item: { q: '<image> {{item.one}}', images: ['file-a', 'file-b'], one: 'sha256:c' } });
  assert.deepEqual(messages, [
    { role: 'system', parts: [{ type: 'text', text: 'look' }] },
    {
      role: 'user',
      parts: [
        { type: 'text', text: '<image> {{item.one}}' },
        { type: 'image', reference: 'file-a' },
        { type: 'image', reference: 'file-b' },
        { type: 'image', reference: 'sha256:c' },
        { type: 'text', text: 'end' },
      ],
    },
  ]);
  assert.throws(() => write({ item: { q: '', images: 'file-a', one: 'x' } }), /expected a list of pictures/);
  const own = conversationIn('item.input');
  assert.deepEqual(
    own({ item: { input: [{ role: 'user', content: [{ type: 'image_file', image_file: { file_id: 'file-a' } }] }] } }),
    [{ role: 'user', parts: [{ type: 'image', reference: 'file-a' }] }],
  );
  assert.throws(() => own({ item: { input: [{ role: 'user', content: 7 }] } }), /item\.input/);
});

test('formulas calculate and refuse', () => {
  const value = (text: string) => parseFormula(text, ['a', 'b'])({ a: 3, b: 0.5 });
  assert.equal(value('-2^2 + max(a, b, 1) * 2 - (b)'), 1.5);
  assert.equal(value('2^-1^2'), 0.5);
  assert.equal(value('floor(a / 2) + ceil(b) + sqrt(4) + abs(-1)'), 5);
  for (const text of [
    '',
    'a +',
    'c',
    '(a',
    'a b',
    'min()',
    'abs(a, b)',
    'a; b',
    '('.repeat(99),
    `${'2^'.repeat(99)}2`,
    'constructor(a)',
  ])
    assert.throws(() => parseFormula(text, ['a', 'b']), FormulaError, text);
});

test('schemas: what is checked, and what is refused rather than ignored', () => {
  const schema = {
    type: 'object',
    properties: {
      n: { type: 'integer', minimum: 1 },
      tags: { type: 'array', items: { $ref: '#/$defs/tag' }, uniqueItems: true },
      next: { $ref: '#' },
    },
    required: ['n'],
    additionalProperties: false,
    $defs: { tag: { type: 'string', maxLength: 3 } },
  };
  assert.deepEqual(schemaProblems(schema, ['s']), []);
  const wrong = (value: unknown) => schemaMismatch(schema, value, 'item')?.path ?? null;
  assert.equal(wrong({ n: 1, tags: ['a', 'b'], next: { n: 2 } }), null);
  assert.equal(wrong({}), 'item.n');
  assert.equal(wrong({ n: 0 }), 'item.n');
  assert.equal(wrong({ n: 1, tags: ['abcd'] }), 'item.tags[0]');
  assert.equal(wrong({ n: 1, tags: ['a', 'a'] }), 'item.tags');
  assert.equal(wrong({ n: 1, next: { n: 'x' } }), 'item.next.n');
  assert.equal(wrong({ n: 1, more: 1 }), 'item.more');
  assert.match(schemaMismatch({ $ref: '#' }, 1, 'item')?.message ?? '', /in a circle/);
  for (const bad of [
    { pattern: '(a+)+$' },
    { type: 'text' },
    { $ref: 'https://example.com' },
    { properties: { a: { format_: 1 } } },
    7,
  ])
    assert.notEqual(schemaProblems(bad, ['s']).length, 0, JSON.stringify(bad));
});

test('graders judge, and say why there is no verdict', async () => {
  const asked: unknown[] = [];
  const replies = ['yes', '{"result": 0.75}', '{"result": 7}'];
  const context: GradeContext = {
    ask: async (request) => {
      asked.push(request.form);
      return {
        text: replies.shift() ?? '',
        finishReason: 'stop',
        promptTokens: 1,
        completionTokens: 1,
        cachedTokens: 0,
      };
    },
  };
  const benchmarks = (name: string) => (Object.hasOwn(taskFactories, name) ? taskNamed(name) : null);
  const data = { item: { answer: 'Red', options: ['blue', 'red'] }, sample: { output_text: 'it is red' } };
  const grade = (grader: Grader) => graderOf(grader, benchmarks)(data, context, new AbortController().signal);
  const check = {
    type: 'string_check',
    name: 'c',
    input: '{{sample.output_text}}',
    reference: '{{item.answer}}',
  } as const;
  assert.equal((await grade({ ...check, operation: 'like' })).passed, false);
  assert.equal((await grade({ ...check, operation: 'ilike' })).passed, true);
  assert.equal((await grade({ ...check, operation: 'ne' })).score, 1);
  const missing = await grade({ ...check, operation: 'eq', reference: '{{item.gone}}' });
  assert.match(missing.error ?? '', /no such field/);
  const input = [{ role: 'user' as const, content: '{{sample.output_text}}' }];
  const label = {
    type: 'label_model',
    name: 'l',
    model: 'm',
    input,
    labels: ['yes', 'no'],
    passing_labels: ['yes'],
  } as const;
  assert.equal((await grade({ ...label, labels: [...label.labels], passing_labels: ['yes'] })).passed, true);
  const score = { type: 'score_model', name: 's', model: 'm', input } as const;
  const given = await grade(score);
  assert.deepEqual([given.score, given.passed], [0.75, true]);
  assert.match((await grade(score)).error ?? '', /a number from 0 to 1/);
  assert.deepEqual((asked[0] as { choices: string[] }).choices, ['yes', 'no']);
  const multi = await grade({
    type: 'multi',
    name: 'm',
    graders: { a: { ...check, operation: 'ilike' }, b: { ...check, operation: 'eq' } },
    calculate_output: '0.6 * a + 0.4 * b',
  });
  assert.deepEqual([multi.score, multi.passed], [0.6, true]);
});

test('the contract’s benchmarks are those that there are', () => {
  assert.deepEqual([...EvalBenchmark.options].sort(), [...Object.keys(taskFactories), 'skills'].sort());
});
