/** The official client, unchanged, evaluates nano through the real Worker and a real backend: items of one's own, judges, hostile data, two tenants, a kill. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import OpenAI, { toFile } from 'openai';
import { evalsCommand } from '../../../gpu-backend/cli/evals.ts';
import { API_KEY, type Installation, MODEL, startInstallation, until } from './installation.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const picture = (name: string) =>
  `data:image/png;base64,${readFileSync(join(ROOT, `test/fixtures/pictures/${name}.png`), 'base64')}`;

let door: Installation;
let openai: OpenAI;

before(async () => {
  door = await startInstallation({ models: { [MODEL]: join(ROOT, 'gpu-backend/models/nano') } });
  openai = door.openai;
});
after(() => door.close());

const SCHEMA = {
  type: 'object',
  properties: {
    images: { type: 'array', items: { type: 'string' } },
    question: { type: 'string' },
    answer: { type: 'string' },
  },
  required: ['images', 'question', 'answer'],
};
const equals: OpenAI.Graders.StringCheckGrader = {
  type: 'string_check',
  name: 'says it',
  input: '{{ sample.output_text }}',
  reference: '{{ item.answer }}',
  operation: 'ilike',
};
const template = [
  {
    role: 'user',
    content: [
      { type: 'mantis.images', image_urls: '{{ item.images }}' },
      { type: 'input_text', text: '{{ item.question }}' },
    ],
  },
];

function asking(content: { item: Record<string, unknown> }[], more: object = {}): OpenAI.Evals.RunCreateParams {
  return {
    name: 'asked',
    data_source: {
      type: 'completions',
      model: MODEL,
      source: { type: 'file_content', content },
      input_messages: { type: 'template', template },
      sampling_params: { temperature: 0, max_completion_tokens: 24 },
      ...more,
    },
  } as unknown as OpenAI.Evals.RunCreateParams;
}

async function ended(evalId: string, runId: string): Promise<OpenAI.Evals.RunRetrieveResponse> {
  let run = await openai.evals.runs.retrieve(runId, { eval_id: evalId });
  await until(
    async () => {
      run = await openai.evals.runs.retrieve(runId, { eval_id: evalId });
      return ['completed', 'failed', 'canceled'].includes(run.status);
    },
    60_000,
    `${runId} has ended`,
  );
  return run;
}

const PICTURES = ['yellow-circle', 'two-black-squares'].map(picture);

describe('an evaluation by the official client', () => {
  let evaluation: OpenAI.EvalCreateResponse;
  before(async () => {
    evaluation = await openai.evals.create({
      name: 'two pictures',
      metadata: { team: 'vision' },
      data_source_config: { type: 'custom', item_schema: SCHEMA, include_sample_schema: true },
      testing_criteria: [
        equals,
        {
          type: 'label_model',
          name: 'judge',
          model: MODEL,
          input: [{ role: 'user', content: 'Is "{{sample.output_text}}" about a circle?' }],
          labels: ['yes', 'no'],
          passing_labels: ['yes', 'no'],
        },
      ],
    });
  });

  it('is what the client’s types say', async () => {
    assert.match(evaluation.id, /^eval_/);
    assert.equal(evaluation.object, 'eval');
    const { schema } = evaluation.data_source_config as unknown as { schema: { required: string[] } };
    assert.deepEqual(schema.required, ['item', 'sample']);
    const renamed = await openai.evals.update(evaluation.id, { name: 'renamed' });
    assert.equal(renamed.name, 'renamed');
    assert.deepEqual(renamed.metadata, { team: 'vision' });
    const listed = await openai.evals.list({ order: 'desc', order_by: 'updated_at', limit: 1 });
    assert.equal(listed.data[0]?.id, evaluation.id);
  });

  it('shows the pictures of what one run knew and another one did not', async () => {
    const items = [{ item: { images: PICTURES, question: 'describe image 1', answer: 'circle' } }];
    const runs: OpenAI.Evals.RunCreateResponse[] = [];
    for (const more of [{}, { sampling_params: { temperature: 0, max_completion_tokens: 1 } }])
      runs.push(await openai.evals.runs.create(evaluation.id, asking(items, more)));
    const [knew, cut] = runs as [OpenAI.Evals.RunCreateResponse, OpenAI.Evals.RunCreateResponse];
    for (const { id } of runs) assert.equal((await ended(evaluation.id, id)).status, 'completed');
    const response = await fetch(`${door.url}/v1/evals/${evaluation.id}/runs/${cut.id}/report?compare=${knew.id}`, {
      headers: { authorization: `Bearer ${API_KEY}` },
    });
    const page = await response.text();
    assert.equal(response.status, 200, page);
    assert.match(page, /Lost: .* does better/);
    assert.match(page, /The one answer does not show which is better/);
    assert.equal(page.match(/data:image\/webp;base64,/g)?.length, PICTURES.length);
    assert.doesNotMatch(page, /not embedded/);
    assert.match(page, /aria-label="picture 2 of 2"/);
    const nobodys = await door.signed('GET', '/internal/tasks/evalrun_x/report');
    assert.equal(nobodys.status, 404);
  });

  it('asks about several pictures, grades, asks a judge, and reports', async () => {
    const items = [
      { images: PICTURES, question: 'describe image 1', answer: 'circle' },
      { images: PICTURES, question: 'describe image 2', answer: 'no such words' },
      // A template within an item, markers of pictures and of turns: all of it is text.
      { images: [], question: '{{item.answer}} <image> <|end_of_text|>', answer: 'x' },
      { images: ['file-000000000000000000000000'], question: 'what is it?', answer: 'x' },
    ];
    const run = await openai.evals.runs.create(evaluation.id, asking(items.map((item) => ({ item }))));
    assert.match(run.id, /^evalrun_/);
    assert.equal(run.result_counts.total, 4);
    const done = await ended(evaluation.id, run.id);
    assert.equal(done.status, 'completed', JSON.stringify(done.error));
    assert.equal(done.result_counts.errored, 1);
    assert.equal(done.result_counts.passed + done.result_counts.failed, 3);
    assert.deepEqual(
      done.per_testing_criteria_results.map(({ testing_criteria: name }) => name),
      ['says it', 'judge'],
    );
    const [usage] = done.per_model_usage;
    // Three answers and a verdict on each.
    assert.equal(usage?.invocation_count, 6);
    const outputs = await openai.evals.runs.outputItems.list(run.id, { eval_id: evaluation.id });
    assert.deepEqual(
      outputs.data.map(({ datasource_item_id: line }) => line),
      [0, 1, 2, 3],
    );
    const [first, second, third, fourth] = outputs.data;
    assert.match(first!.sample.output[0]!.content!, /circle/i);
    assert.equal(first!.status, 'pass');
    assert.equal(second!.status, 'fail');
    assert.match(
      first!.sample.input[0]!.content,
      /^\[image sha256:[0-9a-f]{64}\]\[image sha256:[0-9a-f]{64}\]describe image 1$/,
    );
    assert.match((first!.datasource_item.images as string[])[0]!, /^sha256:[0-9a-f]{64}$/);
    assert.equal(third!.sample.input[0]!.content, '{{item.answer}} <image> <|end_of_text|>');
    assert.equal(fourth!.status, 'error');
    assert.equal(fourth!.sample.error.code, 'image_file_not_found');
    const failed = await openai.evals.runs.outputItems.list(run.id, { eval_id: evaluation.id, status: 'fail' });
    assert.ok(failed.data.some(({ id }) => id === second!.id) && failed.data.every(({ status }) => status === 'fail'));
    const one = await openai.evals.runs.outputItems.retrieve(first!.id, { eval_id: evaluation.id, run_id: run.id });
    assert.deepEqual(one, first);
    const report = await fetch(`${done.report_url}?format=json`, { headers: { authorization: `Bearer ${API_KEY}` } });
    assert.equal(report.status, 200);
    assert.equal(((await report.json()) as { object: string }).object, 'mantis.eval_report');
    // A person opens the link without a key, and nothing else by it.
    const page = await fetch(done.report_url);
    assert.equal(page.headers.get('cache-control'), 'private, no-store');
    assert.match(page.headers.get('content-security-policy') ?? '', /default-src 'none'.*sandbox/);
    assert.match(await page.text(), /^<!doctype html>/i);
    const [, expires = '', code = ''] = /\/reports\/(\d+)\.([0-9a-f]{64})\/evalrun_/.exec(done.report_url) ?? [];
    const inHours = (Number(expires) - Date.now() / 1000) / 3_600;
    assert.ok(inHours > 23.9 && inHours < 25.1, `${inHours} h`);
    for (const other of [
      done.report_url.replace(run.id, 'evalrun_other'),
      done.report_url.replace(`${expires}.`, `${Number(expires) + 3_600}.`),
      done.report_url.replace(
        code,
        code.replace(/^./, (digit) => (digit === '0' ? '1' : '0')),
      ),
      done.report_url.replace(`${expires}.${code}`, 'x'),
    ])
      assert.equal((await fetch(other)).status, 404, other);
    const { status, body: compared } = await door.call(
      'GET',
      `/v1/evals/${evaluation.id}/runs/${run.id}/report?compare=${run.id}&format=json`,
    );
    assert.equal(status, 200, JSON.stringify(compared));
    const { verdict, pairs, power } = compared as { verdict: { outcome: string }; pairs: number; power: null };
    assert.deepEqual([verdict.outcome, pairs, power], ['equal', done.result_counts.total, null]);
    const said: string[] = [];
    const write = process.stdout.write;
    process.stdout.write = (text: string | Uint8Array) => said.push(String(text)) > 0;
    const at = ['--url', door.url, '--api-key', API_KEY];
    await evalsCommand()
      .parseAsync(['compare', evaluation.id, run.id, run.id, ...at], { from: 'user' })
      .finally(() => {
        process.stdout.write = write;
      });
    assert.match(said.join(''), /score the same on each of these \d+ answers/);
    const nobodys = await door.call('GET', `/v1/evals/${evaluation.id}/runs/${run.id}/report?compare=evalrun_x`);
    assert.equal(nobodys.status, 404);
    // What it used is in the tenant's usage, once.
    const { body } = await door.call('GET', `/v1/usage/records?request_id=${run.id}`);
    const { data } = body as { data: { images: { width: number; tokens: number }[]; input_bytes: number }[] };
    assert.equal(data.length, 6);
    const withPictures = data.filter(({ images }) => images.length > 0);
    assert.equal(withPictures.length, 2);
    for (const { images, input_bytes } of withPictures) {
      assert.deepEqual(
        images.map(({ width, tokens }) => width > 0 && tokens > 0),
        [true, true],
      );
      assert.ok(input_bytes > 100);
    }
    // What has no answer is asked again, and nothing else.
    const again = await openai.evals.runs.create(evaluation.id, {
      data_source: { type: 'mantis.retry', run_id: run.id },
    } as unknown as OpenAI.Evals.RunCreateParams);
    assert.deepEqual([again.result_counts.total, again.result_counts.errored], [4, 0]);
    const retried = await ended(evaluation.id, again.id);
    assert.deepEqual(retried.result_counts, done.result_counts);
    assert.deepEqual(retried.per_testing_criteria_results, done.per_testing_criteria_results);
    assert.deepEqual(retried.per_model_usage, [], 'a picture that is not there was asked for, and no model');
    const kept = await openai.evals.runs.outputItems.list(again.id, { eval_id: evaluation.id });
    assert.deepEqual(
      kept.data.map(({ sample }) => sample),
      outputs.data.map(({ sample }) => sample),
    );
    await assert.rejects(
      openai.evals.runs.create(evaluation.id, {
        data_source: { type: 'mantis.retry', run_id: 'evalrun_none' },
      } as unknown as OpenAI.Evals.RunCreateParams),
      /data_source\.run_id: expected the id of a run of this evaluation/,
    );
  });

  it('takes the data source `responses`, whose answers may be read as JSON', async () => {
    const made = await openai.evals.create({
      data_source_config: { type: 'custom', item_schema: SCHEMA },
      testing_criteria: [{ ...equals, input: '{{sample.output_json.colour}}', operation: 'ne' }],
    });
    const shown = await openai.files.create({
      file: await toFile(readFileSync(join(ROOT, 'test/fixtures/pictures/yellow-circle.png')), 'a.png'),
      purpose: 'vision',
    });
    const schema = { type: 'object', properties: { colour: { enum: ['red', 'blue'] } }, required: ['colour'] };
    const run = await openai.evals.runs.create(made.id, {
      data_source: {
        type: 'responses',
        model: MODEL,
        source: { type: 'file_content', content: [{ item: { images: [], question: 'red?', answer: 'green' } }] },
        input_messages: {
          type: 'template',
          template: [
            { role: 'user', content: [{ type: 'input_image', file_id: shown.id }, '{{item.question}}'] as never },
          ],
        },
        sampling_params: { max_completion_tokens: 24, text: { format: { type: 'json_schema', name: 'c', schema } } },
      },
    });
    const done = await ended(made.id, run.id);
    assert.deepEqual(done.result_counts, { total: 1, passed: 1, failed: 0, errored: 0 }, JSON.stringify(done.error));
    assert.equal(done.data_source.type, 'responses');
  });

  it('judges answers of a file that were given elsewhere', async () => {
    const lines = [
      { item: { images: [], question: '?', answer: 'blue' }, sample: { output_text: 'It is BLUE.' } },
      { item: { images: [], question: '?', answer: 'red' }, sample: { output_text: 'It is blue.' } },
    ];
    const made = await openai.evals.create({
      data_source_config: { type: 'custom', item_schema: SCHEMA, include_sample_schema: true },
      testing_criteria: [
        equals,
        {
          type: 'text_similarity',
          name: 'near',
          input: '{{sample.output_text}}',
          reference: 'it is {{item.answer}}',
          evaluation_metric: 'rouge_l',
          pass_threshold: 0.9,
        },
      ],
    });
    const file = await openai.files.create({
      file: await toFile(Buffer.from(lines.map((line) => JSON.stringify(line)).join('\n')), 'answers.jsonl'),
      purpose: 'evals',
    });
    const source = { type: 'jsonl' as const, source: { type: 'file_id' as const, id: file.id } };
    const done = await ended(made.id, (await openai.evals.runs.create(made.id, { data_source: source })).id);
    assert.deepEqual(done.result_counts, { total: 2, passed: 1, failed: 1, errored: 0 });
    const broken = await openai.files.create({
      file: await toFile(Buffer.from(`${JSON.stringify(lines[0])}\n{"item": {"question": 3}}\n`), 'broken.jsonl'),
      purpose: 'evals',
    });
    const failed = await ended(
      made.id,
      (
        await openai.evals.runs.create(made.id, {
          data_source: { type: 'jsonl', source: { type: 'file_id', id: broken.id } },
        })
      ).id,
    );
    assert.equal(failed.status, 'failed');
    assert.equal(failed.error.code, 'invalid_eval_items');
    assert.match(failed.error.message, /^Line 2: item\.images: expected a value, received nothing/);
    assert.equal((await openai.evals.delete(made.id)).deleted, true);
    await assert.rejects(openai.evals.runs.retrieve(failed.id, { eval_id: made.id }), OpenAI.NotFoundError);
  });

  it('runs a benchmark as it was published, with its controls, over uploaded files and nothing else', async () => {
    const made = await openai.evals.create({
      data_source_config: { type: 'mantis.benchmark', benchmark: 'mantis-eval' },
      testing_criteria: [],
    } as unknown as OpenAI.EvalCreateParams);
    const row = {
      question_type: 'multi-choice',
      question: 'Which has a circle?',
      options: ['(A) Image 1', '(B) Image 2'],
      data_source: 'own',
      category: 'shapes',
    };
    const started = async (rows: object[], name: string) => {
      const file = await openai.files.create({
        file: await toFile(Buffer.from(JSON.stringify(rows)), name),
        purpose: 'evals',
      });
      const source = {
        type: 'mantis.benchmark',
        file_ids: [file.id],
        model: MODEL,
        controls: ['text-only'],
        rotate_options: true,
      };
      return await openai.evals.runs.create(made.id, {
        data_source: source,
      } as unknown as OpenAI.Evals.RunCreateParams);
    };
    const rows = [0, 1].map((i) => ({
      ...row,
      id: `q${i}`,
      images: i === 0 ? PICTURES : PICTURES.toReversed(),
      answer: i === 0 ? 'A' : 'B',
    }));
    // Files of one name in several folders, as BLINK and MMMU are published: OpenAI's client uploads names without folders, so that the run says where they lie.
    const twice = await Promise.all(
      rows.map(async (one, i) =>
        openai.files.create({
          file: await toFile(Buffer.from(JSON.stringify([one])), `${i}/test.json`),
          purpose: 'evals',
        }),
      ),
    );
    const over = async (file_ids: unknown[]) =>
      await openai.evals.runs.create(made.id, {
        data_source: { type: 'mantis.benchmark', file_ids, model: MODEL },
      } as unknown as OpenAI.Evals.RunCreateParams);
    await assert.rejects(
      over(twice.map(({ id }) => id)),
      /file_ids\[1\]: expected files that lie beside each other.*"path".*received "test.json", beside "test.json" at data_source\.file_ids\[0\]/,
    );
    for (const path of ['../test.json', '/etc/test.json', 'a/.b/test.json'])
      await assert.rejects(
        over([{ id: twice[0]!.id, path }]),
        /file_ids\[0\]\.path: expected a path within the folder/,
      );
    const folders = await over(twice.map(({ id }, i) => ({ id, path: `${['Art', 'Math'][i]}/test.json` })));
    assert.equal((await ended(made.id, folders.id)).result_counts.total, 2);
    const done = await ended(made.id, (await started(rows, 'test.json')).id);
    assert.equal(done.status, 'completed', JSON.stringify(done.error));
    // Each as published, with the options rotated, and without pictures.
    assert.equal(done.result_counts.total, 2, 'the benchmark’s own questions');
    assert.equal(done.result_counts.passed + done.result_counts.failed, 2);
    assert.deepEqual(
      done.per_testing_criteria_results.map(({ testing_criteria: name, passed, failed }) => [name, passed + failed]),
      [
        ['mantis-eval', 2],
        ['mantis-eval, options rotated', 2],
        ['mantis-eval, text-only', 2],
      ],
    );
    const items = await openai.evals.runs.outputItems.list(done.id, { eval_id: made.id });
    assert.deepEqual(
      items.data.map(({ datasource_item: item }) => [item.record, item.variant]),
      ['q0', 'q1'].flatMap((id) => [
        [id, 'none'],
        [id, 'none, rotated 1'],
        [id, 'text-only'],
      ]),
    );
    assert.match(items.data[0]!.sample.input[0]!.content, /^\[image sha256:.*Which has a circle\?/s);
    assert.doesNotMatch(items.data[2]!.sample.input[0]!.content, /image sha256/);
    const report = await fetch(`${done.report_url}?format=json`, { headers: { authorization: `Bearer ${API_KEY}` } });
    const { counts, controls } = (await report.json()) as {
      counts: Record<string, number>;
      controls: { control: string }[];
    };
    const { records, items: asked, scored, errors, withoutReference } = counts;
    assert.deepEqual([records, asked, scored, errors, withoutReference], [2, 6, 2, 0, 0]);
    assert.deepEqual(
      controls.map(({ control }) => control),
      ['text-only'],
    );
    const other = (more: string) =>
      door.call('GET', `/v1/evals/${made.id}/runs/${done.id}/report?compare=${folders.id}${more}`);
    const different = (await other('')).body as { error: { code: string; param: string; message: string } };
    assert.deepEqual([different.error.code, different.error.param], ['invalid_value', 'compare']);
    assert.match(different.error.message, /did different things.*variants.*`force=true` compares what they share/);
    assert.match(String((await other('&force=true')).body), /<h2>The two runs did different things<\/h2>/);
    const escaped = await ended(
      made.id,
      (await started([{ ...rows[0], images: ['/etc/hostname', '../../x.png'] }], 'test.json')).id,
    );
    assert.equal(escaped.error?.code, 'invalid_eval_items');
    assert.match(escaped.error.message, /^mantis-eval: test\.json, row 1, column `images`, picture 1: /);
    assert.doesNotMatch(escaped.error.message, /tasks\//);
  });

  it('is canceled at once, keeps what was judged, and goes on after a kill without asking again', async () => {
    const items = Array.from({ length: 60 }, (_, i) => ({
      item: { images: PICTURES, question: `describe image ${1 + (i % 2)}, ${i}`, answer: 'circle' },
    }));
    const first = await openai.evals.runs.create(evaluation.id, asking(items));
    await until(
      async () => (await openai.evals.runs.retrieve(first.id, { eval_id: evaluation.id })).status === 'in_progress',
      30_000,
      'it runs',
    );
    const canceled = await openai.evals.runs.cancel(first.id, { eval_id: evaluation.id });
    assert.equal(canceled.status, 'canceled');
    const events = (await door.call('GET', `/v1/webhook_events?object_id=${first.id}`)).body as {
      data: { type: string }[];
    };
    assert.deepEqual(
      events.data.map(({ type }) => type),
      ['eval.run.canceled'],
    );
    // One whose backend dies before it is canceled: the next backend writes its report.
    const orphan = await openai.evals.runs.create(evaluation.id, asking([...items, ...items, ...items]));
    const has = async () => (await openai.evals.runs.retrieve(orphan.id, { eval_id: evaluation.id })).result_counts;
    await until(async () => (await has()).passed + (await has()).failed > 5, 60_000, 'some are judged');
    process.kill(door.backend!.pid!, 'SIGKILL');
    await openai.evals.runs.cancel(orphan.id, { eval_id: evaluation.id });
    const authorized = { headers: { authorization: `Bearer ${API_KEY}` } };
    await until(async () => (await fetch(orphan.report_url, authorized)).ok, 90_000, 'its report is there');
    const written = await openai.evals.runs.retrieve(orphan.id, { eval_id: evaluation.id });
    assert.equal(written.status, 'canceled');
    const page = await (await fetch(orphan.report_url, authorized)).text();
    assert.match(page, /\(canceled\)/);
    assert.match(page, /data:image\/webp;base64,/);
    if (process.env.MANTIS_LONG_TESTS !== '1') return;
    const killed = await openai.evals.runs.create(evaluation.id, asking(items));
    const passed = async () => {
      const { result_counts: counts } = await openai.evals.runs.retrieve(killed.id, { eval_id: evaluation.id });
      return counts.passed + counts.failed + counts.errored;
    };
    await until(async () => (await passed()) > 5, 60_000, 'some are judged');
    process.kill(door.backend!.pid!, 'SIGKILL');
    const before = await openai.evals.runs.outputItems.list(killed.id, { eval_id: evaluation.id, limit: 100 });
    const done = await ended(evaluation.id, killed.id);
    assert.equal(done.status, 'completed');
    const after = await openai.evals.runs.outputItems.list(killed.id, { eval_id: evaluation.id, limit: 100 });
    assert.equal(after.data.length, 60);
    const ids = new Set(after.data.map(({ id }) => id));
    assert.ok(
      before.data.every(({ id }) => ids.has(id)),
      'what was judged before the kill stays as it was',
    );
    assert.equal(done.per_model_usage[0]?.invocation_count, 120);
    // One that is canceled in the middle has a report of what was judged until then.
    const half = await openai.evals.runs.create(evaluation.id, asking([...items, ...items, ...items]));
    const judged = async () => (await openai.evals.runs.retrieve(half.id, { eval_id: evaluation.id })).result_counts;
    await until(async () => (await judged()).passed + (await judged()).failed > 5, 60_000, 'some are judged');
    await openai.evals.runs.cancel(half.id, { eval_id: evaluation.id });
    const headers = { authorization: `Bearer ${API_KEY}` };
    await until(async () => (await fetch(half.report_url, { headers })).status === 200, 30_000, 'it has a report');
    assert.match(await (await fetch(half.report_url, { headers })).text(), /\(canceled\)/);
  });

  it('refuses what it cannot do, and says what', async () => {
    const refused = async (body: object, code: string, message: RegExp) => {
      const { status, body: answer } = await door.call('POST', '/v1/evals', {
        data_source_config: { type: 'custom', item_schema: SCHEMA },
        testing_criteria: [equals],
        ...body,
      });
      const { error } = answer as { error: { code: string; message: string } };
      assert.ok(status >= 400 && status < 500, `${status}`);
      assert.equal(error.code, code, error.message);
      assert.match(error.message, message);
    };
    await refused(
      { testing_criteria: [{ type: 'python', name: 'p', source: 'x' }] },
      'invalid_value',
      /testing_criteria\[0\]\.type: expected one of .*received "python"/,
    );
    await refused(
      {
        testing_criteria: [
          {
            type: 'text_similarity',
            name: 's',
            input: 'a',
            reference: 'b',
            evaluation_metric: 'cosine',
            pass_threshold: 1,
          },
        ],
      },
      'invalid_value',
      /evaluation_metric: expected one of .*received "cosine"/,
    );
    await refused(
      { testing_criteria: [{ ...equals, input: '{{ item.__proto__ + 1 }}' }] },
      'invalid_value',
      /testing_criteria\[0\]\.input: expected \{\{item\.field\}\}/,
    );
    await refused(
      { data_source_config: { type: 'custom', item_schema: { type: 'object', patternProperties: {} } } },
      'invalid_value',
      /patternProperties/,
    );
    let deep: object = { type: 'string' };
    for (let i = 0; i < 40; i++) deep = { type: 'object', properties: { a: deep } };
    await refused(
      { data_source_config: { type: 'custom', item_schema: deep } },
      'invalid_value',
      /at most 32 schemas within each other/,
    );
    await refused(
      { testing_criteria: [{ type: 'multi', name: 'm', graders: { a: equals }, calculate_output: 'a + b' }] },
      'invalid_value',
      /expected one of the graders a/,
    );
    await refused(
      {
        testing_criteria: [
          {
            type: 'label_model',
            name: 'l',
            model: 'nobody',
            input: [{ role: 'user', content: 'x' }],
            labels: ['a'],
            passing_labels: ['a'],
          },
        ],
      },
      'model_not_found',
      /testing_criteria\[0\]\.model/,
    );
    const wrongItem = asking([{ item: { images: 'no list', question: 'q', answer: 'a' } }]);
    await assert.rejects(
      openai.evals.runs.create(evaluation.id, wrongItem),
      /content\[0\]\.item\.images: expected array/,
    );
    const withSample = asking([{ item: { images: [], question: 'q', answer: 'a' } }], {
      input_messages: { type: 'template', template: [{ role: 'user', content: '{{sample.output_text}}' }] },
    });
    await assert.rejects(openai.evals.runs.create(evaluation.id, withSample), /there is no sample yet/);
    const item = { images: [], question: 'q', answer: 'a' };
    const misspelt = asking([{ item }], {
      input_messages: { type: 'template', template: [{ role: 'user', content: '{{item.qestion}}' }] },
    });
    await assert.rejects(
      openai.evals.runs.create(evaluation.id, misspelt),
      /400 data_source\.input_messages\.template\[0\]\.content: \{\{item\.qestion\}\}: the only line has no `item` with such a field/,
    );
    const long = asking([{ item }], { sampling_params: { max_completion_tokens: 1_000_000 } });
    await assert.rejects(
      openai.evals.runs.create(evaluation.id, long),
      /max_completion_tokens: expected less than the \d+ tokens that .* reads and writes in all, received 1000000/,
    );
    await refused(
      { testing_criteria: [equals, equals] },
      'invalid_value',
      /testing_criteria\[1\]\.name: expected a name of its own/,
    );
    const benchmark = await openai.evals.create({
      data_source_config: { type: 'mantis.benchmark', benchmark: 'nlvr' },
      testing_criteria: [],
    } as unknown as OpenAI.EvalCreateParams);
    await assert.rejects(
      openai.evals.runs.create(benchmark.id, {
        data_source: { type: 'mantis.benchmark', model: MODEL },
      } as unknown as OpenAI.Evals.RunCreateParams),
      /data_source\.file_ids: expected the files of nlvr as they were published/,
    );
  });

  it('is nobody else’s', async () => {
    const { body: tenant } = await door.call('POST', '/v1/admin/tenants', { name: 'others' });
    const { body: key } = await door.call('POST', '/v1/admin/keys', {
      name: 'theirs',
      tenant: (tenant as { id: string }).id,
    });
    const theirs = new OpenAI({ apiKey: (key as { secret: string }).secret, baseURL: `${door.url}/v1`, maxRetries: 0 });
    const [run] = (await openai.evals.runs.list(evaluation.id)).data;
    await assert.rejects(theirs.evals.retrieve(evaluation.id), OpenAI.NotFoundError);
    await assert.rejects(theirs.evals.delete(evaluation.id), OpenAI.NotFoundError);
    await assert.rejects(
      theirs.evals.runs.create(evaluation.id, asking([{ item: { images: [], question: 'q', answer: 'a' } }])),
      OpenAI.NotFoundError,
    );
    await assert.rejects(theirs.evals.runs.retrieve(run!.id, { eval_id: evaluation.id }), OpenAI.NotFoundError);
    await assert.rejects(theirs.evals.runs.outputItems.list(run!.id, { eval_id: evaluation.id }), OpenAI.NotFoundError);
    assert.deepEqual((await theirs.evals.list()).data, []);
    // Under an evaluation of their own, somebody else's run is not there either.
    const own = await theirs.evals.create({
      data_source_config: { type: 'custom', item_schema: SCHEMA },
      testing_criteria: [equals],
    });
    await assert.rejects(theirs.evals.runs.retrieve(run!.id, { eval_id: own.id }), OpenAI.NotFoundError);
    // A long run of one tenant keeps nobody else waiting.
    const long = await openai.evals.runs.create(
      evaluation.id,
      asking(Array.from({ length: 1_000 }, (_, i) => ({ item: { images: [], question: `${i}`, answer: 'x' } }))),
    );
    const short = await theirs.evals.runs.create(
      own.id,
      asking([{ item: { images: [], question: '?', answer: 'x' } }]),
    );
    await until(
      async () => (await theirs.evals.runs.retrieve(short.id, { eval_id: own.id })).status === 'completed',
      30_000,
      'the short run has ended',
    );
    // Nor is it compared with somebody else's.
    const { status: strange } = await fetch(
      `${door.url}/v1/evals/${own.id}/runs/${short.id}/report?compare=${run!.id}&force=true`,
      { headers: { authorization: `Bearer ${(key as { secret: string }).secret}` } },
    );
    assert.equal(strange, 404);
    const stillLong = await openai.evals.runs.retrieve(long.id, { eval_id: evaluation.id });
    assert.ok(['queued', 'in_progress'].includes(stillLong.status), JSON.stringify(stillLong.result_counts));
    await openai.evals.runs.cancel(long.id, { eval_id: evaluation.id });
  });
});
