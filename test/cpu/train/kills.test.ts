/** Training as a process that is killed, told to stop, or has no room: it always goes on, and ends at the same bits. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { checkpointName, checkpointSteps, newestCheckpoint } from '../../../gpu-backend/train/checkpoint.ts';
import { type CheckpointDigest, digestCheckpoint } from '../../../gpu-backend/train/checkpoint-digest.ts';
import { Rng } from '../../../gpu-backend/train/nano/random.ts';
import { bundled } from '../../fixtures/bundled.ts';
import { CORRUPTIONS, corrupt } from '../../fixtures/corruptions.ts';
import type { ToyOptions } from '../../fixtures/toy-training.ts';

const SOURCE = join(import.meta.dirname, '../../fixtures/toy-training.ts');
const STEPS = 60;
const EVERY = 5;

function linesNow(path: string): number {
  try {
    return readFileSync(path, 'utf8').split('\n').length - 1;
  } catch {
    return 0;
  }
}

describe('training as a process', () => {
  let dir = '';
  let scripts = '';
  let script = '';
  let whole: { digest: CheckpointDigest; log: string[] };
  let runs = 0;

  const begin = (options: Partial<ToyOptions> & { folder: string }, faults = '', at = script): ChildProcess =>
    spawn(process.execPath, [at, JSON.stringify({ steps: STEPS, every: EVERY, ...options })], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, ...(faults === '' ? {} : { MANTIS_FAULT_POINTS: faults }) },
    });
  const ended = (child: ChildProcess): Promise<number | string> =>
    new Promise((resolve) => child.once('exit', (code, signal) => resolve(signal ?? code ?? -1)));
  const fresh = (): string => join(dir, `run-${runs++}`);
  const logOf = async (folder: string): Promise<string[]> => {
    const text = await readFile(`${folder}.log`, 'utf8').catch(() => '');
    return text.split('\n').slice(0, -1);
  };
  /** Every step once after repeats are merged, each with the loss of the run that was never disturbed. */
  const assertSame = async (folder: string): Promise<void> => {
    assert.deepEqual([...new Set(await logOf(folder))], whole.log);
    assert.deepEqual(await digestCheckpoint(join(folder, checkpointName(STEPS))), whole.digest);
  };

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'mantis-kills-'));
    // Below the project, where Node finds packages with native parts.
    const cache = join(import.meta.dirname, '../../../node_modules/.cache');
    await mkdir(cache, { recursive: true });
    scripts = await mkdtemp(join(cache, 'mantis-kills-'));
    script = await bundled(SOURCE, scripts);
    const folder = fresh();
    assert.equal(await ended(begin({ folder })), 0);
    whole = { digest: await digestCheckpoint(join(folder, checkpointName(STEPS))), log: await logOf(folder) };
    assert.equal(whole.log.length, STEPS);
  });
  after(async () => {
    await rm(dir, { recursive: true, force: true });
    await rm(scripts, { recursive: true, force: true });
  });

  it('kill -9 at random moments: it goes on, repeats one interval at most, and ends at the same bits', async () => {
    const rng = new Rng(7, 1);
    const folder = fresh();
    let kills = 0;
    for (;;) {
      const seen = await logOf(folder);
      const child = begin({ folder });
      const exit = ended(child);
      const wanted = seen.length + rng.int(1, 14);
      // At any moment after some more steps: in a step, in a save, between.
      const watch = setInterval(() => {
        if (linesNow(`${folder}.log`) < wanted) return;
        clearInterval(watch);
        setTimeout(() => child.kill('SIGKILL'), 2 * rng.unit());
      }, 1);
      const code = await exit;
      clearInterval(watch);
      const lines = await logOf(folder);
      const [last, first] = [seen.at(-1), lines[seen.length]].map((line) =>
        line === undefined ? 0 : (JSON.parse(line) as { step: number }).step,
      );
      if (first !== undefined && last !== undefined && first > 0)
        assert.ok(first > last - EVERY && first <= last + 1, `step ${first} after ${last}`);
      if (code === 0) break;
      assert.equal(code, 'SIGKILL');
      kills++;
    }
    assert.ok(kills >= 4, `it was killed ${kills} times`);
    await assertSame(folder);
  });

  it('kill -9 at every place of a save: no checkpoint is half there', async () => {
    const points = ['file.open', 'file.write', 'file.sync', 'file.rename', 'file.folder'];
    const faults = [
      ...points.map((point, i) => `${point}=kill:${3 + i}`),
      ...['manifest', 'rename', 'named', 'prune'].map((point) => `checkpoint.${point}=kill:3`),
    ];
    for (const fault of faults) {
      const folder = fresh();
      assert.equal(await ended(begin({ folder }, fault)), 'SIGKILL', fault);
      for (const step of await checkpointSteps(folder))
        await assert.doesNotReject(digestCheckpoint(join(folder, checkpointName(step))), `${fault}: step ${step}`);
      const left = (await readdir(folder)).filter((name) => name.endsWith('.tmp'));
      assert.ok(left.length <= 1, `${fault}: ${left.join(' ')}`);
      assert.equal(await ended(begin({ folder })), 0, fault);
      await assertSame(folder);
      assert.deepEqual(
        (await readdir(folder)).filter((name) => name.startsWith('.')),
        [],
      );
    }
  });

  it('a disk that is full at any write leaves the last checkpoint as it was, and training goes on with room', async () => {
    for (const fault of [
      'file.open=ENOSPC:7-',
      'file.write=ENOSPC:9-',
      'file.write=ENOSPC:14-',
      'file.sync=ENOSPC:6-',
      'checkpoint.manifest=ENOSPC:2-',
    ]) {
      const folder = fresh();
      // From some save on, in all tries; then a start with room.
      const child = begin({ folder, storagePausesMs: [1, 1] }, fault);
      let stderr = '';
      child.stderr?.on('data', (text) => {
        stderr += text;
      });
      assert.equal(await ended(child), 1);
      assert.match(stderr, /StorageFull/);
      const found = await newestCheckpoint(folder, (path) => assert.fail(path));
      assert.ok((found?.progress.step ?? 0) >= EVERY, fault);
      assert.deepEqual(
        (await readdir(folder)).filter((name) => name.endsWith('.tmp')),
        [],
      );
      assert.equal(await ended(begin({ folder })), 0);
      await assertSame(folder);
    }
    // Room comes back while it waits.
    const folder = fresh();
    assert.equal(await ended(begin({ folder, storagePausesMs: [1, 1, 1] }, 'file.write=ENOSPC:9-10')), 0);
    await assertSame(folder);
  });

  it('a real full disk', async (t) => {
    const mount = join(dir, 'small-disk');
    await mkdir(mount);
    if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=24k', 'tmpfs', mount]).status !== 0)
      return t.skip('this machine lets nobody mount a small file system here');
    try {
      const folder = join(mount, 'run');
      assert.equal(await ended(begin({ folder, storagePausesMs: [1, 1] })), 1);
      const found = await newestCheckpoint(folder, (path) => assert.fail(path));
      assert.ok((found?.progress.step ?? 0) >= EVERY, 'the checkpoints that had room are whole');
      assert.deepEqual(
        (await readdir(folder)).filter((name) => name.endsWith('.tmp')),
        [],
      );
      assert.equal(spawnSync('mount', ['-o', 'remount,size=400k', mount]).status, 0);
      assert.equal(await ended(begin({ folder })), 0);
      assert.deepEqual(await digestCheckpoint(join(folder, checkpointName(STEPS))), whole.digest);
    } finally {
      spawnSync('umount', [mount]);
    }
  });

  it('SIGTERM: a checkpoint of the step that was made, an exit code of its own, and the same end', async () => {
    const folder = fresh();
    const rng = new Rng(3, 2);
    let stops = 0;
    for (;;) {
      const child = begin({ folder });
      const exit = ended(child);
      const wanted = linesNow(`${folder}.log`) + rng.int(1, 14);
      const watch = setInterval(() => {
        if (linesNow(`${folder}.log`) < wanted) return;
        clearInterval(watch);
        setTimeout(() => child.kill('SIGTERM'), 2 * rng.unit());
      }, 1);
      const code = await exit;
      clearInterval(watch);
      if (code === 0) break;
      assert.equal(code, 3);
      stops++;
      const last = JSON.parse((await logOf(folder)).at(-1) ?? '') as { step: number };
      const found = await newestCheckpoint(folder);
      assert.equal((found?.progress.step ?? 0) + (found?.progress.skipped ?? 0), last.step, 'no step is lost');
    }
    assert.ok(stops >= 1, 'it was stopped at all');
    assert.deepEqual(await logOf(folder), whole.log, 'no step came twice');
    await assertSame(folder);
  });

  it('damage of every kind is seen, and the checkpoint before is used', async () => {
    const rng = new Rng(11, 5);
    for (const kind of CORRUPTIONS) {
      const folder = fresh();
      await cp(join(dir, 'run-0'), folder, { recursive: true });
      const [newest = 0, older] = await checkpointSteps(folder);
      const what = await corrupt(
        join(folder, checkpointName(newest)),
        kind,
        rng,
        join(folder, checkpointName(older ?? 0)),
      );
      const damaged: string[] = [];
      const found = await newestCheckpoint(folder, (path, { message }) => damaged.push(`${path}: ${message}`));
      assert.equal(damaged.length, 1, `${kind}: ${what}`);
      assert.equal(found?.progress.step, older, `${kind}: ${what}`);
      await writeFile(`${folder}.log`, '');
      assert.equal(await ended(begin({ folder })), 0);
      assert.deepEqual(await digestCheckpoint(join(folder, checkpointName(STEPS))), whole.digest, kind);
    }
  });

  it('a build has no fault points', async () => {
    const built = await bundled(SOURCE, join(scripts, 'built'), { 'process.env.MANTIS_FAULT_POINTS': 'undefined' });
    const text = await readFile(built, 'utf8');
    assert.doesNotMatch(text, /MANTIS_FAULT_POINTS|no space left on device/);
    const folder = fresh();
    assert.equal(await ended(begin({ folder }, 'file.write=kill', built)), 0);
    await assertSame(folder);
  });
});
