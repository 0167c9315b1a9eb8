import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseTokenizer } from '../../../gpu-backend/text/tokenizer.ts';
import { NanoData, nanoData, nanoLayout } from '../../../gpu-backend/train/nano/data.ts';
import { DataThreads } from '../../../gpu-backend/train/nano/data-threads.ts';
import { randomSet } from '../../../gpu-backend/train/nano/generate.ts';
import { Rng } from '../../../gpu-backend/train/nano/random.ts';
import { partsOf, realDataOf } from '../../../gpu-backend/train/nano/real.ts';
import { NANO_CONTINUED } from '../../../gpu-backend/train/nano/recipe.ts';

const NANO = join(import.meta.dirname, '../../../gpu-backend/models/nano');
const tokenizerJson: unknown = JSON.parse(readFileSync(join(NANO, 'tokenizer.json'), 'utf8'));
const recipe = { ...NANO_CONTINUED, dialogues: 3 };
const spec = { recipe, seed: 5, isContinued: true };
const STEPS = 5;

/** As NLVR's, of generated boxes. */
const rng = new Rng(3, 1);
const sets = Array.from({ length: 4 }, () => randomSet(rng, 'scatter', 3));
const real = realDataOf({
  sets,
  statements: sets.map((boxes) => ({ statement: 'there is a blue circle', label: true, boxes, weight: 1 })),
  sentences: [{ statement: 'There is a box with 2 blue circles.', kind: 'scatter' }],
});

test('threads make the data that one thread makes, step by step and from any step on', async (t) => {
  const layout = nanoLayout(recipe, parseTokenizer(tokenizerJson));
  // The run grows while it goes on: a new length holds from the place at which it is planned.
  const totalAt = (cursor: number): number => (cursor < 6 ? 30 : 60);
  const alone = nanoData(new NanoData(spec, real, layout), recipe.dialogues, totalAt);
  const threads = new DataThreads({ spec, real: partsOf(real), tokenizerJson }, 2);
  t.after(() => threads.close());
  for (const first of [0, 9]) {
    const source = threads.source(recipe.dialogues, totalAt);
    let cursor = first;
    for (let step = 0; step < STEPS; step++) {
      const [want, got] = [await alone.next(cursor), await source.next(cursor)];
      assert.deepEqual(got, want, `step ${step} from dialogue ${first}`);
      cursor = got.cursor;
    }
    assert.equal(cursor, first + STEPS * recipe.dialogues);
  }
});

test('a thread that cannot start is an error where its data are asked for', async (t) => {
  const threads = new DataThreads({ spec, real: undefined, tokenizerJson: {} }, 1);
  t.after(() => threads.close());
  const source = threads.source(recipe.dialogues, () => 30);
  await assert.rejects(() => source.next(0));
});
