/** Data from everywhere, looked at through the public door: a file, a dataset that grows, pictures by data URL, upload, digest and address. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { MantisClient } from '../../../shared/client/client.ts';
import type { ClientError } from '../../../shared/client/http.ts';
import type { DatasetReport, DatasetValidation } from '../../../shared/contract/datasets.ts';
import { Origin } from '../edge/origin.ts';
import { waitForEnd } from './jobs.ts';
import { dataUrl, type PictureName, picture } from './pictures.ts';
import { type Product, startProduct, stopAndForget } from './product.ts';
import { type Receiver, startReceiver } from './receiver.ts';

const TIMEOUT_MS = 60_000;

let origin: Origin;
let receiver: Receiver;
let product: Product;
let api: MantisClient;
let model: string;

before(async () => {
  origin = await Origin.start();
  receiver = await startReceiver();
  product = await startProduct({ egressAllow: `${origin.host},${receiver.address}` });
  api = new MantisClient({ baseUrl: product.url, apiKey: product.apiKey });
  model = (await api.models.list()).data[0]?.id ?? assert.fail('GET /v1/models lists a model');
});
after(async () => {
  await stopAndForget(product);
  await receiver.close();
  await origin.close();
});

const upload = async (bytes: Uint8Array<ArrayBuffer> | string, name: string, purpose: 'fine-tune' | 'vision') =>
  (await api.files.create(new Blob([bytes]), name, purpose)).id;

function line(urls: readonly string[], question: string, answer: string): string {
  const content = [...urls.map((url) => ({ type: 'image_url', image_url: { url } })), { type: 'text', text: question }];
  return JSON.stringify({
    messages: [
      { role: 'user', content },
      { role: 'assistant', content: answer },
    ],
  });
}

async function whole(id: string): Promise<DatasetValidation & { report: DatasetReport }> {
  const deadline = Date.now() + TIMEOUT_MS;
  for (;;) {
    const validation = await api.datasetValidations.retrieve(id);
    if (validation.status === 'succeeded' && validation.report !== null)
      return { ...validation, report: validation.report };
    assert.ok(['queued', 'running'].includes(validation.status), JSON.stringify(validation));
    assert.ok(
      Date.now() < deadline,
      `${id} is still ${validation.status}; the product said:\n${product.output().slice(-3000)}`,
    );
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const bytesOf = (name: PictureName): Uint8Array<ArrayBuffer> => new Uint8Array(picture(name));

test('a dataset with pictures from everywhere is looked at, and a job trains on what was seen', async () => {
  const uploaded = await upload(bytesOf('frame-1'), 'frame-1.png', 'vision');
  const digest = `sha256:${createHash('sha256').update(picture('frame-1')).digest('hex')}`;
  origin.serve('/circle.png', bytesOf('yellow-circle')).serve('/page.html', new TextEncoder().encode('<html></html>'));
  const [red, blue] = ['it is a circle', 'it is a triangle'];
  const good = [
    line([dataUrl(picture('frame-2'))], 'what is in the first picture', 'a frame'),
    line([uploaded], 'what is it that we see here', red),
    line([digest, dataUrl(picture('frame-3'))], 'are these two the same', 'no'),
    line([origin.url('/circle.png')], 'and what is this one', red),
    line([origin.url('/circle.png'), uploaded], 'which of the two is round', 'the first'),
    ...Array.from({ length: 19 }, (_, i) =>
      line([dataUrl(picture('two-black-squares'))], `how many, try ${i} of it`, `two ${i}`),
    ),
  ];
  const more = [
    line([origin.url('/page.html')], 'what does the page show', blue),
    line(['file-000000000000000000000000'], 'whose file is this', blue),
    line([dataUrl(picture('frame-2'))], 'what is in the first picture', 'a frame'),
  ];
  const first = await upload(`${good.join('\n')}\n`, 'good.jsonl', 'fine-tune');
  const second = await upload(`${more.join('\n')}\n`, 'more.jsonl', 'fine-tune');
  const held = await upload(
    `${line([dataUrl(picture('two-black-squares'))], 'a question that was never asked', 'two')}\n`,
    'held.jsonl',
    'fine-tune',
  );
  const endpoint = await api.webhookEndpoints.create(receiver.url, ['dataset.validated']);

  const made = await api.datasets.create({ name: 'lesson', subsets: [{ file_id: first, name: 'good' }] });
  assert.equal(made.version, 1);
  const grown = await api.datasets.append(made.id, { file_id: second, name: 'more' });
  assert.equal(grown.version, 2);
  assert.notEqual(grown.digest, made.digest);
  const same = await api.datasets.append(made.id, { file_id: second, name: 'more' });
  assert.deepEqual([same.version, same.digest, same.subsets.length], [2, grown.digest, 2]);
  await assert.rejects(api.files.delete(first), (error: ClientError) => error.code === 'file_in_use');

  const asked = { model, training_file: made.id, validation_file: held };
  const started = await api.datasetValidations.create(asked);
  assert.ok(['queued', 'running'].includes(started.status));
  const { report, id } = await whole(started.id);

  assert.equal(report.verdict, 'accepted');
  const { estimate } = report;
  assert.ok(estimate !== null, JSON.stringify(report.problems));
  // 25 examples in batches of three, three epochs.
  assert.equal(estimate.steps, 27);
  assert.equal(estimate.tokens, 3 * (report.training[0]?.tokens.total ?? 0));
  assert.ok(estimate.seconds > 0 && estimate.memory_bytes > 50e6 && estimate.tokens_per_second > 0);
  assert.ok((estimate.stages[0]?.trained_parameters ?? 0) > 10_000);
  const [summary] = report.training;
  assert.deepEqual([summary?.examples, summary?.usable, summary?.bad], [27, 25, 2]);
  assert.deepEqual(summary?.subsets, { good: 24, more: 1 });
  // frame-1 by id and by digest is one picture; frame-2, frame-3, the circle and the squares are four more.
  assert.deepEqual([summary?.images, summary?.unique_images], [27, 5]);
  const errors = report.problems.filter(({ severity }) => severity === 'error');
  assert.deepEqual(
    errors.map(({ subset, line: at, code, message_index, part_index }) => [
      subset,
      at,
      code,
      message_index,
      part_index,
    ]),
    [
      ['more', 1, 'failed_to_download_image', 0, 0],
      ['more', 2, 'image_file_not_found', 0, 0],
    ],
  );
  assert.deepEqual(report.left_out, [{ data: 0, lines: [1, 2], total: 2 }]);
  assert.equal(report.duplicates.exact, 1);
  assert.deepEqual(report.leakage, { images: 1, examples: 0 });
  assert.equal(origin.seen.filter(({ path }) => path === '/circle.png').length, 1, 'a picture is fetched once');
  assert.equal((await api.datasets.retrieve(made.id)).examples, 25);

  const told = JSON.parse((await receiver.waitFor(1, TIMEOUT_MS)).body) as { type: string; data: { id: string } };
  assert.deepEqual([told.type, told.data.id], ['dataset.validated', id]);
  await api.webhookEndpoints.delete(endpoint.id);

  const again = await api.datasetValidations.create(asked);
  assert.equal(again.id, id, 'what was found out is not found out again');
  assert.deepEqual(again.report, report);

  // What is at the address now is none of the job's business.
  origin.on('/circle.png', (_, response) => response.writeHead(500).end());
  const job = await api.jobs.create({
    ...asked,
    seed: 1,
    method: { type: 'supervised', supervised: { hyperparameters: { n_epochs: 1, batch_size: 8 } } },
  });
  const ended = await waitForEnd(product.client, job.id, 120_000);
  assert.equal(ended.status, 'succeeded', JSON.stringify(ended.error));
  assert.equal(origin.seen.filter(({ path }) => path === '/circle.png').length, 1, 'training asks nobody');

  // A tuned model is laid over its base before a step of it is measured.
  const tuned = await api.datasetValidations.create({ ...asked, model: ended.fine_tuned_model ?? '' });
  assert.notEqual(tuned.id, id);
  assert.ok((await whole(tuned.id)).report.estimate !== null);

  await api.datasets.delete(made.id);
  await api.files.delete(first);
});

test('concurrent appends lose nothing', async () => {
  const { id } = await api.datasets.create({ name: 'busy' });
  const files = await Promise.all(
    Array.from({ length: 6 }, (_, i) => upload(`${line([], `question ${i}`, 'yes')}\n`, `${i}.jsonl`, 'fine-tune')),
  );
  await Promise.all(files.map((file_id) => api.datasets.append(id, { file_id })));
  const { subsets, version } = await api.datasets.retrieve(id);
  assert.deepEqual(subsets.map(({ file_id }) => file_id).sort(), [...files].sort());
  assert.equal(version, 7);
});

test('a job whose data is too bad fails with the reason and the report', async () => {
  const bad = Array.from({ length: 10 }, (_, i) => (i < 4 ? '{"messages": 7}' : line([], `question ${i}`, 'yes')));
  const training_file = await upload(`${bad.join('\n')}\n`, 'bad.jsonl', 'fine-tune');
  const job = await api.jobs.create({ model, training_file });
  const ended = await waitForEnd(product.client, job.id, TIMEOUT_MS);
  assert.equal(ended.status, 'failed');
  assert.equal(ended.error?.code, 'invalid_training_file');
  assert.match(ended.error?.message ?? '', /40\.0 % of the lines are bad.*line 1/);
  const { validation } = await api.jobs.retrieve(job.id);
  const { report, fine_tuning_job } = await whole(validation ?? '');
  assert.equal(fine_tuning_job, job.id);
  assert.deepEqual([report.verdict, report.bad_share], ['refused', 0.4]);
  assert.deepEqual(report.left_out, [{ data: 0, lines: [1, 2, 3, 4], total: 4 }]);
});

test('a validation survives the death of the process that does it, and tells how far it is', async () => {
  const picture = (n: number) => dataUrl(picturesOf[n % picturesOf.length] ?? new Uint8Array());
  const picturesOf = (['frame-1', 'frame-2', 'frame-3'] as const).map(bytesOf);
  const lines = Array.from({ length: 8_000 }, (_, i) =>
    line([picture(i)], `what is number ${i} of them`, `it is ${i % 7}`),
  );
  const training_file = await upload(`${lines.join('\n')}\n`, 'many.jsonl', 'fine-tune');
  const job = await api.jobs.create({ model, training_file });
  let killed = 0;
  const deadline = Date.now() + TIMEOUT_MS;
  while (killed === 0) {
    assert.ok(Date.now() < deadline, `no validator was seen; the product said:\n${product.output().slice(-3000)}`);
    for (const pid of await product.processes()) {
      const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
      if (!command.includes('validate-child')) continue;
      process.kill(pid, 'SIGKILL');
      killed = pid;
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const { validation } = await api.jobs.retrieve(job.id);
  const { report, progress } = await whole(validation ?? '');
  assert.equal(report.training[0]?.usable, 8_000);
  assert.deepEqual(
    report.problems.filter(({ severity }) => severity === 'error'),
    [],
  );
  assert.ok(progress !== null && progress.done > 0 && progress.done === progress.total, JSON.stringify(progress));
  await api.jobs.cancel(job.id);
});

test('another tenant sees nothing of it, and names none of its files and pictures', async () => {
  const tenant = await api.admin.tenants.create({ name: 'neighbours' });
  const key = await api.admin.keys.create({ name: 'theirs', tenant: tenant.id, scopes: ['files', 'fine_tuning'] });
  const theirs = new MantisClient({ baseUrl: product.url, apiKey: key.secret ?? '' });
  const picture = await upload(bytesOf('frame-1'), 'mine.png', 'vision');
  const file = await upload(`${line([], 'is it mine', 'yes')}\n`, 'mine.jsonl', 'fine-tune');
  const dataset = await api.datasets.create({ name: 'mine', subsets: [{ file_id: file }] });
  const { id } = await api.datasetValidations.create({ model, training_file: dataset.id });
  const isRefused = (code: string) => (error: ClientError) => error.status === 404 && error.code === code;
  await assert.rejects(theirs.datasets.retrieve(dataset.id), isRefused('dataset_not_found'));
  await assert.rejects(theirs.datasets.append(dataset.id, { file_id: file }), isRefused('dataset_not_found'));
  await assert.rejects(theirs.datasets.delete(dataset.id), isRefused('dataset_not_found'));
  await assert.rejects(
    theirs.datasets.create({ name: 'x', subsets: [{ file_id: file }] }),
    isRefused('file_not_found'),
  );
  await assert.rejects(theirs.datasetValidations.retrieve(id), isRefused('dataset_validation_not_found'));
  await assert.rejects(theirs.datasetValidations.cancel(id), isRefused('dataset_validation_not_found'));
  await assert.rejects(
    theirs.datasetValidations.create({ model, training_file: dataset.id }),
    isRefused('dataset_not_found'),
  );
  assert.deepEqual((await theirs.datasets.list()).data, []);
  assert.deepEqual((await theirs.datasetValidations.list()).data, []);
  const own = await theirs.files.create(
    new Blob([`${line([picture], 'whose is it', 'mine')}\n`]),
    'own.jsonl',
    'fine-tune',
  );
  const asked = await theirs.datasetValidations.create({ model, training_file: own.id });
  const { report } = await theirs.datasetValidations.wait(asked.id);
  assert.deepEqual(
    report?.problems.filter(({ line: at }) => at !== null).map(({ code }) => code),
    ['image_file_not_found'],
  );
});
