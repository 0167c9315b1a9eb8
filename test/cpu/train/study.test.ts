import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { mergePictures } from '../../../gpu-backend/eval/run/merge.ts';
import type { StudyOptions } from '../../../gpu-backend/train/studies/bench.ts';
import type { Form } from '../../../gpu-backend/train/studies/forms.ts';
import { STUDIES } from '../../../gpu-backend/train/studies/questions.ts';
import { STUDY_RECIPE } from '../../../gpu-backend/train/studies/recipe.ts';
import { runStudy, type StudyResult } from '../../../gpu-backend/train/studies/run.ts';
import type { Arm, Study } from '../../../gpu-backend/train/studies/study.ts';

const modelDir = fileURLToPath(new URL('../../../gpu-backend/models/nano', import.meta.url));
const BARE: Form = { pictures: 'sequence', denotation: 'bare' };
const recipe = {
  ...STUDY_RECIPE,
  model: { hidden: 16, layers: 1, heads: 2, kvHeads: 2, intermediate: 32 },
};

/** The first step about single pictures: what is behind a stop inside the second part must be that part's. */
const inTwoParts = (arm: Arm): Arm => ({
  ...arm,
  parts: (steps) => [{ steps: 1, mix: { caption: 1 }, form: BARE, moves: 'all' }, ...arm.parts(steps - 1)],
});

/** A study of the product at a budget of seconds. */
function small(out: string, study: Study): StudyOptions {
  return {
    study: { ...study, stepSize: { dialogues: 2 }, arms: study.arms.map(inTwoParts) },
    out,
    modelDir,
    budget: { steps: 4, startSteps: 1, items: 3 },
    seeds: [1],
    threads: 1,
    merge: mergePictures,
    recipe,
  };
}

const comparable = (result: StudyResult | undefined): unknown =>
  result?.arms.map(({ arm, seed, answers, totals: { cpuS: _, ...totals } }) => ({ arm, seed, answers, totals }));

test('a study that was stopped inside an arm goes on to the same answers, and does no finished arm again', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-study-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const study = STUDIES.get('interleaved') as Study;
  const whole = small(join(dir, 'whole'), study);
  const expected = await runStudy(whole);
  assert.equal(expected?.arms.length, 2);
  assert.deepEqual(Object.keys(expected.arms[0]?.answers ?? {}), ['sequence', 'sequence-merged']);
  assert.equal(expected.arms[0]?.totals.dialogues, 8);

  const cut = small(join(dir, 'cut'), study);
  const stop = new AbortController();
  const first = await runStudy({
    ...cut,
    signal: stop.signal,
    onStep: (what, step) => {
      if (what.startsWith('pasted') && step === 2) stop.abort();
    },
  });
  assert.equal(first, undefined);
  const folder = join(cut.out, 'interleaved');
  const finished = join(folder, 'sequence-seed-1.json');
  const before = (await stat(finished)).mtimeMs;
  const steps: string[] = [];
  const second = await runStudy({ ...cut, onStep: (what, step) => steps.push(`${what} ${step}`) });
  assert.deepEqual(steps, ['pasted into one, seed 1 3', 'pasted into one, seed 1 4']);
  assert.equal((await stat(finished)).mtimeMs, before);
  assert.deepEqual(comparable(second), comparable(expected));
  // No checkpoint stays behind what is done.
  assert.deepEqual((await readdir(folder)).sort(), ['merged-seed-1.json', 'sequence-seed-1.json', 'study.json']);

  await assert.rejects(runStudy({ ...cut, budget: { ...cut.budget, steps: 5 } }), /other settings .*"steps":4/);

  // The projector's stage moves nothing else: without a second stage all others are the start's.
  const moved = new Map<string, boolean>();
  const stages = STUDIES.get('stages') as Study;
  const alone: Arm = {
    id: 'two',
    title: 'two',
    parts: () => [{ steps: 2, mix: { caption: 1 }, form: BARE, moves: 'projector' }],
  };
  const options = small(join(dir, 'whole'), stages);
  await runStudy({
    ...options,
    study: { ...options.study, arms: [alone], rows: stages.rows.slice(0, 1), comparisons: [] },
    onTrained: (start, state) => {
      for (const { name, value } of state.parameters)
        moved.set(
          name,
          value.some((x, i) => x !== (start.get(name) as Float32Array)[i]),
        );
    },
  });
  const movedNames = [...moved].filter(([, did]) => did).map(([name]) => name);
  assert.deepEqual(
    movedNames.sort(),
    [...moved.keys()].filter((name) => name.startsWith('multi_modal_projector.')).sort(),
  );
  assert.equal(movedNames.length, 4);
});
