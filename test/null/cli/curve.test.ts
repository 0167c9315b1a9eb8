import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { lossCurve } from '../../../gpu-backend/cli/curve.ts';
import { JobScreen, type Screen } from '../../../gpu-backend/cli/follow.ts';
import { JobView } from '../../../gpu-backend/cli/job-view.ts';

const ESC = '\u001b';

/** What a terminal shows after the text: lines, with the cursor moved up and what is below deleted. */
function terminal(text: string): string[] {
  const lines: string[] = [];
  let row = 0;
  for (const [l, line] of text.split('\n').entries()) {
    if (l > 0) row++;
    for (const [i, piece] of line.split(`${ESC}[`).entries()) {
      // Behind an escape: `4A` moves up four lines, `J` deletes what is below; then text.
      const up = i === 0 ? null : /^(\d+)A/.exec(piece);
      const below = i > 0 && piece.startsWith('J');
      if (up !== null) row -= Number(up[1]);
      if (below) lines.length = row;
      const shown = piece.slice(up?.[0].length ?? (below ? 1 : 0));
      if (shown !== '') lines[row] = (lines[row] ?? '') + shown;
    }
  }
  return lines;
}

test('a falling loss is a falling line, with validation on it and axes around', () => {
  const train = [1, 2, 3, 4, 5, 6].map((step) => ({ step, value: 2 / step }));
  assert.deepEqual(lossCurve(train, [{ step: 6, value: 1 }], { columns: 36, rows: 8 }), [
    '2.000 ┤⠱⡀',
    '      │ ⠘⢄',
    '      │   ⠣⡀',
    '1.167 ┤    ⠑⡄',
    '      │     ⠈⠒⠤⣀                   ◆',
    '      │         ⠉⠒⠤⠤⣀⣀⣀',
    '0.333 ┤                ⠉⠉⠑⠒⠒⠢⠤⠤⠤⠤⣀⣀⣀',
    '      └1─────────────4─────────────6',
  ]);
});

test('any losses fit the space they are given', () => {
  const point = fc.record({ step: fc.integer({ min: 1, max: 500 }), value: fc.double({ min: -10, max: 1e6 }) });
  fc.assert(
    fc.property(
      fc.array(point, { maxLength: 60 }),
      fc.array(point, { maxLength: 5 }),
      fc.integer({ min: 30, max: 120 }),
      fc.integer({ min: 4, max: 20 }),
      (train, validation, columns, rows) => {
        const lines = lossCurve(train, validation, { columns, rows });
        const hasPoints = [...train, ...validation].some(({ value }) => Number.isFinite(value));
        assert.equal(lines.length, hasPoints ? rows : 0);
        for (const line of lines) assert.ok(line.length <= columns, `${line.length} > ${columns}: ${line}`);
      },
    ),
  );
});

const metrics = (step: number) => ({
  step,
  total_steps: 40,
  stage: 1,
  train: 'lora',
  epoch: 2,
  train_loss: 1 + 4 / step,
  train_mean_token_accuracy: 0.25,
  learning_rate: 2e-4,
  grad_norm: 0.5,
  tokens_per_second: 1234.5,
  ...(step % 10 === 0 ? { full_valid_loss: 1.2 + 4 / step } : {}),
});

function screenOf(isTTY: boolean): Screen & { text: string } {
  return {
    text: '',
    isTTY,
    columns: 80,
    rows: 16,
    color: false,
    write(text) {
      this.text += text;
    },
  };
}

test('on a terminal the picture is drawn in place, under messages that stay', () => {
  const view = new JobView();
  const screen = screenOf(true);
  let nowMs = 0;
  const shown = new JobScreen(view, screen, () => nowMs);
  shown.message('started');
  for (let step = 1; step <= 20; step++) {
    view.add(metrics(step), 1000 + 3 * step);
    nowMs += 60;
    shown.update();
    if (step === 10) shown.message('Checkpoint of step 10 saved.');
  }
  shown.end();
  const lines = terminal(screen.text);
  assert.deepEqual(lines.slice(0, 2), ['started', 'Checkpoint of step 10 saved.']);
  assert.equal(lines[2], 'loss: training ⠤⠒ 1.2000, validation ◆ 1.4000');
  assert.ok(lines.some((line) => /[┤│].*◆/.test(line)));
  assert.equal(lines.at(-2), '[████████████████████····················] step 20/40 50 % 60 s left');
  assert.equal(lines.at(-1), 'stage 2 lora · epoch 2 · accuracy 25.0 % · rate 2.00e-4 · 1,235 tokens/s');
  assert.ok(lines.length <= 16, `${lines.length} lines`);
});

test('elsewhere there is a line every few seconds, and one at the end', () => {
  const view = new JobView();
  const screen = screenOf(false);
  let nowMs = 0;
  const shown = new JobScreen(view, screen, () => nowMs);
  for (let step = 1; step <= 40; step++) {
    view.add(metrics(step), 1000 + step);
    nowMs += 1_000;
    shown.update();
  }
  shown.end();
  const lines = screen.text.trimEnd().split('\n');
  assert.equal(lines.length, 9);
  assert.match(lines[0] ?? '', /^step 1\/40 2 % loss 5\.0000, stage 2 lora/);
  assert.match(lines.at(-1) ?? '', /^step 40\/40 100 % loss 1\.1000, validation ◆ 1\.3000/);
});

test('where a stage begins is marked on the axis', () => {
  const view = new JobView();
  for (let step = 1; step <= 40; step++) view.add({ ...metrics(step), stage: step <= 30 ? 0 : 1 }, step);
  const axis = view.render({ columns: 60, rows: 12, color: false }).find((line) => line.includes('└')) ?? '';
  const [left, right] = [axis.indexOf('└') + 1, axis.length - 1];
  assert.ok(Math.abs((axis.indexOf('┴') - left) / (right - left) - 30 / 39) < 0.03, axis);
  assert.equal(axis.split('┴').length, 2);
});

test('a job that goes back to a checkpoint is drawn once', () => {
  const view = new JobView();
  for (const step of [1, 2, 3, 4, 5, 3, 4]) view.add(metrics(step), step);
  assert.deepEqual(
    view.train.map(({ step }) => step),
    [1, 2, 3, 4],
  );
  assert.deepEqual(view.progress, { step: 4, totalSteps: 40 });
});

test('what checkpoints answer right is a line of its own, and says nothing of how far the job is', () => {
  const view = new JobView();
  for (let step = 1; step <= 20; step++) {
    view.add(metrics(step), step);
    if (step % 5 === 0)
      view.add(
        {
          step,
          total_steps: 40,
          eval_accuracy: [0, 0.5, 0.99, 0.75][step / 5 - 1],
          eval_interval: [0.25, 1],
          eval_examples: 12,
          eval_base_accuracy: 0.125,
        },
        step,
      );
  }
  assert.deepEqual(view.progress, { step: 20, totalSteps: 40 });
  assert.equal(view.train.length, 20, 'no point of the curve is taken back');
  const words = 'held out 75.0 % (25.0 % … 100.0 %) of 12, before 12.5 %, best at step 15';
  const lines = view.render({ columns: 90, rows: 12, color: false });
  assert.ok(lines.includes(`▁▅█▇ ${words}`), lines.join('\n'));
  assert.ok(lines.length <= 12);
  assert.ok(view.line().endsWith(words));
});
