import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { variantsFor } from '../../../gpu-backend/eval/controls.ts';
import { taskNamed } from '../../../gpu-backend/eval/registry.ts';
import type { EvalPrompt, EvalRecord, EvalSource, EvalTask } from '../../../gpu-backend/eval/task.ts';
import { blinkTasks } from '../../../gpu-backend/eval/tasks/blink.ts';
import { frameNumbers, mvBenchTasks } from '../../../gpu-backend/eval/tasks/mvbench-frames.ts';
import { skillsTask } from '../../../gpu-backend/eval/tasks/skills.ts';
import { sha256Hex } from '../../../gpu-backend/io/digest.ts';
import { asPicture, type Column, drawPicture, writeParquet } from '../../fixtures/published-forms.ts';

const root = await mkdtemp(join(tmpdir(), 'published-'));
after(() => rm(root, { recursive: true, force: true }));
const PICTURES = await Promise.all(Array.from({ length: 10 }, (_, i) => drawPicture(i, i === 3 ? 'jpeg' : 'png')));
const picture = (i: number): Buffer => PICTURES[i] as Buffer;
const digest = (i: number): string => sha256Hex(picture(i));
const at = (path: string): string => join(root, path);

async function put(path: string, content: string | Uint8Array): Promise<void> {
  await mkdir(dirname(at(path)), { recursive: true });
  await writeFile(at(path), content);
}

async function putParquet(path: string, columns: readonly Column[]): Promise<void> {
  await mkdir(dirname(at(path)), { recursive: true });
  await writeParquet(at(path), columns);
}

interface Read {
  readonly records: readonly EvalRecord[];
  readonly digest: string;
  readonly prompts: readonly EvalPrompt[];
  readonly task: EvalTask;
}

/** Opens a task on files, reads every record with its pictures, and closes it. */
async function read(name: string, path: string, more: Partial<EvalSource> = {}): Promise<Read> {
  const task = taskNamed(name);
  const opened = await task.open({ paths: [at(path)], ...more });
  const records: EvalRecord[] = [];
  for (let i = 0; i < opened.length; i++) {
    const record = await opened.get(i);
    for (const image of record.images) assert.equal(sha256Hex(await image.bytes()), image.sha256);
    records.push(record);
  }
  await opened.close();
  return { records, digest: opened.digest, prompts: records.map((record) => task.prompt(record)), task };
}

const digests = (record: EvalRecord | undefined): string[] => record?.images.map(({ sha256 }) => sha256) ?? [];
const textOf = (prompt: EvalPrompt | undefined): string =>
  prompt?.parts.map((part) => (typeof part === 'string' ? part : `<${part.image}>`)).join('') ?? '';
const refused = (name: string, path: string, message: RegExp, more?: Partial<EvalSource>) =>
  assert.rejects(read(name, path, more), message);

/** Columns of the Mantis form. */
const mantisRows = (rows: readonly Readonly<Record<string, unknown>>[]): Column[] => [
  ['id', 'text', rows.map(({ id }) => id)],
  ['question_type', 'text', rows.map(({ question_type }) => question_type ?? 'multi-choice')],
  ['question', 'text', rows.map(({ question }) => question ?? 'Which?')],
  ['images', 'pictures', rows.map(({ images }) => (images as number[]).map((i) => asPicture(picture(i))))],
  ['options', 'texts', rows.map(({ options }) => options ?? ['(A) Image 1', '(B) Image 2'])],
  ['answer', 'text', rows.map(({ answer }) => answer)],
  ['data_source', 'text', rows.map(() => 'human')],
  ['category', 'text', rows.map(({ category }) => category ?? 'difference')],
];

const SHARD = 'mantis_eval/test-00000-of-00001.parquet';

