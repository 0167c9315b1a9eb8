import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import sharp from 'sharp';
import { makeRequest, TestBackend, textOf } from './backend-process.ts';
import { FakeEdge } from './fake-edge.ts';

const PATIENCE_MS = 60_000;

async function until(what: string, isTrue: () => boolean): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!isTrue()) {
    if (performance.now() > deadline) assert.fail(`waited ${PATIENCE_MS} ms for ${what}`);
    await sleep(20);
  }
}

/** Process ids of the trainers below `pid`. */
async function trainersOf(pid: number): Promise<number[]> {
  const { stdout } = await promisify(execFile)('ps', ['-eo', 'pid=,ppid=,args=']);
  return stdout.split('\n').flatMap((line) => {
    const [child, parent, ...args] = line.trim().split(/\s+/);
    return Number(parent) === pid && args.join(' ').includes('job-child') ? [Number(child)] : [];
  });
}

async function lesson(examples: number): Promise<string> {
  const colours = [
    { r: 255, g: 0, b: 0 },
    { r: 0, g: 0, b: 255 },
  ];
  const urls = await Promise.all(
    colours.map(async (background) => {
      const png = await sharp({ create: { width: 40, height: 40, channels: 3, background } })
        .png()
        .toBuffer();
      return `data:image/png;base64,${png.toString('base64')}`;
    }),
  );
  return Array.from({ length: examples }, (_, i) =>
    JSON.stringify({
      messages: [
        {
          role: 'user',
          content: [
            { type: 'image_url', image_url: { url: urls[i % 2] } },
            { type: 'text', text: 'Which?' },
          ],
        },
        { role: 'assistant', content: i % 2 === 0 ? 'true' : 'false' },
      ],
    }),
  ).join('\n');
}

describe('a backend with a job', () => {
  let edge: FakeEdge;
  let backend: TestBackend;
  let steps = 0;
  let training: string;
  before(async () => {
    training = await lesson(8);
  });
  const start = async (epochs: number) => {
    steps = epochs * 4;
    edge = new FakeEdge(training, {
      id: 'job-1',
      baseModel: 'nano',
      suffix: null,
      seed: 1,
      hyperparameters: { n_epochs: epochs, batch_size: 2, learning_rate_multiplier: 1 },
      mantis: { stage: 'lora', checkpoint_every: 4 },
      validationFile: null,
      adapter: null,
    });
    await edge.start();
    edge.isQueued = true;
    backend = await TestBackend.start({ MANTIS_EDGE_URL: edge.url, MANTIS_LOG_LEVEL: 'silent' });
  };
  const stop = async () => {
    await backend.stop();
    await edge.stop();
  };

  it('trains it to its end: every step told, every checkpoint whole, then the outcome', async () => {
    await start(3);
    try {
      await until('the end', () => edge.finishes.length > 0);
      assert.deepEqual(edge.finishes, [
        {
          token: 1,
          status: 'succeeded',
          trainedTokens: edge.finishes[0]!.trainedTokens,
          error: null,
          finalStep: steps,
        },
      ]);
      assert.ok((edge.finishes[0]!.trainedTokens ?? 0) > 0);
      const metrics = [...edge.events.values()].filter(({ type }) => type === 'metrics');
      assert.deepEqual(
        metrics.map(({ data }) => data?.step),
        Array.from({ length: steps }, (_, i) => i + 1),
      );
      assert.deepEqual(
        edge.checkpoints.map(({ step }) => step),
        [4, 8, 12],
      );
      const names = edge.checkpoints[0]!.files.map(({ name }) => name);
      for (const name of ['adapter_config.json', 'adapter_model.safetensors', 'manifest.json', 'state.safetensors'])
        assert.ok(names.includes(name), `${name} among ${names.join(', ')}`);
      assert.deepEqual(edge.unsigned, []);
    } finally {
      await stop();
    }
  });

  it('kill -9 of the trainer: the server goes on answering, the job is given back and resumed', async () => {
    await start(40);
    try {
      await until('a checkpoint', () => edge.checkpoints.length >= 1);
      const [trainer] = await trainersOf(backend.child.pid!);
      assert.ok(trainer !== undefined, 'a trainer is running');
      process.kill(trainer, 'SIGKILL');
      backend.audience = edge.reports.at(-1)?.id ?? '';
      assert.equal(typeof (await textOf(await backend.post('/v1/generate', makeRequest(0), []))), 'string');
      await until('the job to be given back', () => edge.finishes.length === 1);
      assert.equal(edge.finishes[0]!.status, 'released');
      assert.match([...edge.events.values()].find(({ level }) => level === 'warn')!.message, /SIGKILL/);
      const saved = edge.checkpoints.at(-1)!.step;
      edge.isQueued = true;
      await until('the resumed try', () => [...edge.events.values()].some(({ message }) => /^Resuming/.test(message)));
      const resuming = [...edge.events.values()].find(({ message }) => /^Resuming/.test(message))!.message;
      assert.match(resuming, new RegExp(`step ${saved} of`));
      await until('the end', () => edge.finishes.length === 2);
      assert.deepEqual(
        [edge.finishes[1]!.status, edge.finishes[1]!.token, edge.finishes[1]!.finalStep],
        ['succeeded', 2, steps],
      );
    } finally {
      await stop();
    }
  });

  it('SIGTERM: the trainer saves a checkpoint, the job is given back, exit code 0', async () => {
    await start(400);
    try {
      await until('a checkpoint', () => edge.checkpoints.length >= 1);
      const before = edge.checkpoints.length;
      backend.child.kill('SIGTERM');
      assert.equal(await backend.exited, 0);
      assert.equal(edge.finishes.at(-1)?.status, 'released');
      assert.ok(edge.checkpoints.length > before || edge.checkpoints.at(-1)!.step % 4 === 0);
      assert.equal(edge.reports.at(-1)?.state, 'draining');
    } finally {
      await stop();
    }
  });

  it('a lost lease stops the trainer at once, and nothing more is written', async () => {
    await start(400);
    try {
      await until('a checkpoint', () => edge.checkpoints.length >= 1);
      edge.isLeaseTaken = true;
      const deadline = performance.now() + PATIENCE_MS;
      while ((await trainersOf(backend.child.pid!)).length > 0) {
        assert.ok(performance.now() < deadline, 'the trainer is still running');
        await sleep(100);
      }
      assert.deepEqual(edge.finishes, []);
      assert.equal(backend.child.exitCode, null, 'the server runs on');
    } finally {
      await stop();
    }
  });

  it('cancel stops the trainer and says so', async () => {
    await start(400);
    try {
      await until('the first step', () => edge.events.has('step-1'));
      edge.cancel = true;
      await until('the end', () => edge.finishes.length > 0);
      assert.equal(edge.finishes[0]!.status, 'cancelled');
    } finally {
      await stop();
    }
  });
});
