import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { makeRequest, TestBackend, textOf } from './backend-process.ts';
import { FakeEdge, FakeJob, fakeJob, MAX_TRIES } from './fake-edge.ts';
import { lesson } from './lesson.ts';

const PATIENCE_MS = 150_000;
/** Steps of an epoch. */
const EPOCH = 4;

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

const ended = (...jobs: FakeJob[]): Promise<void> =>
  until(`the end of ${jobs.map(({ spec }) => spec.id).join(', ')}`, () => jobs.every(({ isOver }) => isOver));

const statuses = (job: FakeJob): string[] => job.finishes.map(({ status }) => status);

function assertComplete(job: FakeJob, steps: number): void {
  assert.equal(
    job.finishes.at(-1)?.status,
    'succeeded',
    `${job.spec.id}: ${JSON.stringify(job.finishes)} ${job.messages('warn').join('\n')}`,
  );
  assert.equal(job.finishes.at(-1)?.finalStep, steps);
  assert.deepEqual(
    job.steps.map(({ step }) => step).sort((a, b) => a - b),
    Array.from({ length: steps }, (_, i) => i + 1),
    'every step is told once',
  );
  assert.deepEqual(job.untold, [], 'and before the checkpoint behind it');
  assert.equal(job.checkpoints.at(-1)?.step, steps);
}