test('Mantis-Eval: the published file, in Parquet and in JSON', async () => {
  const rows = [
    { id: 'cw_1', images: [0, 1], answer: '(B)' },
    { id: 'cw_2', images: [2, 1, 0], answer: 'two', question_type: 'short-answer', options: [], category: 'counting' },
  ];
  await putParquet(`mantis/${SHARD}`, mantisRows(rows));
  const { records, prompts, digest: first, task } = await read('mantis-eval', 'mantis');
  assert.deepEqual(records.map(digests), [
    [digest(0), digest(1)],
    [digest(2), digest(1), digest(0)],
  ]);
  assert.deepEqual(records[0]?.options, ['Image 1', 'Image 2']);
  assert.equal(records[1]?.category, 'counting');
  assert.equal(
    textOf(prompts[0]),
    "<0><1>Which?\n (A) Image 1\n (B) Image 2\nAnswer with the option's letter from the given choices directly.",
  );
  assert.deepEqual(
    [task.score('B', records[0] as EvalRecord).score, task.score('Final Answer: Two', records[1] as EvalRecord).score],
    [1, 1],
  );

  const json = rows.map(({ images, ...row }) => ({
    question_type: 'multi-choice',
    question: 'Which?',
    options: ['(A) Image 1', '(B) Image 2'],
    data_source: 'human',
    category: 'difference',
    ...row,
    images: images.map((i) => `images/${i}.png`),
  }));
  await put('mantis-json/test.json', JSON.stringify(json));
  for (const i of [0, 1, 2]) await put(`mantis-json/images/${i}.png`, picture(i));
  assert.equal((await read('mantis-eval', 'mantis-json')).digest, first);
  const limited = await read('mantis-eval', 'mantis-json', { limit: 1 });
  assert.equal(limited.records.length, 1);
  assert.notEqual(limited.digest, first);
  await put('mantis-json/images/0.png', picture(4));
  assert.notEqual((await read('mantis-eval', 'mantis-json')).digest, first);
});

test('a bad row is named by file, row and column; files that are not there by their names', async () => {
  const bad = async (row: Record<string, unknown>, message: RegExp) => {
    const whole = { id: 'a', question_type: 'multi-choice', question: 'q', options: ['x', 'y'], answer: 'A' };
    const first = { ...whole, id: 'first', images: ['p.png'] };
    await put('bad/test.json', JSON.stringify([first, { ...whole, images: ['p.png'], ...row }]));
    await refused('mantis-eval', 'bad', message);
  };
  await put('bad/p.png', picture(0));
  await put('bad/text.png', 'not a picture');
  await put('outside.png', picture(1));
  await symlink(at('outside.png'), at('bad/link.png'));
  await bad({ question: 7 }, /^Error: test\.json, row 2, column `question`: expected text, received 7/);
  await bad({ question_type: 'essay' }, /row 2, column `question_type`: expected "multi-choice" or "short-answer"/);
  await bad({ options: 'x' }, /row 2, column `options`: expected a list, received "x"/);
  await bad({ answer: '7' }, /row 2, column `answer`: expected an answer that holds a letter, received "7"/);
  await bad({ answer: 'Z' }, /row 2, column `answer`: expected a letter from A to B, received "Z"/);
  await bad({ answer: undefined }, /row 2, column `answer`: expected a column of answers .*, received nothing/);
  await bad(
    { id: 'first' },
    /^Error: test\.json, row 2: expected an id of its own, "first" is also that of test\.json, row 1/,
  );
  await refused('nlvr2', 'bad/test.json', /row 1, column `options`: expected True and False/);
  await put('bad/p.png', picture(0).subarray(0, 60));
  await bad(
    {},
    /row 1, column `images`, picture 1: expected a whole picture, received a PNG of 60 bytes that is cut off/,
  );
  await put('bad/p.png', picture(0));
  await bad({ images: ['none.png'] }, /column `images`, picture 1: expected the picture "none\.png" under /);
  await bad({ images: ['p.png', '../outside.png'] }, /picture 2: the picture "\.\.\/outside\.png" leads out of /);
  await bad({ images: ['link.png'] }, /leads out of /);
  await bad({ images: ['text.png'] }, /expected a JPEG, PNG, WebP, GIF or AVIF picture, received 13 bytes that begin/);
  await bad({ images: ['data:image/png;base64,!!'] }, /expected base64, received other characters/);
  await bad({ images: [{ path: null }] }, /expected a picture \(bytes, \{bytes, path\}, base64 or a path\)/);
  await put('bad/test.json', '[{"id": 1}, 7]');
  await refused('mantis-eval', 'bad', /test\.json, row 1, column `question_type`/);
  await put('bad/test.json', '[');
  await refused('mantis-eval', 'bad', /the file ends within record 1/);
  await put('bad/test.json', '[]');
  await refused('mantis-eval', 'bad', /expected at least one record in /);
  await refused('mantis-eval', 'nowhere', /expected Mantis-Eval as published .*: .*nowhere does not exist/);
  await refused('mantis-eval', 'bad', /of the split `val` .*; it holds other files: /, { split: 'val' });
  await put('bad/test.json', '');
  await refused('mantis-eval', 'bad', /test\.json: expected rows, the file is empty/);
  await put('pointer/test-00000-of-00001.parquet', 'version https://git-lfs.github.com/spec/v1');
  await refused('mantis-eval', 'pointer', /expected a Parquet file, .* begin with "vers"/);
});

