/** kill -9 of every process during a fine-tune, then a start: the job goes on from its last checkpoint and ends once. */
import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { test } from 'node:test';
import { toFile } from 'openai';
import { lessonFile } from './dataset.ts';
import { createEndpoint, waitFor, waitForEnd } from './jobs.ts';
import { startProduct } from './product.ts';
import { startReceiver } from './receiver.ts';

const STEPS = 120;
const CHECKPOINT_EVERY = 10;

test('a job survives kill -9 of everything', async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.close());
  const first = await startProduct({ egressAllow: receiver.address });
  const { dataDir } = first;
  t.after(() => rm(dataDir, { recursive: true, force: true }));
  let second: Awaited<ReturnType<typeof startProduct>> | undefined;
  t.after(() => second?.terminate());
  let killed = false;
  t.after(() => (killed ? undefined : first.killEverything()));

  const model = (await first.client.models.list()).data[0]?.id ?? assert.fail('GET /v1/models lists a model');
  const endpoint = await createEndpoint(first.client, receiver.url, ['fine_tuning.job.succeeded']);
  const file = await first.client.files.create({
    file: await toFile(lessonFile(24), 'lesson.jsonl'),
    purpose: 'fine-tune',
  });
  const supervised = {
    hyperparameters: { n_epochs: STEPS / 12, batch_size: 2 },
    mantis: { checkpoint_every: CHECKPOINT_EVERY },
  };
  const created = await first.client.fineTuning.jobs.create({
    model,
    training_file: file.id,
    suffix: 'phoenix',
    method: { type: 'supervised', supervised },
  });
  const checkpointsOf = async (client: typeof first.client): Promise<number[]> => {
    const { data } = await client.fineTuning.jobs.checkpoints.list(created.id, { limit: 100 });
    return data.map((checkpoint) => checkpoint.step_number).sort((a, b) => a - b);
  };
  const running = await waitFor(
    first.client,
    created.id,
    60_000,
    async () => (await checkpointsOf(first.client)).length >= 2,
  );
  assert.equal(running.status, 'running', 'the job is killed in the middle, not after its end');
  const seen = await checkpointsOf(first.client);
  const processes = await first.processes();
  killed = true;
  await first.killEverything();
  assert.ok(
    processes.length >= 4,
    `start, workerd, backend and trainer were running, found ${processes.length} processes`,
  );

  const restartedAt = performance.now();
  second = await startProduct({ dataDir, egressAllow: receiver.address });
  const job = await waitForEnd(second.client, created.id, 120_000);
  assert.equal(job.status, 'succeeded', JSON.stringify(job.error));
  console.log(
    `# killed at step ≥ ${seen.at(-1)} of ${STEPS}, succeeded ${Math.round(performance.now() - restartedAt)} ms after the restart`,
  );

  const steps = await checkpointsOf(second.client);
  assert.ok(
    seen.every((step) => steps.includes(step)),
    'checkpoints from before the kill are still there',
  );
  assert.equal(steps.at(-1), STEPS);
  assert.equal(new Set(steps).size, steps.length, 'no checkpoint was made twice');
  const messages: string[] = [];
  const loggedSteps: number[] = [];
  for await (const event of second.client.fineTuning.jobs.listEvents(created.id, { limit: 100 })) {
    messages.push(event.message);
    if (event.type === 'metrics') loggedSteps.push((event.data as { step: number }).step);
  }
  const resumed = messages.find((message) => /^Resuming at step/.test(message)) ?? assert.fail(messages.join('\n'));
  assert.ok(Number(/step (\d+)/.exec(resumed)?.[1]) >= (seen.at(-1) ?? 0), `from the last checkpoint: ${resumed}`);
  const wanted = Array.from({ length: STEPS }, (_, i) => i + 1);
  assert.deepEqual(
    loggedSteps.sort((a, b) => a - b),
    wanted,
    'the log of both lives has every step once',
  );

  const delivery = await receiver.waitFor(1, 30_000);
  const headers = new Headers(Object.entries(delivery.headers).map(([name, value]) => [name, String(value)]));
  const event = await second.client.webhooks.unwrap(delivery.body, headers, endpoint.secret);
  assert.ok('id' in event.data);
  assert.equal(event.data.id, created.id);
  // Longer than the first retry step: a second delivery would have come by now.
  await new Promise((resolve) => setTimeout(resolve, 7_000));
  const ids = receiver.deliveries.map(({ headers: { 'webhook-id': id } }) => id);
  assert.equal(new Set(ids).size, ids.length, `each event id once: ${ids.join(' ')}`);
  assert.equal(ids.length, 1);
});