describe('a backend with jobs', () => {
  let edge: FakeEdge;
  let backend: TestBackend;
  let training: string;
  before(async () => {
    training = await lesson(2 * EPOCH);
    edge = new FakeEdge();
    await edge.start();
    backend = await TestBackend.start({ MANTIS_EDGE_URL: edge.url, MANTIS_LOG_LEVEL: 'silent' });
  });
  after(async () => {
    await backend.stop();
    await edge.stop();
  });
  /** Queues jobs, and wakes the backend as the edge does. */
  const queue = async (...jobs: FakeJob[]): Promise<void> => {
    edge.jobs.push(...jobs);
    backend.audience = edge.reports.at(-1)?.id ?? '';
    await backend.post('/v1/wake', {}, []).catch(() => {});
  };
  const trainer = async (): Promise<number> =>
    (await trainersOf(backend.child.pid ?? 0))[0] ?? assert.fail('no trainer runs');

  it('trains one to its end: every step told, every checkpoint whole, then the outcome', async () => {
    const job = fakeJob('alone', training, { n_epochs: 3 });
    await queue(job);
    await ended(job);
    assertComplete(job, 3 * EPOCH);
    assert.equal(job.finishes.length, 1);
    assert.notEqual(job.finishes[0]?.trainedTokens ?? 0, 0);
    assert.deepEqual(
      job.checkpoints.map(({ step }) => step),
      [4, 8, 12],
    );
    const names = job.checkpoints[0]?.files.map(({ name }) => name) ?? [];
    for (const name of ['adapter_config.json', 'adapter_model.safetensors', 'manifest.json', 'state.safetensors'])
      assert.ok(names.includes(name), `${name} among ${names.join(', ')}`);
    assert.deepEqual(edge.unsigned, []);
  });

  it('trains four over one base in one process, turn by turn, each to the bits that it has alone', async () => {
    const jobs = [
      fakeJob('one', training, { n_epochs: 3 }),
      fakeJob('two', training, { n_epochs: 3 }, { seed: 2 }),
      fakeJob('three', training, { n_epochs: 3, lora: { r: 4, alpha: 8 } }),
      fakeJob('four', training, { n_epochs: 3, train: 'projector' }),
    ];
    while ((await trainersOf(backend.child.pid ?? 0)).length > 0) await sleep(20);
    await queue(...jobs);
    const seen = new Set<number>();
    while (jobs.some(({ finishes }) => finishes.length === 0)) {
      const pids = await trainersOf(backend.child.pid ?? 0);
      assert.ok(pids.length <= 1, 'one process trains');
      for (const pid of pids) seen.add(pid);
      await sleep(50);
    }
    for (const job of jobs) assertComplete(job, 3 * EPOCH);
    assert.equal(seen.size, 1);
    assert.ok(
      edge.claims.some(({ sharing }) => sharing?.baseModel === 'nano'),
      'it asked for jobs that share the base',
    );
    const alone = edge.jobs.find(({ spec }) => spec.id === 'alone');
    assert.equal(jobs[0]?.sha256(12, 'state.safetensors'), alone?.sha256(12, 'state.safetensors'), 'bit for bit');
    assert.notEqual(jobs[1]?.sha256(12, 'state.safetensors'), alone?.sha256(12, 'state.safetensors'));
    // Nobody waited for another one's end.
    const begins = jobs.map((job) => Math.min(...[...job.events.values()].map(({ createdAt }) => createdAt)));
    const ends = jobs.map((job) => Math.max(...[...job.events.values()].map(({ createdAt }) => createdAt)));
    assert.ok(Math.max(...begins) < Math.min(...ends), JSON.stringify([begins, ends]));
  });

  it('evaluates checkpoints by their answers: not a bit changes, a kill in the middle makes it again, enough is enough', async () => {
    const judged = (id: string, stop: { patience: number; minDelta: number } | null = null): FakeJob => {
      const job = fakeJob(id, training, { n_epochs: 3 });
      const [heldOut] = job.spec.training;
      if (heldOut === undefined) assert.fail('a job has data');
      const how = { maxExamples: 6, options: null, imageOrders: 1, textOnly: true, confidence: 0.95 };
      const asked = { tenant: 'default', heldOut, base: 'nano', how, every: 'checkpoint' as const, earlyStop: stop };
      return new FakeJob({ ...job.spec, evaluation: { ...asked, done: [], pending: [] } }, job.training);
    };
    const [whole, killed, stopped] = [
      judged('judged'),
      judged('judged-killed'),
      judged('enough', { patience: 1, minDelta: 1 }),
    ];
    await queue(whole);
    await ended(whole);
    assertComplete(whole, 3 * EPOCH);
    const alone = edge.jobs.find(({ spec }) => spec.id === 'alone');
    assert.equal(
      whole.sha256(12, 'state.safetensors'),
      alone?.sha256(12, 'state.safetensors'),
      'as without evaluation',
    );
    assert.deepEqual([...whole.evaluations.keys()], [4, 8, 12]);
    for (const found of whole.evaluations.values()) {
      assert.equal(found?.eval_examples, 6);
      assert.equal(found.eval_groups, 2, 'the questions are about two pictures');
      assert.ok(found.eval_interval[0] <= found.eval_accuracy && found.eval_accuracy <= found.eval_interval[1]);
      assert.equal(found.eval_difference, found.eval_accuracy - found.eval_base_accuracy);
      assert.ok((found.eval_text_only_accuracy ?? -1) >= 0);
    }

    await queue(killed);
    await until('the first checkpoint to wait for its evaluation', () => killed.evaluations.get(4) === null);
    process.kill(await trainer(), 'SIGKILL');
    await ended(killed);
    assertComplete(killed, 3 * EPOCH);
    assert.deepEqual(statuses(killed), ['released', 'succeeded']);
    assert.deepEqual([...killed.evaluations], [...whole.evaluations], 'made again, to the same numbers');
    assert.equal(killed.sha256(12, 'state.safetensors'), alone?.sha256(12, 'state.safetensors'));

    await queue(stopped);
    await ended(stopped);
    assert.deepEqual([statuses(stopped), stopped.finishes[0]?.finalStep], [['succeeded'], 8]);
    assert.equal(stopped.steps.at(-1)?.step, 8, 'not a step more');
    assert.match(stopped.messages('info').join('\n'), /ends early after step 8/);
  });

  it('kill -9 of the process: the server goes on answering; each job is resumed by itself, and the one that kills ends', async () => {
    const poison = fakeJob('poison', training, { n_epochs: 400 }, { checkpointEvery: 4000 });
    const others = [1, 2].map((seed) =>
      fakeJob(`other-${seed}`, training, { n_epochs: 20 }, { seed, checkpointEvery: 10 }),
    );
    await queue(others[0] ?? poison, poison, others[1] ?? poison);
    await until('all to train beside each other', () => others.every(({ checkpoints }) => checkpoints.length > 0));
    let isOver = false;
    const kill = async (): Promise<void> => {
      for (let token = 0; !isOver; await sleep(30)) {
        // Whatever process has it dies at its first step.
        const began = [...poison.events.keys()].some((key) => key.startsWith(`try-${poison.token}-`));
        if (poison.token === token || !began) continue;
        const [pid] = await trainersOf(backend.child.pid ?? 0);
        if (pid === undefined) continue;
        token = poison.token;
        process.kill(pid, 'SIGKILL');
      }
    };
    const killing = kill();
    await until('the first death', () => others.every(({ finishes }) => finishes.length > 0));
    assert.equal(typeof (await textOf(await backend.post('/v1/generate', makeRequest(0), []))), 'string');
    await ended(poison, ...others);
    isOver = true;
    await killing;
    assert.deepEqual(statuses(poison), Array(MAX_TRIES).fill('released'));
    for (const job of others) {
      assertComplete(job, 20 * EPOCH);
      assert.deepEqual(statuses(job), ['released', 'succeeded'], 'it did not notice after the first time');
      assert.equal(job.finishes[0]?.error?.code, 'trainer_died');
      assert.match(job.messages('warn').join('\n'), /SIGKILL.*3 jobs trained in it/);
      assert.match(job.messages('info').join('\n'), /Resuming at step \d+ of/);
    }
  });

  it('cancel and pause stop the one they are for; the other one goes on', async () => {
    const [cancelled, paused, other] = [
      fakeJob('cancelled', training, { n_epochs: 400 }),
      fakeJob('paused', training, { n_epochs: 400 }, { checkpointEvery: 1000 }),
      fakeJob('other', training, { n_epochs: 40 }, { checkpointEvery: 80 }),
    ] as const;
    await queue(cancelled, paused, other);
    await until('first steps', () => cancelled.steps.length > 0 && paused.steps.length > 0);
    cancelled.cancel = true;
    paused.pause = true;
    await ended(cancelled, paused);
    assert.deepEqual([statuses(cancelled), statuses(paused)], [['cancelled'], ['paused']]);
    assert.equal(paused.checkpoints.at(-1)?.step, paused.steps.at(-1)?.step, 'what was trained is saved');
    await ended(other);
    assertComplete(other, 40 * EPOCH);
    assert.deepEqual(statuses(other), ['succeeded']);
  });

  it('damaged checkpoints are passed over for the one before, or for the start', async () => {
    const job = fakeJob('damaged', training, { n_epochs: 400 });
    await queue(job);
    await until('checkpoints', () => job.checkpoints.length >= 3);
    process.kill(await trainer(), 'SIGKILL');
    await until('it to be given back', () => job.finishes.length === 1);
    job.isQueued = false;
    await sleep(50);
    const flip = (step: number, name: string): void => {
      const blob = Buffer.from(job.blobs.get(`${step}/${name}`) ?? '');
      blob[blob.length >> 1] = (blob[blob.length >> 1] ?? 0) ^ 4;
      job.blobs.set(`${step}/${name}`, blob);
    };
    const [newest, second, third] = job.checkpoints.map(({ step }) => step).toReversed();
    flip(newest ?? 0, 'state.safetensors');
    job.blobs.delete(`${second}/manifest.json`);
    job.isQueued = true;
    await backend.post('/v1/wake', {}, []).catch(() => {});
    await until('the resumed try', () => job.messages('info').some((message) => /^Resuming/.test(message)));
    const resuming = job.messages('info').find((message) => /^Resuming/.test(message)) ?? '';
    assert.match(resuming, new RegExp(`step ${third} of`));
    const warnings = job.messages('warn').join('\n');
    assert.match(warnings, new RegExp(`checkpoint of step ${newest} is damaged`));
    assert.match(warnings, new RegExp(`checkpoint of step ${second} is damaged`));
    job.cancel = true;
    await ended(job);
  });

  it('a lost lease stops its job at once, and nothing more is written', async () => {
    const job = fakeJob('lost', training, { n_epochs: 400 });
    await queue(job);
    await until('a checkpoint', () => job.checkpoints.length >= 1);
    job.isLeaseTaken = true;
    const deadline = performance.now() + PATIENCE_MS;
    while ((await trainersOf(backend.child.pid ?? 0)).length > 0) {
      assert.ok(performance.now() < deadline, 'the trainer is still running');
      await sleep(100);
    }
    assert.deepEqual(job.finishes, []);
    assert.equal(backend.child.exitCode, null, 'the server runs on');
  });

  it('a backend that slept past its leases writes nothing more', async () => {
    const jobs = [1, 2, 3].map((seed) => fakeJob(`zombie-${seed}`, training, { n_epochs: 4000 }, { seed }));
    for (const job of jobs) job.leaseMs = 4_000;
    await queue(...jobs);
    await until('checkpoints', () => jobs.every(({ checkpoints }) => checkpoints.length >= 1));
    const pid = await trainer();
    backend.child.kill('SIGSTOP');
    process.kill(pid, 'SIGSTOP');
    await sleep(4_200);
    const before = jobs.map(({ events, blobs, checkpoints }) => [events.size, blobs.size, checkpoints.length]);
    // Somebody else has them by now.
    for (const job of jobs) job.token++;
    process.kill(pid, 'SIGCONT');
    await sleep(300);
    backend.child.kill('SIGCONT');
    await until('the trainers to give up', () => jobs.every(({ staleWrites }) => staleWrites > 0));
    const deadline = performance.now() + PATIENCE_MS;
    while ((await trainersOf(backend.child.pid ?? 0)).length > 0) {
      assert.ok(performance.now() < deadline, 'the trainer is still running');
      await sleep(100);
    }
    assert.deepEqual(
      jobs.map(({ events, blobs, checkpoints }) => [events.size, blobs.size, checkpoints.length]),
      before,
      'no stale write was taken',
    );
    assert.deepEqual(
      jobs.map(({ finishes }) => finishes),
      [[], [], []],
    );
  });

  it('SIGTERM: the trainer saves a checkpoint, the jobs are given back, exit code 0', async () => {
    const jobs = [1, 2].map((seed) =>
      fakeJob(`drained-${seed}`, training, { n_epochs: 4000 }, { seed, checkpointEvery: 5000 }),
    );
    await queue(...jobs);
    await until('steps', () => jobs.every(({ steps }) => steps.length > 3));
    backend.child.kill('SIGTERM');
    assert.equal(await backend.exited, 0);
    for (const job of jobs) {
      assert.deepEqual(statuses(job), ['released']);
      assert.equal(job.checkpoints.at(-1)?.step, job.steps.at(-1)?.step, 'no step is lost');
    }
    assert.equal(edge.reports.at(-1)?.state, 'draining');
  });
});