test('NLVR2: published shards, all of them; and the files of its authors with their pictures', async () => {
  const row = (id: string, images: number[]) => ({
    id,
    images,
    question: '<image><image> Here is a statement about the images. Is it true or false?\nTwo dogs.',
    options: ['(A) False', '(B) True'],
    answer: 'B',
  });
  await putParquet('nlvr2/nlvr2/test-00000-of-00002.parquet', mantisRows([row('test1-0-1-0', [0, 1])]));
  await refused('nlvr2', 'nlvr2', /1 of 2 shards are there; missing: 1\. Fetch them/);
  assert.equal((await read('nlvr2', 'nlvr2', { limit: 1 })).records.length, 1);
  await putParquet('nlvr2/nlvr2/test-00001-of-00002.parquet', mantisRows([row('test1-0-2-0', [2, 1])]));
  const { records } = await read('nlvr2', 'nlvr2');
  assert.deepEqual(
    records.map(({ id, group }) => [id, group]),
    [
      ['test1-0-1-0', 'test1-0'],
      ['test1-0-2-0', 'test1-0'],
    ],
  );

  const line = (identifier: string, label: string) =>
    JSON.stringify({ identifier, sentence: 'Two dogs.', label, synset: 'dog', query: 'dogs' });
  const ids = ['test1-0-1-0', 'test1-0-1-1', 'test1-7-0-0', 'test1-9-0-0'];
  await put('authors/test1.json', ids.map((id, i) => line(id, i % 2 === 0 ? 'True' : 'False')).join('\n'));
  await refused(
    'nlvr2',
    'authors',
    /test1\.json, row 1, column `identifier`: expected its picture as test1-0-1-img0\.png or test1\/test1-0-1-img0\.png/,
  );
  for (const pair of ['test1-0-1', 'test1-7-0', 'test1-9-0'])
    for (const side of [0, 1]) await put(`authors/test1/${pair}-img${side}.png`, picture(side));
  const authors = await read('nlvr2', 'authors');
  const asked = authors.records.map(({ options, answers }) => options[(answers[0] ?? '').charCodeAt(0) - 65]);
  assert.deepEqual(asked, ['True', 'False', 'True', 'False']);
  assert.equal(new Set(authors.records.map(({ options }) => options[0])).size, 2);
  assert.match(textOf(authors.prompts[0]), /^<0><1> Here is a statement .*\nTwo dogs\.\n \(A\) (True|False)\n \(B\) /);
});

