import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { checkpointName, checkpointSteps, loadNewestCheckpoint } from '../../../gpu-backend/train/checkpoint.ts';
import { digestCheckpoint, digestParameters } from '../../../gpu-backend/train/checkpoint-digest.ts';
import { OutOfMemory } from '../../../gpu-backend/train/memory.ts';
import { isStorageFull, StorageFull, saveWithPatience } from '../../../gpu-backend/train/storage.ts';
import type { StepMetrics, Trouble } from '../../../gpu-backend/train/trainer.ts';
import { runToy, type ToyOptions, toyState } from '../../fixtures/toy-training.ts';

async function folder(t: { after: (fn: () => unknown) => void }): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-survival-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

/** A run that is stopped after each of some steps and started again. */
async function inPieces(options: ToyOptions, stops: readonly number[]) {
  const metrics: StepMetrics[] = [];
  for (const stop of [...stops, Number.POSITIVE_INFINITY]) {
    const abort = new AbortController();
    const onStep = (m: StepMetrics): void => {
      metrics.push(m);
      if (m.step === stop) abort.abort();
    };
    const { result } = await runToy({ ...options, signal: abort.signal, onStep });
    if (result.outcome !== 'aborted') return { result, metrics };
  }
  throw new Error('never came to an end');
}

const losses = (metrics: readonly StepMetrics[]): [number, number, number][] =>
  metrics.map((m) => [m.step, m.loss, m.learningRate]);

for (const [name, options] of [
  ['plain', {}],
  ['steps left out', { bad: [3, 4, 11, 17, 18] }],
  ['rolled back', { bad: [13, 14, 15, 16, 17] }],
  ['rolled back to the start', { bad: [2, 3, 4, 5, 6] }],
  ['smaller micro-batches', { maxTokens: 12 }],
] as const) {
  test(`${name}: a run in pieces equals one in one go, bit for bit`, async (t) => {
    const dir = await folder(t);
    const whole: StepMetrics[] = [];
    const one = await runToy({ ...options, folder: join(dir, 'one'), steps: 30, onStep: (m) => whole.push(m) });
    assert.equal(one.result.outcome, 'complete');
    const cut = await inPieces({ ...options, folder: join(dir, 'cut'), steps: 30 }, [1, 4, 5, 12, 14, 16, 17, 18, 29]);
    assert.equal(cut.result.outcome, 'complete');
    assert.deepEqual(losses(cut.metrics), losses(whole), 'every step once, with the same loss and learning rate');
    const digests = await Promise.all(
      ['one', 'cut'].map((run) => digestCheckpoint(join(dir, run, checkpointName(30)))),
    );
    assert.deepEqual(digests[1], digests[0]);
    assert.ok(Number.isFinite(whole.at(-1)?.loss), `it ends with the loss ${whole.at(-1)?.loss}`);
  });
}

test('single bad steps are left out, and nothing that is not finite is ever saved', async (t) => {
  const dir = await folder(t);
  const bad = Array.from({ length: 20 }, (_, i) => 2 + 3 * i);
  const { result, state } = await runToy({ folder: dir, steps: 65, every: 1, bad });
  assert.deepEqual([result.outcome, result.progress.step, result.progress.skipped], ['complete', 45, 20]);
  assert.equal(state.nonFinite(), undefined);
  const restored = toyState();
  await loadNewestCheckpoint(dir, restored);
  assert.equal(digestParameters(restored), digestParameters(state));
});

