import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { applyVariant } from '../../../gpu-backend/eval/controls.ts';
import { layOut, wrapTask } from '../../../gpu-backend/eval/options.ts';
import { afterMarker, referenceLetter } from '../../../gpu-backend/eval/parsers/mantis.ts';
import { taskNamed } from '../../../gpu-backend/eval/registry.ts';
import { formPrompt } from '../../../gpu-backend/eval/run/prompt-form.ts';
import { canonicalJson, type EvalPrompt, type EvalRecord, type Json } from '../../../gpu-backend/eval/task.ts';
import { interleave } from '../../../gpu-backend/eval/tasks/layout.ts';
import { sha256Hex } from '../../../gpu-backend/io/digest.ts';

/**
 * Digest of what each version of a task makes of its table: prompts, parsed answers, rules, scores. Another digest under the same version means that reports of
 * one hash would not be comparable: raise the task's version and add a line.
 */
const VERSIONS: Readonly<Record<string, Readonly<Record<number, string>>>> = {
  nlvr2: { 1: 'cc0880561b78cb4b' },
  qbench2: { 1: '552715c9e26b94c8' },
  'mantis-eval': { 1: 'e1f1f449cd1907bc' },
  blink: { 1: 'b67577469cf2c8b2' },
  mvbench: { 1: '7a13f494118d698b' },
};

/** Rows as published, with how many pictures stand where they hold pictures. */
interface CaseTable {
  readonly rows: Readonly<Record<string, { readonly images: number } & Readonly<Record<string, unknown>>>>;
  /** Texts, and pictures by their index. */
  readonly prompts: Readonly<Record<string, readonly (string | number)[]>>;
  /** Row, answer; what the published rules read, the rule's name with us, the score. */
  readonly cases: readonly (readonly [string, string, string | null, string, number])[];
}

const PICTURE =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==';
const folder = await mkdtemp(join(tmpdir(), 'multi-image-'));
after(() => rm(folder, { recursive: true, force: true }));

const shown = (prompt: EvalPrompt) => prompt.parts.map((part) => (typeof part === 'string' ? part : part.image));

async function recordsOf(name: string, table: CaseTable): Promise<ReadonlyMap<string, EvalRecord>> {
  const rows = Object.entries(table.rows).map(([id, { images, ...row }]) => {
    if (name !== 'blink') return { id, ...row, images: Array(images).fill(PICTURE) };
    return { ...row, ...Object.fromEntries(Array.from({ length: images }, (_, i) => [`image_${i + 1}`, PICTURE])) };
  });
  const path = join(folder, `${name}.json`);
  await writeFile(path, JSON.stringify(rows));
  const opened = await taskNamed(name).open({ paths: [path] });
  const records = new Map<string, EvalRecord>();
  for (const [i, id] of Object.keys(table.rows).entries()) records.set(id, await opened.get(i));
  await opened.close();
  return records;
}

const tables = await Promise.all(
  Object.keys(VERSIONS).map(async (name) => {
    const path = new URL(`../../fixtures/eval/${name}.json`, import.meta.url);
    const table = JSON.parse(readFileSync(path, 'utf8')) as CaseTable;
    return { name, table, records: await recordsOf(name, table) };
  }),
);