test('Q-Bench2: lines with single pictures, the prepared file and Parquet ask the same', async () => {
  const candidates = ['More blurry', 'Clearer', 'About the same'];
  const line = {
    type: 2,
    concern: 0,
    question: 'Compared to the first image, how is the clarity of the second image?',
    img_path: 'llvisionqa_compare_dev\\00079.jpg_cat_09769.jpg.jpg',
    candidates,
    correct_ans: 'Clearer',
    correct_choice: 'B',
  };
  await put('qbench2/q-bench2-a1-dev.jsonl', JSON.stringify(line));
  await put('qbench2/all_single_images/00079.jpg', picture(3));
  await put('qbench2/all_single_images/09769.jpg', picture(1));
  const lines = await read('qbench2', 'qbench2');
  assert.deepEqual(digests(lines.records[0]), [digest(3), digest(1)]);
  assert.equal(
    textOf(lines.prompts[0]),
    `<0><1>${line.question}\n (A) More blurry\n (B) Clearer\n (C) About the same\nAnswer with the option's letter from the given choices directly.`,
  );
  const prepared = {
    id: 'qbench2-a1-0',
    question_type: 'multi-choice',
    question: line.question,
    images: ['all_single_images/00079.jpg', 'all_single_images/09769.jpg'],
    options: candidates.map((candidate, i) => `(${'ABC'[i]}) ${candidate}`),
    answer: 'B',
    data_source: 'q-bench2-a1-pair-dev',
    category: 'low level visual comparison',
  };
  await put('qbench2/q-bench2-a1-pair-dev.json', JSON.stringify([prepared]));
  const again = await read('qbench2', 'qbench2');
  assert.equal(again.records.length, 1);
  assert.deepEqual(again.prompts[0]?.parts, lines.prompts[0]?.parts);
  await putParquet('qbench2-hf/data/dev-00000-of-00001.parquet', [
    ['id', 'int', [0]],
    ['image1', 'picture', [asPicture(picture(3))]],
    ['image2', 'picture', [asPicture(picture(1))]],
    ['question', 'text', [line.question]],
    ...[...candidates, 'N/A'].map((option, i): Column => [`option${i}`, 'text', [option]]),
    ['question_type', 'int', [2]],
    ['question_concern', 'int', [0]],
    ['correct_choice', 'text', ['B']],
  ]);
  const parquet = await read('qbench2', 'qbench2-hf');
  assert.deepEqual(parquet.prompts[0]?.parts, lines.prompts[0]?.parts);
  assert.deepEqual(parquet.records[0]?.answers, ['B']);
  await put('qbench2-test/q-bench2-a1-test.jsonl', JSON.stringify({ ...line, correct_choice: undefined }));
  const hidden = await read('qbench2', 'qbench2-test', { split: 'test', imageFolder: at('qbench2') });
  assert.deepEqual(hidden.records[0]?.answers, []);
  assert.equal(hidden.task.score('B', hidden.records[0] as EvalRecord).rule, 'no reference');
});

test('BLINK: all 14 configurations, 1 to 4 pictures; hidden answers; what is missing', async () => {
  const config = async (folder: string, task: string, split = 'val') => {
    const count = (blinkTasks.indexOf(task as (typeof blinkTasks)[number]) % 4) + 1;
    const choices = ['yes', 'no', 'both'].slice(0, 2 + (count % 2));
    const lines = choices.map((choice, i) => `(${'ABC'[i]}) ${choice}`).join('\n');
    await putParquet(`${folder}/${task}/${split}-00000-of-00001.parquet`, [
      ['idx', 'text', [`${split}_${task}_1`, `${split}_${task}_2`]],
      ['question', 'text', ['Is it?', 'Is it?']],
      ['sub_task', 'text', [task, task]],
      ...[1, 2, 3, 4].map((k): Column => {
        const shown = k <= count ? asPicture(picture(k)) : null;
        return [`image_${k}`, 'picture', [shown, shown]];
      }),
      ['choices', 'texts', [choices, choices]],
      ['answer', 'text', split === 'val' ? ['(A)', '(B)'] : ['hidden', 'hidden']],
      ['prompt', 'text', Array(2).fill(`Is it?\nSelect from the following choices.\n${lines}`)],
    ]);
  };
  for (const task of blinkTasks.slice(1)) await config('blink', task);
  await config('blink', 'Counting', 'test');
  await refused('blink', 'blink', /expected val files of all 14 tasks of BLINK in .*, missing: Art_Style\. Fetch them/);
  await config('blink', 'Art_Style');
  const { records, prompts, task } = await read('blink', 'blink');
  assert.equal(task.aggregate, 'categories');
  assert.deepEqual([...new Set(records.map(({ category }) => category))], blinkTasks);
  assert.deepEqual(
    records.slice(0, 8).map(({ images }) => images.length),
    [1, 1, 2, 2, 3, 3, 4, 4],
  );
  assert.match(textOf(prompts[0]), /^<0>Disclaimer: .*\n\nIs it\?\nSelect from the following choices\.\n\(A\) yes/);
  assert.equal(textOf(prompts[2]), '<0><1>Is it?\nSelect from the following choices.\n(A) yes\n(B) no');
  const record = records[2] as EvalRecord;
  assert.equal(task.extraction?.('(A)', record), null);
  assert.match(
    textOf(task.extraction?.('I think it is not.', record) ?? undefined),
    /\(Z\) none\nAnswer: I think it is/,
  );
  const one = await read('blink', 'blink/Counting/val-00000-of-00001.parquet');
  assert.equal(one.records.length, 2);
  const hidden = await read('blink', 'blink/Counting/test-00000-of-00001.parquet', { split: 'test' });
  assert.deepEqual(hidden.records[0]?.answers, []);
  await refused('blink', 'blink', /expected BLINK as published/, { split: 'train' });
});

