/** From an upload to a tuned model that answers, with the official client and a signed callback. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type OpenAI from 'openai';
import { toFile } from 'openai';
import type { CheckpointMetrics, JobCheckpoint } from '../../../shared/contract/jobs.ts';
import { LESSON, lessonFile } from './dataset.ts';
import { createEndpoint, waitForEnd } from './jobs.ts';
import { imagePart, textPart } from './pictures.ts';
import { type Product, startProduct, stopAndForget } from './product.ts';
import { type Receiver, startReceiver } from './receiver.ts';

const JOB_TIMEOUT_MS = 120_000;

let receiver: Receiver;
let product: Product;
let client: OpenAI;
let model: string;

before(async () => {
  // The first answer is a failure: the delivery must come again under the same event id.
  receiver = await startReceiver([500]);
  product = await startProduct({ egressAllow: receiver.address });
  client = product.client;
  model = (await client.models.list()).data[0]?.id ?? assert.fail('GET /v1/models lists a model');
});
after(async () => {
  await stopAndForget(product);
  await receiver.close();
});

async function askForTheWord(id: string): Promise<string | null | undefined> {
  const answer = await client.chat.completions.create({
    model: id,
    messages: [{ role: 'user', content: [imagePart('blue-triangle'), textPart(LESSON.question)] }],
    temperature: 0,
    max_completion_tokens: 16,
  });
  return answer.choices[0]?.message.content;
}

test('upload, tune, be called back, ask the tuned model', async () => {
  const endpoint = await createEndpoint(client, receiver.url, ['fine_tuning.job.succeeded', 'fine_tuning.job.failed']);
  const before = await askForTheWord(model);
  assert.notEqual(before, LESSON.answer, 'nobody has taught the base model its lesson');

  const file = await client.files.create({ file: await toFile(lessonFile(24), 'lesson.jsonl'), purpose: 'fine-tune' });
  assert.equal(file.purpose, 'fine-tune');
  const heldOut = await client.files.create({ file: await toFile(lessonFile(6), 'held.jsonl'), purpose: 'fine-tune' });
  const created = await client.fineTuning.jobs.create({
    model,
    training_file: file.id,
    suffix: 'lesson',
    seed: 1,
    method: {
      type: 'supervised',
      supervised: {
        hyperparameters: { n_epochs: 8, batch_size: 4, learning_rate_multiplier: 5 },
        // Ours: after each checkpoint it is asked what it has learned, and the first of the best is kept; after 24 steps it is sure of it.
        ...{
          mantis: { checkpoint_every: 24, evaluation: { held_out_file: heldOut.id, text_only: true, keep_best: true } },
        },
      },
    },
  });
  assert.match(created.status, /^(validating_files|queued|running)$/);

  const job = await waitForEnd(client, created.id, JOB_TIMEOUT_MS);
  assert.equal(job.status, 'succeeded', JSON.stringify(job.error));
  const tuned = job.fine_tuned_model ?? assert.fail('a succeeded job names its model');
  assert.match(tuned, new RegExp(`^ft:${model}:[\\w-]*:lesson:`));
  assert.ok((job.trained_tokens ?? 0) > 0);
  assert.ok((job.finished_at ?? 0) >= job.created_at);

  const events = await client.fineTuning.jobs.listEvents(job.id, { limit: 100 });
  const losses = events.data
    .filter((event) => event.type === 'metrics' && 'train_loss' in (event.data as object))
    .map((event) => (event.data as { train_loss?: number }).train_loss)
    .reverse();
  assert.ok(losses.length > 0, 'training reports its loss');
  assert.ok((losses.at(-1) ?? Number.NaN) < (losses[0] ?? Number.NaN), `the loss falls: ${losses.join(' ')}`);
  assert.equal(new Set(events.data.map((event) => event.id)).size, events.data.length);

  const checkpoints = await client.fineTuning.jobs.checkpoints.list(job.id);
  const steps = checkpoints.data.map((checkpoint) => checkpoint.step_number);
  assert.ok(steps.length > 0, 'a job leaves checkpoints');
  assert.equal(Math.max(...steps), (24 / 4) * 8);
  const asked = checkpoints.data.map(({ metrics }) => metrics as CheckpointMetrics).reverse();
  assert.deepEqual(
    asked.map(({ eval_examples, eval_base_accuracy }) => [eval_examples, eval_base_accuracy]),
    steps.map(() => [6, 0]),
  );
  const best = Math.max(...asked.map(({ eval_accuracy }) => eval_accuracy ?? -1));
  assert.equal(best, 1, 'what was taught is answered right');
  const said = events.data.map(({ message }) => message).join('\n');
  const bestStep = asked.find(({ eval_accuracy }) => eval_accuracy === best)?.step;
  assert.match(said, new RegExp(`The checkpoint of step ${bestStep} has the highest accuracy`));
  assert.match(
    said,
    /6 held-out pictures? .*are in the training data too|held-out examples are in the training data too/,
  );
  const answers = (checkpoints.data[0] as unknown as JobCheckpoint).evaluation_file ?? '';
  const lines = (await (await client.files.content(answers)).text()).trim().split('\n');
  assert.equal(lines.length, 2 * 6, 'each question with and without its pictures');

  const delivery = await receiver.waitFor(2, 30_000);
  const [first] = receiver.deliveries;
  assert.equal(first?.headers['webhook-id'], delivery.headers['webhook-id'], 'a retry keeps the event id');
  const headers = new Headers(Object.entries(delivery.headers).map(([name, value]) => [name, String(value)]));
  const event = await client.webhooks.unwrap(delivery.body, headers, endpoint.secret);
  assert.equal(event.type, 'fine_tuning.job.succeeded');
  assert.equal(event.data.id, job.id);
  assert.equal(event.id, delivery.headers['webhook-id']);
  await assert.rejects(client.webhooks.unwrap(`${delivery.body} `, headers, endpoint.secret), /signature/i);

  assert.equal(await askForTheWord(tuned), LESSON.answer);
  assert.equal(await askForTheWord(model), before, 'tuning leaves the base model as it was');
  assert.ok((await client.models.list()).data.some(({ id }) => id === tuned));
});

test('a cancelled job stays cancelled', async () => {
  const file = await client.files.create({ file: await toFile(lessonFile(24), 'long.jsonl'), purpose: 'fine-tune' });
  const job = await client.fineTuning.jobs.create({
    model,
    training_file: file.id,
    method: { type: 'supervised', supervised: { hyperparameters: { n_epochs: 50, batch_size: 1 } } },
  });
  await client.fineTuning.jobs.cancel(job.id);
  assert.equal((await waitForEnd(client, job.id, 10_000)).status, 'cancelled');
  assert.equal((await client.fineTuning.jobs.cancel(job.id)).status, 'cancelled', 'cancelling again changes nothing');
});

test('every stage that the model offers can be tuned', async () => {
  const file = await client.files.create({ file: await toFile(lessonFile(4), 'short.jsonl'), purpose: 'fine-tune' });
  for (const stage of ['projector', 'full']) {
    const method = {
      type: 'supervised',
      supervised: { hyperparameters: { n_epochs: 1, batch_size: 2 }, mantis: { stage } },
    };
    const body = { model, training_file: file.id, method } as OpenAI.FineTuning.JobCreateParams;
    const job = await client.fineTuning.jobs.create(body);
    const ended = await waitForEnd(client, job.id, JOB_TIMEOUT_MS);
    assert.equal(ended.status, 'succeeded', `${stage}: ${JSON.stringify(ended.error)}`);
    await assert.rejects(client.fineTuning.jobs.cancel(job.id), { status: 409 });
    const answer = await askForTheWord(ended.fine_tuned_model ?? assert.fail('a succeeded job names its model'));
    assert.equal(typeof answer, 'string');
  }
});
