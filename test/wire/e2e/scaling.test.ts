/** An installation that keeps no backend running: it sleeps, wakes for a request, grows, and goes to sleep again, and nobody notices. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { toFile } from 'openai';
import { ask, judge, QUESTIONS, readWhole } from '../../bench/chaos/ask.ts';
import { lessonFile } from './dataset.ts';
import { waitForEnd } from './jobs.ts';
import { type Product, startProduct, stopAndForget } from './product.ts';

const TIMEOUT_MS = 60_000;

describe('an installation without a backend', () => {
  let product: Product | undefined;
  const there = () => product ?? assert.fail('it did not start');
  before(async () => {
    product = await startProduct({
      env: {
        MANTIS_MIN_BACKENDS: '0',
        MANTIS_MAX_BACKENDS: '2',
        MANTIS_SCALE_DOWN_S: '1',
        MANTIS_IDLE_S: '2',
        MANTIS_MAX_ROWS: '2',
        MANTIS_PRECISION: 'f32',
        MANTIS_KV: 'f32',
      },
    });
  });
  after(() => stopAndForget(product));

  it('is ready, and runs none', async () => {
    assert.equal((await fetch(`${there().url}/health/ready`)).status, 200);
    assert.deepEqual(await backends(there()), []);
  });

  it('counts tokens though it finds nobody', async () => {
    const counted = await there().client.post<{ input_tokens: number }>('/chat/completions/input_tokens', {
      body: { model: 'mantis-nano', messages: [{ role: 'user', content: 'describe image 1' }] },
      maxRetries: 0,
    });
    assert.ok(counted.input_tokens > 0, JSON.stringify(counted));
    await untilAsleep(there());
  });

  it('answers a burst that finds nobody', async () => {
    const question = QUESTIONS[0] ?? assert.fail();
    const answers = await Promise.all(
      Array.from({ length: 40 }, () =>
        ask(there(), { ...question, maxTokens: 40, pattern: '[a-z ]{8,20}' }, false, TIMEOUT_MS),
      ),
    );
    const texts = answers.map(({ status, text }) => readWhole(text)?.text ?? `${status} ${text.slice(0, 200)}`);
    assert.equal(new Set(texts).size, 1, [...new Set(texts)].join('\n'));
  });

  it('loses no answer when a backend is told to end', async () => {
    const solos = await Promise.all(
      QUESTIONS.map(async (question) => readWhole((await ask(there(), question, false, TIMEOUT_MS)).text)),
    );
    let ended = 0;
    const running = QUESTIONS.flatMap((question, i) =>
      [true, false].map(async (stream) => {
        await sleep(i * 100);
        const verdict = judge(await ask(there(), question, stream, TIMEOUT_MS), stream, solos[i] ?? undefined);
        ended++;
        return verdict;
      }),
    );
    await sleep(250);
    const [victim] = await backends(there());
    assert.ok(victim !== undefined && ended < running.length, 'a backend is at work');
    process.kill(victim, 'SIGTERM');
    assert.deepEqual(
      [...new Set((await Promise.all(running)).map((verdict) => JSON.stringify(verdict)))],
      ['{"kind":"answer"}'],
    );
  });

  it('goes to sleep when nobody asks', async () => {
    await untilAsleep(there());
    assert.equal((await fetch(`${there().url}/health/ready`)).status, 200);
  });

  it('wakes for a job, and sleeps no sooner than it has ended', async () => {
    const { client } = there();
    const file = await client.files.create({ file: await toFile(lessonFile(8), 'lesson.jsonl'), purpose: 'fine-tune' });
    const hyperparameters = { n_epochs: 2, batch_size: 4 };
    const { id } = await client.fineTuning.jobs.create({
      model: 'mantis-nano',
      training_file: file.id,
      method: { type: 'supervised', supervised: { hyperparameters } },
    });
    const { status, error } = await waitForEnd(client, id, 60_000);
    assert.equal(status, 'succeeded', JSON.stringify(error));
    const { data } = await client.fineTuning.jobs.listEvents(id);
    assert.ok(!data.some(({ message }) => /released|lost|resum/i.test(message)), JSON.stringify(data));
    await untilAsleep(there());
  });
});

async function untilAsleep(product: Product): Promise<void> {
  const deadline = Date.now() + 15_000;
  while ((await backends(product)).length > 0) {
    assert.ok(Date.now() < deadline, `still there:\n${product.output().slice(-2_000)}`);
    await sleep(200);
  }
}

async function backends(product: Product): Promise<number[]> {
  const found: number[] = [];
  for (const pid of await product.processes()) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (command.includes('gpu-backend/main')) found.push(pid);
  }
  return found;
}