test('MVBench: 20 files with folders of frames, TVQA by its bounds, raw video refused by name', async () => {
  for (const { file, folder, isBounded, name } of mvBenchTasks) {
    const clip = `${name.replaceAll(' ', '')}.mp4`;
    const bounds = isBounded ? { start: 2.5, end: 20.5 } : {};
    const row = { video: clip, question: 'What happens?', candidates: ['a', 'b', 'c'], answer: 'c', ...bounds };
    await put(`mvbench/json/${file}`, JSON.stringify([row]));
    // TVQA's clips are folders; the others' frames lie in a folder beside the clip.
    const isTvqa = name === 'Episodic Reasoning';
    const frames = isTvqa ? 100 : isBounded ? 8 : 29 + 1;
    for (let i = isTvqa ? 1 : 0; i < frames + (isTvqa ? 1 : 0); i++) {
      const base = `mvbench/video/${folder}${isTvqa ? clip : clip.replace('.mp4', '')}`;
      await put(`${base}/${String(i).padStart(5, '0')}.jpg`, picture(i % 10));
    }
  }
  const { records, prompts, task } = await read('mvbench', 'mvbench');
  assert.equal(records.length, 20);
  assert.equal(task.aggregate, 'records');
  assert.ok(records.every(({ images, answers }) => images.length === 8 && answers[0] === 'C'));
  assert.equal(
    textOf(prompts[0]),
    "<0><1><2><3><4><5><6><7>Question: What happens?\nA. a\nB. b\nC. c\nAnswer with the option's letter from the given choices directly.",
  );
  const shown = (name: string) => digests(records.find(({ category }) => category === name));
  assert.deepEqual(
    shown('Episodic Reasoning'),
    [11, 18, 25, 31, 38, 45, 51, 58].map((i) => digest(i % 10)),
  );
  assert.deepEqual(
    shown('Action Antonym'),
    [1, 5, 8, 12, 15, 19, 23, 26].map((i) => digest(i % 10)),
  );

  await rm(at('mvbench/video/ssv2_video'), { recursive: true });
  await put('mvbench/video/ssv2_video/ActionAntonym.mp4', 'video');
  await refused(
    'mvbench',
    'mvbench',
    /ActionAntonym\.mp4 is a video, and videos are not decoded here\. Make the folder /,
  );
  await rm(at('mvbench/video/ssv2_video/ActionAntonym.mp4'));
  await refused(
    'mvbench',
    'mvbench',
    /row 1, column `video`: expected the folder of frames .*ActionAntonym, there is none/,
  );
  for (let i = 0; i < 8; i++) await put(`mvbench/video/ssv2_video/ActionAntonym/${i}.jpg`, picture(i));
  await put('mvbench/video/star/Charades_v1_480/ActionSequence/x8.jpg', picture(0));
  await refused('mvbench', 'mvbench', /expected the 8 frames of the part between start and end in .*, there are 9/);
  await rm(at('mvbench/json/moving_count.json'));
  await refused('mvbench', 'mvbench', /missing: moving_count\.json/);
  await put(
    'one/json/action_antonym.json',
    JSON.stringify([{ video: 'v', question: 'q', candidates: ['a', 'b'], answer: 'c' }]),
  );
  for (let i = 0; i < 8; i++) await put(`one/video/ssv2_video/v/${i}.jpg`, picture(i));
  await refused('mvbench', 'one/json/action_antonym.json', /column `answer`: expected one of the options \["a","b"\]/);
});

test('MVBench: frames are the published numbers, halves rounded to even', () => {
  // Of the publishers' get_index, run in Python.
  assert.deepEqual(frameNumbers(8, 29, 1, null, 0), [1, 5, 8, 12, 15, 19, 23, 26]);
  assert.deepEqual(frameNumbers(8, 8, 1, null, 0), [0, 1, 2, 3, 4, 5, 6, 7]);
  assert.deepEqual(frameNumbers(8, 11, 1, null, 0), [0, 1, 3, 4, 6, 7, 8, 10]);
  assert.deepEqual(frameNumbers(8, 100, 3, { start: 2.5, end: 20.5 }, 1), [11, 18, 25, 31, 38, 45, 51, 58]);
  assert.deepEqual(frameNumbers(8, 40, 3, { start: 0, end: 999 }, 1), [3, 8, 13, 18, 23, 27, 32, 37]);
  assert.deepEqual(frameNumbers(4, 30, 3, { start: 0.5, end: 7.166 }, 1), [4, 9, 14, 18]);
});