for (const { name, table, records } of tables) {
  const task = taskNamed(name);
  const recordOf = (id: string): EvalRecord => {
    const record = records.get(id);
    assert.ok(record, `there is no row ${id}`);
    return record;
  };

  test(`${name}: ${table.cases.length} answers are read and scored by the published rules`, () => {
    assert.ok(table.cases.length >= 60, `expected at least 60 cases, there are ${table.cases.length}`);
    for (const [id, answer, parsed, rule, score] of table.cases)
      assert.deepEqual(task.score(answer, recordOf(id)), { score, parsed, rule }, `${id}: ${JSON.stringify(answer)}`);
  });

  test(`${name}: prompts are the published ones`, () => {
    for (const id of Object.keys(table.rows)) assert.deepEqual(shown(task.prompt(recordOf(id))), table.prompts[id]);
  });

  test(`${name}: version ${task.version} does what it did`, () => {
    const outcomes: Json = {
      prompts: Object.keys(table.rows).map((id) => shown(task.prompt(recordOf(id)))),
      scored: table.cases.map(([id, answer]) => ({ ...task.score(answer, recordOf(id)) })),
      aggregate: task.aggregate,
      maxTokens: task.prompt(recordOf(Object.keys(table.rows)[0] ?? '')).maxTokens,
    };
    assert.equal(sha256Hex(canonicalJson(outcomes)).slice(0, 16), VERSIONS[name]?.[task.version]);
  });

  test(`${name}: a record without a reference counts in nothing`, () => {
    const [id = ''] = Object.keys(table.rows);
    const { score, rule } = task.score('', { ...recordOf(id), answers: [] });
    assert.deepEqual([score, rule], [0, 'no reference']);
  });

  test(`${name}: options that have moved on are asked in their places, and the letter that moved with the right one is right`, async () => {
    const { options, answers } = recordOf(Object.keys(table.rows)[0] ?? '');
    assert.ok(options.length > 1);
    const { record, prompt } = await applyVariant(task, recordOf(Object.keys(table.rows)[0] ?? ''), {
      control: 'none',
      optionRotation: 1,
    });
    const place = (referenceLetter(answers[0] ?? '') ?? '').charCodeAt(0) - 65;
    const moved = String.fromCharCode(65 + ((place + 1) % options.length));
    assert.equal(task.score(moved, record).score, 1);
    const text = prompt.parts.filter((part) => typeof part === 'string').join('');
    const lines = text.split('\n').map((line) => line.trim());
    const right = options[place] ?? '';
    assert.ok(
      [`(${moved}) ${right}`, `${moved}. ${right}`].some((line) => lines.includes(line)),
      `expected ${right} as option ${moved} in ${text}`,
    );
  });
}

test('the letter of a reference is the one that the published rule finds', () => {
  const references = ['B', '(B)', ' (b)\n', 'B. two', '(C) both', '12 d', '', '()', '(12)'];
  assert.deepEqual(references.map(referenceLetter), ['B', 'B', 'b', 'B', 'C', 'd', null, null, null]);
});

test('text after a marker is cut where characters grow when lowered', () => {
  // Lower-case "İ" is two characters, so that the published program cuts one too late.
  assert.deepEqual(afterMarker('İ Answer: AB'), { text: 'AB', rule: 'answer:' });
  assert.deepEqual(afterMarker('😀 answer: B'), { text: 'B', rule: 'answer:' });
});

test('placeholders that are too few stand in front, those that are too many vanish', () => {
  assert.deepEqual(interleave('a <image> b', 3), [{ image: 0 }, { image: 1 }, 'a ', { image: 2 }, ' b']);
  assert.deepEqual(interleave('<image>a<image>b<image>', 1), [{ image: 0 }, 'a', 'b']);
  assert.deepEqual(interleave('<image>\n <image>', 2), [{ image: 0 }, { image: 1 }]);
});

test('a model of one picture is asked without marks, and other tasks as one text', () => {
  const [mantis, blink] = ['mantis-eval', 'blink'].map((name) => {
    const found = tables.find((table) => table.name === name);
    const [id = ''] = name === 'blink' ? ['depth'] : ['dots'];
    return formPrompt(taskNamed(name).prompt(found?.records.get(id) as EvalRecord), { mode: 'merge' });
  });
  assert.deepEqual(mantis?.parts, [
    { image: 0 },
    "Between and , what changed?\n A. Colour\n B. Shape\n C. Size\n D. Nothing\nAnswer with the option's letter from the given choices directly.",
  ]);
  assert.match(String(blink?.parts[1]), /\(B\) B is closer\n$/);
});

test('layouts: a space after every picture, or all pictures first and texts joined by newlines', () => {
  const parts = [{ image: 0 }, { image: 1 }, ' Which?', { image: 2 }];
  assert.deepEqual(layOut(parts, 'llava'), [{ image: 0 }, ' ', { image: 1 }, '  Which?', { image: 2 }, ' ']);
  assert.deepEqual(layOut(['a', { image: 0 }, 'b'], 'pictures-first'), [{ image: 0 }, 'a\nb']);
  const task = taskNamed('mantis-eval');
  assert.equal(wrapTask(task, {}), task);
  const wrapped = taskNamed('mantis-eval', { layout: 'pictures-first', maxTokens: 64 });
  assert.deepEqual([wrapped.protocol.layout, wrapped.protocol.maxTokens], ['pictures-first', 64]);
  assert.throws(() => taskNamed('mantis-eval', { maxTokens: 0 }), /maxTokens: expected/);
});
