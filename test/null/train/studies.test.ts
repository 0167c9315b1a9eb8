import assert from 'node:assert/strict';
import { test } from 'node:test';
import { studyFigures, studyMarkdown } from '../../../gpu-backend/cli/study-table.ts';
import { namesAnImage, Questions } from '../../../gpu-backend/train/studies/dialogues.ts';
import { STUDIES } from '../../../gpu-backend/train/studies/questions.ts';
import { STUDY_RECIPE } from '../../../gpu-backend/train/studies/recipe.ts';
import type { ArmResult, StudyResult } from '../../../gpu-backend/train/studies/run.ts';
import type { Study } from '../../../gpu-backend/train/studies/study.ts';

const totals = { steps: 1, dialogues: 1, answerTokens: 1, tokens: 1, cpuS: 1, loss: 1 };

/** Results of a study in which a row's item k is right where `isRight` says so. */
function made(
  study: Study,
  seeds: readonly number[],
  items: number,
  isRight: (row: string, k: number) => boolean,
): StudyResult {
  const arms = seeds.flatMap((seed) =>
    study.arms.map((arm): ArmResult => {
      const rows = study.rows.filter((row) => row.arm === arm.id);
      const answers = Object.fromEntries(
        rows.map((row) => [
          row.id,
          Object.fromEntries(
            study.groups.map((group) => [
              group.id,
              Object.fromEntries(Array.from({ length: items }, (_, k) => [`${group.id}-${k}`, isRight(row.id, k)])),
            ]),
          ),
        ]),
      );
      return { arm: arm.id, seed, totals, answers };
    }),
  );
  return { study, budget: study.defaultBudget, recipe: STUDY_RECIPE, digest: '', start: totals, arms };
}

const studyOf = (id: Parameters<(typeof STUDIES)['get']>[0]): Study => STUDIES.get(id) as Study;

test('accuracy, paired differences and p-values of a table', () => {
  // Of 40 items: `sequence` 30 right, `merged` 20, all of them among the 30.
  const study = studyOf('interleaved');
  const figures = studyFigures(made(study, [1], 40, (row, k) => k < (row === 'sequence' ? 30 : 20)));
  const row = figures.rows.find(({ id }) => id === 'sequence');
  assert.equal(row?.accuracy.reasoning?.mean, 0.75);
  assert.equal(row?.accuracy.all?.items, 120);
  const { reasoning } = figures.comparisons[0]?.groups ?? {};
  assert.equal(reasoning?.difference, 0.25);
  assert.equal(reasoning?.test, 'exact McNemar');
  // Ten discordant pairs, all one way: 2 · 2^-10; two tests in the column.
  assert.ok(Math.abs((reasoning?.pValue ?? 0) - 2 ** -9) < 1e-12);
  assert.ok(Math.abs((reasoning?.adjustedP ?? 0) - 2 ** -8) < 1e-12);
  const markdown = studyMarkdown(figures);
  assert.match(markdown, /\| one by one, asked one by one +\| 75\.0 \(/);
  assert.match(markdown, /\+25\.0 \(\+1\d\.\d to \+\d\d\.\d\), p = 0\.004/);
});

test('answers of several seeds to one item are no independent items', () => {
  const study = studyOf('denotation');
  const isRight = (row: string, k: number): boolean => k < (row === 'bare' ? 20 : 26);
  const one = studyFigures(made(study, [1], 40, isRight)).rows[0]?.accuracy.named;
  const three = studyFigures(made(study, [1, 2, 3], 40, isRight)).rows[0]?.accuracy.named;
  assert.equal(three?.clusters, 40);
  assert.equal(three?.mean, one?.mean);
  assert.ok(Math.abs((three?.standardError ?? 0) - (one?.standardError ?? 1)) < 0.01);
});

test('points per doubling are the least-squares slope over log2 of the data', () => {
  const study = studyOf('data');
  const rights = new Map([
    ['steps-8', 40],
    ['steps-4', 50],
    ['steps-2', 60],
    ['steps-1', 70],
    ['epochs-8', 10],
    ['epochs-4', 40],
    ['epochs-2', 50],
  ]);
  const { fits } = studyFigures(made(study, [1], 100, (row, k) => k < (rights.get(row) ?? 0)));
  assert.ok(Math.abs((fits[0]?.groups.all?.slope ?? 0) - 0.1) < 1e-12);
  // (−1.5 · 10 − 0.5 · 40 + 0.5 · 50 + 1.5 · 70) / 5 points
  assert.ok(Math.abs((fits[1]?.groups.reasoning?.slope ?? 0) - 0.19) < 1e-12);
  const [low, high] = fits[0]?.groups.all?.interval ?? [0, 0];
  assert.ok(low > 0.08 && high < 0.12, `${low} ${high}`);
});

test('arms of a study differ in one thing', () => {
  const mixes = (study: Study) => study.arms.map((arm) => arm.parts(1000).map(({ steps, mix }) => ({ steps, mix })));
  for (const id of ['interleaved', 'denotation'] as const) {
    const [first, second] = mixes(studyOf(id));
    assert.deepEqual(first, second, id);
  }
  const stages = studyOf('stages').arms.map((arm) => arm.parts(1000));
  assert.deepEqual(
    stages[0]?.map(({ moves: _, ...part }) => part),
    stages[1]?.map(({ moves: _, ...part }) => part),
  );
  const cost = (parts: (typeof stages)[number]): number =>
    parts.reduce((sum, { steps, moves }) => sum + steps * (moves === 'projector' ? 2 / 3 : 1), 0);
  assert.ok(Math.abs(cost(stages[0] ?? []) - cost(stages[2] ?? [])) < 1);
  for (const arm of studyOf('data').arms) {
    const steps = arm.parts(800)[0]?.steps ?? 0;
    const [kind, share] = arm.id.split('-');
    assert.equal(steps, kind === 'steps' ? 800 : 800 / Number(share));
    assert.equal(arm.pool?.(800), (800 * 24) / 8 / Number(share));
  }
  for (const study of STUDIES.values()) {
    const rows = new Set(study.rows.map(({ id: row }) => row));
    for (const pair of [...study.comparisons, ...(study.fits ?? []).map(({ points }) => points.map(({ row }) => row))])
      assert.ok(
        pair.every((row) => rows.has(row)),
        `${study.id}: ${pair.join()}`,
      );
    assert.ok(study.rows.every(({ arm }) => study.arms.some(({ id }) => id === arm)));
  }
});

test('held-out questions are the same every time, have answers to choose from, and name images in their share', () => {
  const items = new Questions().heldOut('coreference', 200);
  assert.deepEqual(
    items.map(({ question }) => question),
    new Questions().heldOut('coreference', 200).map(({ question }) => question),
  );
  assert.ok(items.every(({ question: { choices, answer } }) => choices.includes(answer)));
  assert.ok(items.every(({ question }) => namesAnImage(question)));
  const reasoning = new Questions().heldOut('reasoning', 200);
  assert.ok(!reasoning.some(({ question }) => namesAnImage(question)));
  const captions = new Questions().dialogue(3, 5, { caption: 1 });
  assert.equal(captions.boxes.length, 1);
  assert.deepEqual(new Questions().dialogue(3, 5, { caption: 1 }), captions);
});