test('NLVR: every published order, with the boxes as they were drawn for it', async () => {
  const pngs = [0, 1, 2, 4].map(picture);
  const offsets = pngs.flatMap(({ length }, i) => [pngs.slice(0, i).reduce((sum, png) => sum + png.length, 0), length]);
  await put('nlvr/dev.box.bin', Buffer.concat(pngs));
  await put('nlvr/dev.box.idx', new Uint8Array(Uint32Array.from(offsets).buffer));
  // Box 3 is box 2 as it was drawn for the second order; the second example shows one box twice.
  const boxes = [
    [0, 1, 2],
    [0, 3, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
  ];
  const twice = [
    [0, 0, 1],
    [0, 1, 0],
    [0, 0, 1],
    [0, 1, 0],
    [1, 0, 0],
    [1, 0, 0],
  ];
  const line = (id: string, orders: number[][], label?: boolean) =>
    JSON.stringify({ id, group: 'g', statement: ' There is a box. ', label, boxes: orders });
  await put('nlvr/dev.jsonl', [line('a', boxes, true), line('b', twice, false), line('c', [[0, 1, 2]])].join('\n'));
  const { records, prompts, task } = await read('nlvr', 'nlvr');
  assert.deepEqual(prompts[0]?.parts, [{ image: 0 }, { image: 1 }, { image: 2 }, 'There is a box.']);
  assert.deepEqual(prompts[0]?.choices, ['true', 'false']);
  assert.deepEqual(
    records.map(({ answers }) => answers),
    [['true'], ['false'], []],
  );
  const asked = { orders: 'protocol', rotate: false, controls: [] } as const;
  const files = [digest(0), digest(1), digest(2), digest(4)];
  for (const [i, orders] of [boxes, twice, [[0, 1, 2]]].entries()) {
    const record = records[i] as EvalRecord;
    const variants = variantsFor(record, asked, task);
    assert.equal(variants.length, orders.length);
    for (const [k, { imageOrder = [0, 1, 2] }] of variants.entries()) {
      const images = imageOrder.map((place) => record.images[place] as EvalRecord['images'][number]);
      const shown = task.prompt({ ...record, images }).images.map(({ sha256 }) => sha256);
      assert.deepEqual(
        shown,
        orders[k]?.map((box) => files[box]),
        `example ${i + 1}, order ${k + 1}`,
      );
    }
  }
  const scores = ['true', 'It is True.', 'false', 'true or false', 'maybe'].map(
    (answer) => task.score(answer, records[0] as EvalRecord).score,
  );
  assert.deepEqual(scores, [1, 1, 0, 0, 0]);
  const written = taskNamed('nlvr', { answerBy: 'generation' }).prompt(records[0] as EvalRecord);
  assert.equal(written.choices, undefined);
  assert.match(textOf(written), /There is a box\.\nIs this statement about the images true or false\?/);
  await refused('nlvr', 'nlvr', /cannot read .*test\.(jsonl|box\.bin|box\.idx): expected the NLVR folder format/, {
    split: 'test',
  });
});

test('skills: generated items are handed in, and their choices are compared or named', async () => {
  const image = { sha256: digest(0), bytes: async () => picture(0) };
  const item = {
    id: '1',
    skill: 'temporal',
    images: [image, image],
    question: 'Which way?',
    choices: ['left', 'up left'],
  };
  const task = skillsTask([{ ...item, answer: 'left' }], { seed: 3 });
  const opened = await task.open({ paths: [] });
  const record = await opened.get(0);
  assert.deepEqual([record.group, record.category, opened.length], ['1', 'temporal', 1]);
  assert.deepEqual(task.prompt(record).choices, item.choices);
  assert.deepEqual(task.protocol.origin, { seed: 3 });
  const parsed = ['left', 'Left.', 'to the left', 'up left', 'It goes up left', 'right'].map(
    (answer) => task.score(answer, record).parsed,
  );
  assert.deepEqual(parsed, ['left', 'left', 'left', 'up left', null, null]);
  assert.throws(() => skillsTask([{ ...item, answer: 'down' }], {}), /item 1: expected an answer among left, up left/);
});
