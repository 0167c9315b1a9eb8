/**
 *     npm run bench -- resume [--kills 100] [--saves 40] [--stops 30] [--corruptions 200] [--steps 120]
 *
 * A real fine-tune in two stages (projector, then LoRA; random nano, CPU) as a process: killed with SIGKILL at random points and inside saves, told to stop
 * with SIGTERM, and started on damaged checkpoints. Each run must end at the weights, the optimizer state and the losses of the run that nothing happened to.
 * Prints one line of JSON last.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { sha256File } from '../../gpu-backend/io/digest.ts';
import { checkpointName, checkpointSteps, newestCheckpoint } from '../../gpu-backend/train/checkpoint.ts';
import { digestCheckpoint } from '../../gpu-backend/train/checkpoint-digest.ts';
import type { FineTuneSpec } from '../../gpu-backend/train/finetune-spec.ts';
import { Rng } from '../../gpu-backend/train/nano/random.ts';
import type { DataSpec } from '../../shared/contract/backend.ts';
import { writeTinyJob } from '../cpu/train/tiny.ts';
import { bundled } from '../fixtures/bundled.ts';
import { CORRUPTIONS, corrupt } from '../fixtures/corruptions.ts';

const { values: flags } = parseArgs({
  options: {
    kills: { type: 'string', default: '100' },
    saves: { type: 'string', default: '40' },
    stops: { type: 'string', default: '30' },
    corruptions: { type: 'string', default: '200' },
    steps: { type: 'string', default: '120' },
    seed: { type: 'string', default: '1' },
  },
});
const EVERY = 10;
const EXAMPLES = 12;
const BATCH = 4;
const KILLS_A_RUN = 10;
const STEPS_AN_EPOCH = EXAMPLES / BATCH;
const epochs = Math.max(2, Math.round(Number(flags.steps) / STEPS_AN_EPOCH / 2));
const STEPS = 2 * epochs * STEPS_AN_EPOCH;
const rng = new Rng(Number(flags.seed), 77);

const dir = await mkdtemp(join(tmpdir(), 'mantis-resume-'));
const cache = join(import.meta.dirname, '../../node_modules/.cache');
await mkdir(cache, { recursive: true });
const scripts = await mkdtemp(join(cache, 'mantis-resume-'));
const begin = performance.now();
try {
  const script = await bundled(join(import.meta.dirname, 'resume/worker.ts'), scripts);
  const { baseDir, trainingFile } = await writeTinyJob(join(dir, 'job'), EXAMPLES);
  const bytes = (await readFile(trainingFile)).byteLength;
  const file = { id: 'file-1', bytes, sha256: await sha256File(trainingFile) };
  const data: DataSpec = { files: [{ file_id: 'file-1', file, filename: 'train.jsonl' }], balancing: false };
  const stage = { n_epochs: epochs, batch_size: BATCH, learning_rate_multiplier: 1, data: 0 };
  const spec: Omit<FineTuneSpec, 'outDir' | 'workDir'> = {
    baseDir,
    data: [{ spec: data, paths: [trainingFile] }],
    stages: [
      { ...stage, train: 'projector' },
      { ...stage, train: 'lora', lora: { r: 4, alpha: 8 } },
    ],
    leftOut: [],
    seed: 5,
    checkpointEvery: EVERY,
  };
  const job = join(dir, 'job.json');
  await writeFile(job, JSON.stringify(spec));

  let runs = 0;
  let lives = 0;
  const fresh = (): string => join(dir, `run-${runs++}`);
  const lines = (out: string): string[] => {
    try {
      return readFileSync(`${out}.log`, 'utf8').split('\n').slice(0, -1);
    } catch {
      return [];
    }
  };
  const stepsIn = (out: string): { step: number }[] =>
    lines(out)
      .map((line) => JSON.parse(line) as { step?: number })
      .filter((line): line is { step: number } => line.step !== undefined);
  /** One life of the process. `onSteps`: what happens to it after so many more steps. */
  const live = async (
    out: string,
    options: { faults?: string; signal?: NodeJS.Signals; after?: number } = {},
  ): Promise<number | string> => {
    lives++;
    const before = stepsIn(out).length;
    const child = spawn(process.execPath, [script, JSON.stringify({ job, out })], {
      stdio: ['ignore', 'ignore', 'inherit'],
      env: {
        ...process.env,
        OMP_NUM_THREADS: '1',
        ...(options.faults === undefined ? {} : { MANTIS_FAULT_POINTS: options.faults }),
      },
    });
    const { signal, after = 0 } = options;
    const watch = setInterval(() => {
      if (signal === undefined || stepsIn(out).length < before + after) return;
      clearInterval(watch);
      setTimeout(() => child.kill(signal), 15 * rng.unit());
    }, 3);
    const ended = await new Promise<number | string>((resolve) =>
      child.once('exit', (code, by) => resolve(by ?? code ?? -1)),
    );
    clearInterval(watch);
    const own = stepsIn(out);
    const [last, first] = [own[before - 1]?.step, own[before]?.step];
    if (last !== undefined && first !== undefined)
      assert.ok(first > last - EVERY && first <= last + 1, `step ${first} after ${last}: more than one interval again`);
    return ended;
  };
  const whole = fresh();
  assert.equal(await live(whole), 0);
  const digest = await digestCheckpoint(join(whole, checkpointName(STEPS)));
  const { trainedMs: _, ...extra } = digest.progress.extra as Record<string, unknown>;
  const log = lines(whole);
  /** The same end, the same steps once repeats are merged, one end. */
  const assertSame = async (out: string): Promise<void> => {
    const own = await digestCheckpoint(join(out, checkpointName(STEPS)));
    assert.equal(own.weights, digest.weights);
    assert.equal(own.optimizer, digest.optimizer);
    const { trainedMs: __, ...ownExtra } = own.progress.extra as Record<string, unknown>;
    assert.deepEqual(ownExtra, extra);
    const merged = [...new Set(lines(out).filter((line) => line.includes('"step"')))];
    assert.deepEqual(
      merged,
      log.filter((line) => line.includes('"step"')),
    );
    assert.equal(lines(out).filter((line) => line.includes('"succeeded"')).length, 1);
  };
  const finish = async (out: string): Promise<void> => {
    assert.equal(await live(out), 0);
    await assertSame(out);
    await rm(out, { recursive: true });
  };

  let kills = 0;
  while (kills < Number(flags.kills)) {
    const out = fresh();
    for (let i = 0; i < KILLS_A_RUN && kills < Number(flags.kills); i++) {
      const ended = await live(out, { signal: 'SIGKILL', after: rng.int(0, 2 * EVERY) });
      if (ended === 0) break;
      assert.equal(ended, 'SIGKILL');
      kills++;
    }
    await finish(out).catch(async (error) => {
      // It had come to its end between the last look and the kill.
      if (lines(out).some((line) => line.includes('"succeeded"'))) await assertSame(out);
      else throw error;
    });
    console.error(`${kills} kills at random points`);
  }

  let saves = 0;
  const places = [
    'file.open',
    'file.write',
    'file.sync',
    'file.rename',
    'file.folder',
    'checkpoint.manifest',
    'checkpoint.rename',
    'checkpoint.named',
    'checkpoint.prune',
  ];
  while (saves < Number(flags.saves)) {
    const out = fresh();
    for (let i = 0; i < places.length && saves < Number(flags.saves); i++) {
      const place = places[(saves + i) % places.length] ?? '';
      const many = place.startsWith('file.') ? (place === 'file.write' ? 30 : 8) : 2;
      const ended = await live(out, { faults: `${place}=kill:${rng.int(1, many)}` });
      if (ended === 0) break;
      assert.equal(ended, 'SIGKILL', place);
      saves++;
      for (const step of await checkpointSteps(out)) await digestCheckpoint(join(out, checkpointName(step)));
    }
    if (lines(out).some((line) => line.includes('"succeeded"'))) await assertSame(out);
    else await finish(out);
    console.error(`${saves} kills inside a save`);
  }

  let stops = 0;
  let stopMs = 0;
  while (stops < Number(flags.stops)) {
    const out = fresh();
    for (let i = 0; i < KILLS_A_RUN && stops < Number(flags.stops); i++) {
      const ended = await live(out, { signal: 'SIGTERM', after: rng.int(1, EVERY) });
      if (ended === 0) break;
      assert.equal(ended, 3, 'told to stop, it says so');
      stops++;
      const found = await newestCheckpoint(out);
      const last = stepsIn(out).at(-1)?.step ?? 0;
      const saved = Number(/step-(\d+)$/.exec(found?.path ?? '')?.[1]);
      assert.equal(saved, last, 'no step is lost');
    }
    if (!lines(out).some((line) => line.includes('"succeeded"'))) {
      const started = performance.now();
      await finish(out);
      stopMs = Math.max(stopMs, performance.now() - started);
    }
    assert.equal(new Set(stepsIn(out).map(({ step }) => step)).size, stepsIn(out).length, 'no step came twice');
  }

  let detected = 0;
  let resumed = 0;
  for (let i = 0; i < Number(flags.corruptions); i++) {
    const out = fresh();
    await cp(whole, out, { recursive: true });
    const [newest = 0, older = 0] = await checkpointSteps(out);
    const kind = CORRUPTIONS[i % CORRUPTIONS.length] ?? 'bit';
    const what = await corrupt(join(out, checkpointName(newest)), kind, rng, join(out, checkpointName(older)));
    let damaged = 0;
    const found = await newestCheckpoint(out, () => damaged++);
    assert.equal(damaged, 1, `not seen: ${what}`);
    assert.equal(found?.path, join(out, checkpointName(older)), what);
    detected++;
    if (i % 20 === 0) {
      await writeFile(`${out}.log`, '');
      assert.equal(await live(out), 0);
      const own = await digestCheckpoint(join(out, checkpointName(STEPS)));
      assert.deepEqual([own.weights, own.optimizer], [digest.weights, digest.optimizer]);
      resumed++;
    }
    await rm(out, { recursive: true });
  }

  console.log(
    JSON.stringify({
      bench: 'resume',
      steps: STEPS,
      checkpointEvery: EVERY,
      killsAtRandomPoints: kills,
      killsInsideSaves: saves,
      stops,
      corruptions: Number(flags.corruptions),
      corruptionsDetected: detected,
      resumedFromTheOneBefore: resumed,
      lives,
      weights: digest.weights,
      optimizer: digest.optimizer,
      allEqual: true,
      minutes: Number(((performance.now() - begin) / 60_000).toFixed(1)),
    }),
  );
} finally {
  await rm(dir, { recursive: true, force: true });
  await rm(scripts, { recursive: true, force: true });
}
