/** Checkpoints in S3: a job's files go there, an answer comes from there, and nothing of them is at the edge. */
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { toFile } from 'openai';
import { S3Server } from '../../fixtures/s3-server.ts';
import { LESSON, lessonFile } from './dataset.ts';
import { waitForEnd } from './jobs.ts';
import { imagePart, textPart } from './pictures.ts';
import { type Product, startProduct, stopAndForget } from './product.ts';

const JOB_TIMEOUT_MS = 120_000;

let s3: S3Server;
let product: Product;
before(async () => {
  s3 = await S3Server.start();
  product = await startProduct({ env: { ...s3.environment, MANTIS_CHECKPOINT_STORE: 's3://models/mantis' } });
});
after(async () => {
  await stopAndForget(product);
  await s3.stop();
});

/** Tunes `model` on the lesson. @returns the tuned model */
async function tune(model: string, epochs: number): Promise<{ id: string; tuned: string }> {
  const { client } = product;
  const file = await client.files.create({ file: await toFile(lessonFile(8), 'lesson.jsonl'), purpose: 'fine-tune' });
  const { id } = await client.fineTuning.jobs.create({
    model,
    training_file: file.id,
    suffix: 's3',
    seed: 1,
    method: {
      type: 'supervised',
      supervised: { hyperparameters: { n_epochs: epochs, batch_size: 4, learning_rate_multiplier: 5 } },
    },
  });
  const job = await waitForEnd(client, id, JOB_TIMEOUT_MS);
  assert.equal(job.status, 'succeeded', JSON.stringify(job.error));
  return { id, tuned: job.fine_tuned_model ?? assert.fail('a succeeded job names its model') };
}

test('a job keeps its checkpoints there, through calls that fail, and its model answers from there', async () => {
  const { client } = product;
  const base = (await client.models.list()).data[0]?.id ?? assert.fail('GET /v1/models lists a model');
  s3.faults.push({ on: 'PUT /models/', as: 503, times: 2 });
  const { id, tuned } = await tune(base, 1);
  const steps = (await client.fineTuning.jobs.checkpoints.list(id)).data.map(({ step_number }) => step_number);
  const stored = [...s3.objects.keys()].filter((key) => key.startsWith(`/models/mantis/jobs/${id}/`));
  for (const step of steps)
    assert.ok(
      stored.some((key) => key.includes(`/${step}/`)),
      `step ${step} of ${stored.join(' ')}`,
    );
  const atEdge = await readdir(join(product.dataDir), { recursive: true });
  assert.deepEqual(
    atEdge.filter((name) => /jobs.*checkpoints/.test(name)),
    [],
  );

  s3.faults.push({ on: 'GET /models/', as: 'cut', times: 1 });
  const answer = await client.chat.completions.create({
    model: tuned,
    messages: [{ role: 'user', content: [imagePart('blue-triangle'), textPart(LESSON.question)] }],
    temperature: 0,
    max_completion_tokens: 16,
  });
  assert.equal(answer.model, tuned);
  assert.ok(s3.log.some((line) => line.startsWith(`GET /models/mantis/jobs/${id}/`)));

  assert.deepEqual(s3.violations, []);
});
