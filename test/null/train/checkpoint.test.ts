import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import {
  checkpointSteps,
  loadCheckpoint,
  loadNewestCheckpoint,
  saveCheckpoint,
} from '../../../gpu-backend/train/checkpoint.ts';
import { digestParameters } from '../../../gpu-backend/train/checkpoint-digest.ts';
import { ParameterState } from '../../../gpu-backend/train/state.ts';

const specs = [
  { name: 'b', shape: [3] },
  { name: 'a', shape: [2, 5] },
];

function filled(seed: number): ParameterState {
  const state = new ParameterState(specs, { average: true });
  for (const p of state.parameters) {
    for (const [k, x] of [p.value, p.firstMoment, p.secondMoment, p.average].entries())
      x?.forEach((_, i) => {
        x[i] = seed + k + i / 7;
      });
  }
  return state;
}

test('a checkpoint restores every bit, old ones are removed, damaged ones passed over', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'mantis-checkpoint-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  for (const step of [10, 20, 30])
    await saveCheckpoint(folder, filled(step), { step, skipped: 1, cursor: step * 7 }, { keep: 2 });
  assert.deepEqual(await checkpointSteps(folder), [31, 21], 'numbers count skipped steps too');

  const state = new ParameterState(specs, { average: true });
  const found = await loadNewestCheckpoint(folder, state);
  assert.deepEqual(found?.progress, { step: 30, skipped: 1, cursor: 210 });
  assert.equal(digestParameters(state), digestParameters(filled(30)));
  assert.deepEqual(state.get('a').average, filled(30).get('a').average);
  assert.equal(state.step, 30);

  const path = join(folder, 'step-00000031', 'state.safetensors');
  const bytes = await readFile(path);
  bytes[bytes.length - 3] = (bytes[bytes.length - 3] ?? 0) ^ 1;
  await writeFile(path, bytes);
  const damaged: string[] = [];
  const older = await loadNewestCheckpoint(folder, state, (_path, reason) => damaged.push(reason.message));
  assert.equal(older?.progress.step, 20);
  assert.match(damaged[0] ?? '', /SHA-256 differs/);
});

test('a save that fails leaves nothing behind', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'mantis-checkpoint-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const addFiles = async (): Promise<void> => {
    throw new Error('disk full');
  };
  await assert.rejects(
    saveCheckpoint(folder, filled(1), { step: 1, skipped: 0, cursor: 0 }, { addFiles }),
    /disk full/,
  );
  assert.deepEqual(await readdir(folder), []);
});

test('a checkpoint of other shapes is refused and changes nothing', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'mantis-checkpoint-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const path = await saveCheckpoint(folder, filled(1), { step: 1, skipped: 0, cursor: 0 });
  const other = new ParameterState([
    { name: 'b', shape: [3] },
    { name: 'a', shape: [5, 2] },
  ]);
  await assert.rejects(loadCheckpoint(path, other), /a has shape \[2,5\], this run needs \[5,2\]/);
  assert.equal(other.get('b').value[0], 0);
});
