/** A schedule from its data to the model that answers: run, gate, promotion, a gate that keeps, rollback. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { MantisClient } from '../../../shared/client/client.ts';
import type { ClientError } from '../../../shared/client/http.ts';
import type { ScheduleRun } from '../../../shared/contract/schedules.ts';
import { LESSON, lessonFile } from './dataset.ts';
import { dataUrl, picture } from './pictures.ts';
import { type Product, startProduct, stopAndForget } from './product.ts';
import { type Receiver, startReceiver } from './receiver.ts';

const RUN_TIMEOUT_MS = 120_000;
const ENDED: ReadonlySet<ScheduleRun['status']> = new Set(['succeeded', 'promoted', 'kept', 'skipped', 'failed']);

let receiver: Receiver;
let product: Product;
let api: MantisClient;
let model: string;

before(async () => {
  receiver = await startReceiver();
  product = await startProduct({ egressAllow: receiver.address });
  api = new MantisClient({ baseUrl: product.url, apiKey: product.apiKey });
  model = (await api.models.list()).data[0]?.id ?? assert.fail('GET /v1/models lists a model');
});
after(async () => {
  await stopAndForget(product);
  await receiver.close();
});

const upload = async (bytes: Buffer, name: string) =>
  (await api.files.create(new Blob([new Uint8Array(bytes)]), name, 'fine-tune')).id;

const contentOf = async (file: string) => new TextDecoder().decode(await api.files.content(file));

async function ask(id: string): Promise<{ text: string | null; model: string }> {
  const answer = await api.chat.create({
    model: id,
    messages: [
      {
        role: 'user',
        content: [
          { type: 'image_url', image_url: { url: dataUrl(picture('blue-triangle')) } },
          { type: 'text', text: LESSON.question },
        ],
      },
    ],
    temperature: 0,
    max_completion_tokens: 16,
  });
  return { text: answer.choices[0]?.message.content ?? null, model: answer.model };
}

async function ended(schedule: string, run: string): Promise<ScheduleRun> {
  const deadline = Date.now() + RUN_TIMEOUT_MS;
  for (;;) {
    const now = await api.schedules.retrieveRun(schedule, run);
    if (ENDED.has(now.status)) return now;
    assert.ok(Date.now() < deadline, `${JSON.stringify(now)}; the product said:\n${product.output().slice(-3000)}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const refused = (code: string, param?: string) => (error: ClientError) => {
  assert.equal(error.code, code, error.message);
  if (param !== undefined) assert.equal(error.param, param);
  return true;
};

test('data of two files, run now, gate, promote, keep, roll back', async () => {
  await api.webhookEndpoints.create(receiver.url, ['schedule.*', 'alias.*']);
  const heldOut = await upload(lessonFile(6), 'held-out.jsonl');
  const dataset = await api.datasets.create({
    name: 'lessons',
    subsets: [
      { file_id: await upload(lessonFile(12), 'one.jsonl'), name: 'one' },
      { file_id: await upload(lessonFile(13), 'two.jsonl'), name: 'two' },
    ],
  });
  const job = {
    model,
    training_file: dataset.id,
    suffix: 'lesson',
    seed: 1,
    hyperparameters: { n_epochs: 8, batch_size: 4, learning_rate_multiplier: 5 },
  };
  const request = {
    name: 'Nightly',
    cron: '30 2 * * *',
    time_zone: 'Europe/Berlin',
    job,
    condition: { type: 'new_examples' as const, at_least: 5 },
    alias: 'assistant',
    gate: { held_out_file: heldOut, margin: 0.05, min_difference: 0.1 },
  };
  await assert.rejects(api.schedules.create({ ...request, cron: '61 * * * *' }), refused('invalid_value', 'cron'));
  await assert.rejects(
    api.schedules.create({ ...request, job: { ...job, training_file: 'file-nobodys' } }),
    refused('file_not_found', 'job.training_file'),
  );
  await assert.rejects(
    api.schedules.create({ ...request, gate: { held_out_file: 'file-nobodys' } }),
    refused('file_not_found', 'gate.held_out_file'),
  );
  const schedule = await api.schedules.create(request);
  assert.equal(schedule.next_runs.length, 5);
  const next = await api.schedules.next(schedule.id, 3);
  assert.ok(
    next.next_runs.every(({ local }) => local.includes('02:30')),
    JSON.stringify(next),
  );
  const untaught = await ask(model);

  const started = await api.schedules.run(schedule.id);
  assert.equal(started.trigger, 'manual');
  await assert.rejects(api.schedules.run(schedule.id), refused('invalid_state'));
  const promoted = await ended(schedule.id, started.id);
  assert.equal(promoted.status, 'promoted', JSON.stringify(promoted));
  assert.equal(promoted.new_examples, 25);
  assert.equal(promoted.gate?.comparison.current, model);
  assert.equal(promoted.gate?.comparison.candidate_right, 6);
  assert.equal((await api.jobs.retrieve(promoted.fine_tuning_job ?? '')).schedule, schedule.id);
  // Each question with both answers, and a report to look at.
  const [answers = '', page = ''] = promoted.result_files;
  assert.match(await contentOf(page), /<!doctype html>.*Gate of ft:/is);
  const lines = (await contentOf(answers))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.equal(lines.length, 6);
  assert.equal(lines[0]?.candidate.right, true);
  assert.match(promoted.note ?? '', /Promoted: /);
  const tuned = promoted.fine_tuned_model ?? assert.fail('a promoted run names its model');

  const alias = await api.aliases.retrieve('assistant');
  assert.deepEqual([alias.model, alias.version, alias.previous_model], [tuned, 1, null]);
  assert.deepEqual(await ask('assistant'), { text: LESSON.answer, model: tuned });
  await assert.rejects(api.models.delete(tuned), refused('invalid_state'));
  await assert.rejects(api.aliases.rollback('assistant'), refused('invalid_state'));

  // The same lesson again is not better than before by a tenth: kept. Quickly, so that it learns nothing.
  const worse = { ...job, hyperparameters: { n_epochs: 1, batch_size: 25, learning_rate_multiplier: 0.01 } };
  await api.schedules.update(schedule.id, { job: worse });
  const kept = await ended(schedule.id, (await api.schedules.run(schedule.id)).id);
  assert.equal(kept.status, 'kept', JSON.stringify(kept));
  assert.equal(kept.gate?.comparison.current, tuned);
  assert.match(kept.note ?? '', /Kept: /);
  assert.equal((await api.aliases.retrieve('assistant')).model, tuned);

  // What cannot be read is found out before anything is trained.
  const broken = await upload(Buffer.concat([lessonFile(3), Buffer.from('{"messages": 3}\n')]), 'broken.jsonl');
  await api.schedules.update(schedule.id, { gate: { held_out_file: broken } });
  const unread = await ended(schedule.id, (await api.schedules.run(schedule.id)).id);
  assert.deepEqual([unread.status, unread.error?.code], ['failed', 'invalid_training_file'], JSON.stringify(unread));
  assert.match(unread.error?.message ?? '', /Held-out file refused: 1 of its lines is bad.*line 4/);
  const untrained = await api.jobs.retrieve(unread.fine_tuning_job ?? '');
  assert.deepEqual([untrained.trained_tokens, untrained.error?.param], [null, 'gate.held_out_file']);

  const other = kept.fine_tuned_model ?? assert.fail('a kept run names its model');
  const forced = await api.aliases.promote('assistant', other, 'to see it');
  assert.deepEqual([forced.version, forced.previous_model], [2, tuned]);
  const back = await api.aliases.rollback('assistant', 'it has learned nothing');
  assert.deepEqual([back.model, back.version], [tuned, 3]);
  assert.equal((await ask('assistant')).model, tuned, 'where it was changed it is known at once');
  const history = await api.aliases.history('assistant');
  assert.deepEqual(
    history.data.map(({ kind, model: to, reason, schedule_run }) => [kind, to, reason !== null, schedule_run]),
    [
      ['rolled_back', tuned, true, null],
      ['promoted', other, true, null],
      ['created', tuned, true, promoted.id],
    ],
  );
  assert.equal(history.data[2]?.comparison?.candidate_right, 6);
  assert.deepEqual(await ask(model), untaught, 'the base is as it was');

  const runs = await api.schedules.runs(schedule.id);
  assert.deepEqual(
    runs.data.map(({ status }) => status),
    ['failed', 'kept', 'promoted'],
  );
  await assert.rejects(api.aliases.delete('assistant'), refused('invalid_state'));
  assert.equal((await api.schedules.pause(schedule.id)).next_runs.length, 0);
  assert.equal((await api.schedules.resume(schedule.id)).next_runs.length, 5);
  await api.schedules.delete(schedule.id);
  await assert.rejects(api.schedules.retrieve(schedule.id), refused('schedule_not_found'));
  await api.aliases.delete('assistant');
  await assert.rejects(ask('assistant'), (error: ClientError) => error.status === 404);

  const types = () => receiver.deliveries.map(({ body }) => (JSON.parse(body) as { type: string }).type).sort();
  await receiver.waitFor(9, 20_000);
  assert.deepEqual(types(), [
    'alias.promoted',
    'alias.promoted',
    'alias.rolled_back',
    'schedule.run.failed',
    'schedule.run.started',
    'schedule.run.started',
    'schedule.run.started',
    'schedule.run.succeeded',
    'schedule.run.succeeded',
  ]);
});

test('a power cut in the middle of a run costs nothing but time', {
  skip: process.env.MANTIS_LONG_TESTS === '1' ? false : 'MANTIS_LONG_TESTS=1 runs it',
}, async () => {
  const heldOut = await upload(lessonFile(4), 'held-out.jsonl');
  const schedule = await api.schedules.create({
    name: 'Cut',
    cron: '@yearly',
    job: {
      model,
      training_file: await upload(lessonFile(24), 'train.jsonl'),
      seed: 2,
      hyperparameters: { n_epochs: 8, batch_size: 4, learning_rate_multiplier: 5 },
    },
    alias: 'survivor',
    gate: { held_out_file: heldOut },
  });
  const { id } = await api.schedules.run(schedule.id);
  const seen: string[] = [];
  for (const until of ['running', 'gating'] as const) {
    const deadline = Date.now() + RUN_TIMEOUT_MS;
    for (;;) {
      const { status } = await api.schedules.retrieveRun(schedule.id, id);
      if (status === until || ENDED.has(status)) break;
      assert.ok(Date.now() < deadline, `still ${status}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    seen.push((await api.schedules.retrieveRun(schedule.id, id)).status);
    await product.killEverything();
    product = await startProduct({ dataDir: product.dataDir, apiKey: product.apiKey, egressAllow: receiver.address });
    api = new MantisClient({ baseUrl: product.url, apiKey: product.apiKey });
  }
  const run = await ended(schedule.id, id);
  assert.equal(run.status, 'promoted', JSON.stringify(run));
  assert.equal((await api.schedules.runs(schedule.id)).data.length, 1);
  assert.equal((await api.aliases.retrieve('survivor')).model, run.fine_tuned_model);
  const jobs = await api.jobs.list();
  assert.equal(jobs.data.filter((job) => job.schedule === schedule.id).length, 1, 'one job, however often it began');
  console.log(JSON.stringify({ killedWhile: seen }));
});