test('five bad steps in a row go back to the last good checkpoint once, with half the rate; then the run has diverged', async (t) => {
  const dir = await folder(t);
  const metrics: StepMetrics[] = [];
  const troubles: Trouble[] = [];
  const options = {
    steps: 40,
    bad: [12, 13, 14, 15, 16, 27, 28, 29, 30, 31],
    onStep: (m: StepMetrics) => metrics.push(m),
    onTrouble: (trouble: Trouble) => troubles.push(trouble),
  };
  const { result, state } = await runToy({ ...options, folder: dir });
  assert.equal(result.outcome, 'diverged');
  assert.deepEqual(
    troubles.map(({ code }) => code),
    ['diverged'],
  );
  assert.match(troubles[0]?.message ?? '', /those of step 10 again; training goes on after step 16 with 0\.5/);
  assert.equal(metrics.at(-1)?.step, 31, 'steps go on behind the bad ones, and none comes twice');
  assert.equal(new Set(metrics.map(({ step }) => step)).size, metrics.length);
  const rate = (step: number): number => metrics[step - 1]?.learningRate ?? 0;
  const scale = rate(17) / rate(11) / ((1 - 17 / 80) / (1 - 11 / 80));
  assert.ok(Math.abs(scale - 0.5) < 1e-9, `the rate is ${scale} of what was planned`);
  assert.equal(state.nonFinite(), undefined);
});

test('a micro-batch that does not fit is halved, with the same result to 1e-6; one row that does not fit ends the run', async (t) => {
  const dir = await folder(t);
  const whole = await runToy({ folder: join(dir, 'whole'), steps: 12 });
  const troubles: Trouble[] = [];
  const small = await runToy({
    folder: join(dir, 'small'),
    steps: 12,
    maxTokens: 10,
    onTrouble: (trouble) => void troubles.push(trouble),
  });
  assert.ok(troubles.length >= 1 && troubles.every(({ code }) => code === 'out_of_memory'), JSON.stringify(troubles));
  for (const p of whole.state.parameters)
    p.value.forEach((value, i) => {
      assert.ok(Math.abs(value - (small.state.get(p.name).value[i] as number)) < 1e-6, `${p.name}[${i}]`);
    });
  await assert.rejects(runToy({ folder: join(dir, 'none'), steps: 12, maxTokens: 3 }), OutOfMemory);
});

test('saving waits for room, then gives up by name; what is not about room fails at once', async () => {
  const full = Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
  let tries = 0;
  const said: number[] = [];
  await saveWithPatience(
    async () => {
      if (++tries < 3) throw full;
    },
    { pausesMs: [1, 2, 3], onFull: (_, pauseMs) => void said.push(pauseMs) },
  );
  assert.deepEqual([tries, said], [3, [1, 2]]);
  const always = { pausesMs: [1, 1] };
  await assert.rejects(
    saveWithPatience(() => Promise.reject(full), always),
    StorageFull,
  );
  const other = new Error('EIO');
  await assert.rejects(
    saveWithPatience(() => Promise.reject(other), always),
    other,
  );
  assert.deepEqual([isStorageFull(full), isStorageFull(other)], [true, false]);
  const stopped = AbortSignal.abort();
  const begin = performance.now();
  await assert.rejects(
    saveWithPatience(() => Promise.reject(full), { pausesMs: [60_000], signal: stopped }),
    StorageFull,
  );
  assert.ok(performance.now() - begin < 30_000, 'who is to stop does not wait');
});

test('the newest checkpoints stay and nothing else does', async (t) => {
  const dir = await folder(t);
  await runToy({ folder: dir, steps: 23 });
  assert.deepEqual(await checkpointSteps(dir), [23, 20]);
  assert.equal((await readdir(dir)).length, 2);
});

test('after a shortage micro-batches stay small, on a machine with more memory too', async (t) => {
  const dir = await folder(t);
  const small = await runToy({ folder: join(dir, 'small'), steps: 12, maxTokens: 10 });
  const stop = new AbortController();
  const onStep = ({ step }: StepMetrics): void => {
    if (step === 4) stop.abort();
  };
  await runToy({ folder: join(dir, 'moved'), steps: 12, maxTokens: 10, signal: stop.signal, onStep });
  const moved = await runToy({ folder: join(dir, 'moved'), steps: 12 });
  assert.equal(digestParameters(moved.state), digestParameters(small.state));
  const large = await runToy({ folder: join(dir, 'large'), steps: 12 });
  assert.notEqual(digestParameters(large.state), digestParameters(small.state), 'the order of sums shows');
});