describe('a backend whose machine fails', () => {
  it('a full disk is waited for, short memory makes micro-batches smaller, and a stuck process is ended', async () => {
    const job = fakeJob('unlucky', await lesson(2 * EPOCH), { n_epochs: 6, batch_size: 4 });
    const edge = new FakeEdge(job);
    await edge.start();
    const backend = await TestBackend.start({
      MANTIS_EDGE_URL: edge.url,
      MANTIS_LOG_LEVEL: 'silent',
      // Well above the second that a full disk is waited for, also where neighbours take the processor.
      MANTIS_JOB_STALL_MS: '4000',
      // In every life of the trainer. Four examples a step are one micro-batch, then two, in the second life four.
      MANTIS_FAULT_POINTS: 'micro-batch=oom:2,micro-batch=hang:20,checkpoint.manifest=ENOSPC:1',
    });
    try {
      await ended(job);
      assertComplete(job, 3 * EPOCH);
      assert.deepEqual(statuses(job), ['released', 'succeeded']);
      assert.equal(job.finishes[0]?.error?.code, 'training_stalled');
      const warnings = job.messages('warn').join('\n');
      assert.match(warnings, /No room for the checkpoint of step 4/);
      assert.match(warnings, /did not fit the memory/);
      assert.match(warnings, /no step was made for/);
    } finally {
      await backend.stop();
      await edge.stop();
    }
  });
});
