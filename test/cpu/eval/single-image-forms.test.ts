import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { taskNamed } from '../../../gpu-backend/eval/registry.ts';
import type { EvalPrompt, EvalRecord, EvalSource } from '../../../gpu-backend/eval/task.ts';
import { sha256Hex } from '../../../gpu-backend/io/digest.ts';
import { asPicture, type Column, drawPicture, writeParquet } from '../../fixtures/published-forms.ts';

const root = await mkdtemp(join(tmpdir(), 'published-'));
after(() => rm(root, { recursive: true, force: true }));
const PICTURES = await Promise.all([0, 1, 2, 3].map((number) => drawPicture(number, number === 3 ? 'jpeg' : 'png')));
const [P0, P1, P2, P3] = PICTURES as [Buffer, Buffer, Buffer, Buffer];

async function put(path: string, content: string | Uint8Array): Promise<string> {
  const file = join(root, path);
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, content);
  return file;
}

async function putParquet(path: string, columns: readonly Column[]): Promise<string> {
  await mkdir(dirname(join(root, path)), { recursive: true });
  await writeParquet(join(root, path), columns);
  return join(root, path);
}

interface Read {
  readonly records: readonly EvalRecord[];
  readonly digest: string;
  readonly prompts: readonly EvalPrompt[];
}

/** Opens a task on files, reads every record with its pictures, and closes it. */
async function read(name: string, source: string | EvalSource): Promise<Read> {
  const task = taskNamed(name);
  const opened = await task.open(typeof source === 'string' ? { paths: [join(root, source)] } : source);
  const records: EvalRecord[] = [];
  for (let i = 0; i < opened.length; i++) {
    const record = await opened.get(i);
    for (const image of record.images) assert.equal(sha256Hex(await image.bytes()), image.sha256);
    records.push(record);
  }
  await opened.close();
  return { records, digest: opened.digest, prompts: records.map((record) => task.prompt(record)) };
}

const digests = (record: EvalRecord | undefined): string[] => record?.images.map(({ sha256 }) => sha256) ?? [];
const score = (name: string, answer: string, record: EvalRecord | undefined): number =>
  taskNamed(name).score(answer, record as EvalRecord).score;

const TEN = ['nokia', 'Nokia', 'nokia.', 'the nokia', 'toshiba', 'nokia', 'samsung', 'nokia', 'lg', 'sony'];

test('TextVQA: Parquet and the original JSON give the same records', async () => {
  await putParquet('textvqa/data/validation-00000-of-00001.parquet', [
    ['image_id', 'text', ['003a8ae2ef43b901', '4be6cb6ff0f3ec50']],
    ['question_id', 'int', [34602, 34603]],
    ['question', 'text', ['what is the Brand of this camera?', 'what does the small white text spell?']],
    ['image', 'picture', [asPicture(P0), asPicture(P1)]],
    ['answers', 'texts', [TEN, Array(10).fill('copenhagen')]],
    ['ocr_tokens', 'texts', [['NOKIA'], []]],
  ]);
  const row = (i: number) => ({
    image_id: ['003a8ae2ef43b901', '4be6cb6ff0f3ec50'][i],
    question_id: 34602 + i,
    question: ['what is the Brand of this camera?', 'what does the small white text spell?'][i],
    answers: [TEN, Array(10).fill('copenhagen')][i],
    set_name: 'val',
  });
  await put('textvqa-json/TextVQA_0.5.1_val.json', JSON.stringify({ dataset_type: 'val', data: [row(0), row(1)] }));
  await put('textvqa-json/train_images/003a8ae2ef43b901.jpg', P0);
  await put('textvqa-json/train_images/4be6cb6ff0f3ec50.jpg', P1);

  const parquet = await read('textvqa', 'textvqa');
  assert.equal(parquet.digest, (await read('textvqa', 'textvqa-json')).digest);
  assert.deepEqual(digests(parquet.records[0]), [sha256Hex(P0)]);
  assert.deepEqual(parquet.prompts[0]?.parts, [
    { image: 0 },
    'What is the brand of this camera?\nAnswer the question using a single word or phrase.',
  ]);
  assert.equal(score('textvqa', 'Nokia', parquet.records[0]), 1);
  assert.equal(score('textvqa', 'toshiba', parquet.records[0]), 0.3);
  assert.deepEqual(taskNamed('textvqa').submissionRow?.('A Nokia.', parquet.records[0] as EvalRecord), {
    question_id: 34602,
    answer: 'nokia',
  });
});

const annotators = (answers: readonly string[]) =>
  answers.map((answer, i) => ({ answer, answer_confidence: 'yes', answer_id: i + 1 }));

test('VQAv2: Parquet and the pair of JSON files give the same records', async () => {
  const answers = [Array(10).fill('net'), ['yes', 'yes', 'no', ...Array(7).fill('maybe')]];
  const facts = { type: ['what is', 'is this'], kind: ['other', 'yes/no'], image: [262148, 42] };
  const questions = ['Where is he looking?', 'Is this a net?'];
  await putParquet('vqav2/data/validation-00000-of-00002.parquet', [
    ['question_type', 'text', facts.type.slice(0, 1)],
    [
      'answers',
      'annotators',
      answers
        .slice(0, 1)
        .map(annotators)
        .map((all) => all.map((one) => ({ ...one, answer_id: BigInt(one.answer_id) }))),
    ],
    ['image_id', 'int', facts.image.slice(0, 1)],
    ['answer_type', 'text', facts.kind.slice(0, 1)],
    ['question_id', 'int', [262148000]],
    ['question', 'text', questions.slice(0, 1)],
    ['image', 'picture', [asPicture(P0)]],
  ]);
  await assert.rejects(read('vqav2', 'vqav2'), /1 of 2 shards are there; missing: 1/);
  await putParquet('vqav2/data/validation-00001-of-00002.parquet', [
    ['question_type', 'text', facts.type.slice(1)],
    [
      'answers',
      'annotators',
      answers
        .slice(1)
        .map(annotators)
        .map((all) => all.map((one) => ({ ...one, answer_id: BigInt(one.answer_id) }))),
    ],
    ['image_id', 'int', facts.image.slice(1)],
    ['answer_type', 'text', facts.kind.slice(1)],
    ['question_id', 'int', [42000]],
    ['question', 'text', questions.slice(1)],
    ['image', 'picture', [asPicture(P1)]],
  ]);
  const asked = [262148000, 42000].map((question_id, i) => ({
    image_id: facts.image[i],
    question: questions[i],
    question_id,
  }));
  // Annotations come in another order than questions: they are joined by id.
  const annotated = [1, 0].map((i) => ({
    question_type: facts.type[i],
    answer_type: facts.kind[i],
    image_id: facts.image[i],
    question_id: asked[i]?.question_id,
    answers: annotators(answers[i] ?? []),
  }));
  await put(
    'vqav2-json/v2_OpenEnded_mscoco_val2014_questions.json',
    JSON.stringify({ data_subtype: 'val2014', questions: asked }),
  );
  await put('vqav2-json/v2_mscoco_val2014_annotations.json', JSON.stringify({ annotations: annotated }));
  await put('vqav2-json/val2014/COCO_val2014_000000262148.jpg', P0);
  await put('vqav2-json/val2014/COCO_val2014_000000000042.jpg', P1);

  const parquet = await read('vqav2', 'vqav2');
  assert.equal(parquet.digest, (await read('vqav2', 'vqav2-json')).digest);
  assert.deepEqual(
    parquet.records.map(({ category }) => category),
    ['other', 'yes/no'],
  );
  assert.equal(score('vqav2', 'Yes.', parquet.records[1]), 0.6);
  assert.equal(score('vqav2', 'a net', parquet.records[0]), 1);

  await put(
    'vqav2-bad/v2_OpenEnded_mscoco_val2014_questions.json',
    JSON.stringify({ questions: [{ ...asked[0], image_id: 7 }] }),
  );
  await assert.rejects(read('vqav2', 'vqav2-bad'), /expected a document with `annotations` beside the questions/);
  await put(
    'vqav2-bad/v2_mscoco_val2014_annotations.json',
    JSON.stringify({ annotations: [{ ...annotated[1], image_id: 7 }] }),
  );
  await assert.rejects(
    read('vqav2', { paths: [join(root, 'vqav2-bad')], imageFolder: join(root, 'vqav2-json') }),
    /v2_OpenEnded_mscoco_val2014_questions\.json `questions`, row 1, column `image_id`: expected its picture as COCO_val2014_000000000007\.jpg/,
  );
});

test('what is wrong with a file is said with its name, row and column', async () => {
  const complaint = async (name: string, content: string | Uint8Array): Promise<string> => {
    const opened = read('textvqa', { paths: [await put(`wrong/${name}`, content)] });
    return await opened.then(
      () => 'nothing',
      (error: unknown) => (error instanceof Error ? error.message : String(error)),
    );
  };
  const parquet = await readFile(join(root, 'textvqa/data/validation-00000-of-00001.parquet'));
  const row = { question_id: 1, question: 'q', image: `data:image/png;base64,${P0.toString('base64')}` };
  for (const [name, content, said] of [
    ['cut.parquet', parquet.subarray(0, parquet.length - 9), /^cut\.parquet: expected a whole Parquet file/],
    ['empty.parquet', '', /^empty\.parquet: expected rows, the file is empty/],
    ['cut.json', '{"data": [{"question_id": 1', /^cut\.json: expected a JSON object, received text that is not JSON/],
    [
      'other.json',
      '{"rows": []}',
      /^other\.json: expected a document with `questions`, `annotations` or `data`, received one with rows/,
    ],
    ['map.json', '{"data": {"a": 1}}', /^map\.json: expected a list `data`, received \{"a":1\}/],
    [
      'blind.jsonl',
      JSON.stringify({ question_id: 1, question: 'q' }),
      /^blind\.jsonl, row 1, column `image`: expected a picture/,
    ],
    [
      'text.jsonl',
      JSON.stringify({ ...row, question: 7 }),
      /^text\.jsonl, row 1, column `question`: expected text, received 7/,
    ],
    [
      'answer.jsonl',
      JSON.stringify({ ...row, answers: ['a', 1] }),
      /^answer\.jsonl, row 1, column `answers`, element 2: expected text/,
    ],
    [
      'out.jsonl',
      JSON.stringify({ ...row, image: '../../../etc/hosts' }),
      /^out\.jsonl, row 1, column `image`: .*(leads out of|there is no such file)/,
    ],
    [
      'twice.jsonl',
      `${JSON.stringify(row)}\n${JSON.stringify(row)}`,
      /twice\.jsonl, row 2: expected an id of its own, "1" is also that of twice\.jsonl, row 1/,
    ],
  ] as const)
    assert.match(await complaint(name, content), said);
});

test('OK-VQA: Parquet and the pair of JSON files; the pair without its questions is refused', async () => {
  const answers = Array(10).fill('pony tail');
  await putParquet('okvqa/data/val2014-00000-of-00001.parquet', [
    ['question_id', 'text', ['2971475']],
    ['image', 'picture', [asPicture(P2)]],
    ['question', 'text', ['What is the hairstyle called?']],
    ['answers', 'texts', [answers]],
    ['question_type', 'text', ['four']],
    ['answer_type', 'text', ['other']],
  ]);
  const annotation = { question_id: 2971475, image_id: 297147, question_type: 'four', answer_type: 'other' };
  await put(
    'okvqa-json/mscoco_val2014_annotations.json',
    JSON.stringify({
      annotations: [
        {
          ...annotation,
          answers: answers.map((answer, i) => ({ answer_id: i, raw_answer: answer, answer_confidence: 'yes', answer })),
        },
      ],
    }),
  );
  await assert.rejects(
    read('okvqa', 'okvqa-json'),
    /expected a document with `questions` or `data` beside the annotations/,
  );
  await put(
    'okvqa-json/OpenEnded_mscoco_val2014_questions.json',
    JSON.stringify({
      questions: [{ image_id: 297147, question: 'What is the hairstyle called?', question_id: 2971475 }],
    }),
  );
  await put('okvqa-json/COCO_val2014_000000297147.jpg', P2);
  const parquet = await read('okvqa', 'okvqa');
  assert.equal(parquet.digest, (await read('okvqa', 'okvqa-json')).digest);
  assert.equal(
    parquet.prompts[0]?.parts[1],
    "What is the hairstyle called?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\nAnswer the question using a single word or phrase.",
  );
  assert.equal(score('okvqa', 'Pony tail', parquet.records[0]), 1);
});

test('MMBench: Parquet with `nan`, tab-separated values with pictures by reference, circular rows, a workbook row', async () => {
  const columns = (i: readonly number[]): Column[] => [
    ['index', 'int', i.map((k) => [241, 1000241, 252][k] as number)],
    ['question', 'text', i.map((k) => (k === 2 ? 'Which "one"\tis\nright?' : 'Which is the main topic?'))],
    ['hint', 'text', i.map((k) => (k === 2 ? 'Look at the picture.' : 'nan'))],
    ['answer', 'text', i.map((k) => ['B', 'A', 'A'][k] as string)],
    ['A', 'text', i.map((k) => ['a person', 'a boat', 'red'][k] as string)],
    ['B', 'text', i.map((k) => ['a boat', 'a person', 'blue'][k] as string)],
    ['C', 'text', i.map(() => 'nan')],
    ['D', 'text', i.map(() => 'nan')],
    ['category', 'text', i.map(() => 'image_topic')],
    ['image', 'picture', i.map((k) => asPicture(k === 2 ? P3 : P0))],
    ['source', 'text', i.map(() => 'places')],
    ['L2-category', 'text', i.map(() => 'coarse_perception')],
    ['split', 'text', i.map(() => 'dev')],
  ];
  await putParquet('mmbench/en/dev-00000-of-00001.parquet', columns([0, 1, 2]));
  await putParquet('mmbench/cn/dev-00000-of-00001.parquet', columns([2]));
  await assert.rejects(
    read('mmbench', 'mmbench'),
    /of the split `test`.*it holds other files: cn\/dev-00000-of-00001\.parquet/s,
  );
  const dev = { paths: [join(root, 'mmbench')], split: 'dev' };
  const parquet = await read('mmbench', dev);
  assert.deepEqual(
    parquet.records.map(({ id, group }) => [id, group]),
    [
      ['241', '241'],
      ['1000241', '241'],
      ['252', '252'],
    ],
  );
  assert.deepEqual(
    parquet.prompts.map(({ parts }) => parts[1]),
    [
      "Which is the main topic? There are several options:\nA. a person\nB. a boat\nAnswer with the option's letter from the given choices directly.",
      "Which is the main topic? There are several options:\nA. a boat\nB. a person\nAnswer with the option's letter from the given choices directly.",
      'Look at the picture. Which "one"\tis\nright? There are several options:\nA. red\nB. blue\nAnswer with the option\'s letter from the given choices directly.',
    ],
  );
  const header = [
    'index',
    'question',
    'hint',
    'A',
    'B',
    'C',
    'D',
    'answer',
    'category',
    'image',
    'source',
    'l2-category',
    'comment',
    'split',
  ];
  const lines = [
    [
      '241',
      'Which is the main topic?',
      '',
      'a person',
      'a boat',
      '',
      '',
      'B',
      'image_topic',
      P0.toString('base64'),
      'places',
      'coarse_perception',
      '',
      'dev',
    ],
    [
      '1000241',
      'Which is the main topic?',
      '',
      'a boat',
      'a person',
      '',
      '',
      'A',
      'image_topic',
      '241',
      'places',
      'coarse_perception',
      '',
      'dev',
    ],
    [
      '252',
      '"Which ""one""\tis\nright?"',
      'Look at the picture.',
      'red',
      'blue',
      '',
      '',
      'A',
      'image_topic',
      P3.toString('base64'),
      'places',
      'coarse_perception',
      '',
      'dev',
    ],
  ];
  await put('mmbench-tsv/MMBench_DEV_EN.tsv', `${[header, ...lines].map((cells) => cells.join('\t')).join('\n')}\n`);
  await put('mmbench-tsv/MMBench_DEV_CN.tsv', 'not read');
  const tsv = await read('mmbench', { paths: [join(root, 'mmbench-tsv')], split: 'dev' });
  const shown = ({ records }: Read) =>
    records.map((record) => ({
      ...record,
      images: digests(record),
      fields: { ...record.fields, 'l2-category': null },
    }));
  assert.deepEqual(shown(tsv), shown(parquet));
  assert.equal(score('mmbench', 'B', parquet.records[0]), 1);
  assert.equal(score('mmbench', 'B', parquet.records[1]), 0);
  const row = taskNamed('mmbench').submissionRow?.(' B\n', parquet.records[0] as EvalRecord) ?? {};
  assert.deepEqual([row.index, row.A, row.B, row.prediction], [241, 'a person', 'a boat', 'B']);

  // A judge is asked about what the parser cannot read, and its letter is scored like an answer.
  const first = parquet.records[0] as EvalRecord;
  const asked = taskNamed('mmbench').extraction?.('some vessel', first);
  assert.match(
    String(asked?.parts[0]),
    /Question: Which is the main topic\?\nOptions: A\. a person B\. a boat\nReply: some vessel\nLetter:$/,
  );
  assert.deepEqual([asked?.images, taskNamed('mmbench').extraction?.('B', first)], [[], null]);
  assert.deepEqual(
    ['B', 'E'].map((letter) => score('mmbench', letter, first)),
    [1, 0],
  );

  // Test rows have no answer: they are asked, and count in nothing.
  const test = await put(
    'MMBench_TEST_EN.tsv',
    [header, ...lines.slice(0, 1).map((cells) => cells.with(7, ''))].map((cells) => cells.join('\t')).join('\n'),
  );
  const { records } = await read('mmbench', { paths: [test] });
  assert.deepEqual(records[0]?.answers, []);
  assert.deepEqual(taskNamed('mmbench').score('B', records[0] as EvalRecord), {
    score: 0,
    parsed: 'B',
    rule: 'no reference',
  });

  const cut = await put('cut.tsv', `${header.join('\t')}\n${lines[0]?.join('\t')}\n1\tshort\n`);
  await assert.rejects(read('mmbench', { paths: [cut] }), /cut\.tsv, row 2: expected 14 cells.*received 2/);
  const letter = await put('letter.tsv', `${header.join('\t')}\n${lines[0]?.with(7, 'C').join('\t')}\n`);
  await assert.rejects(
    read('mmbench', { paths: [letter] }),
    /letter\.tsv, row 1, column `answer`: expected the letter of an option, received "C"/,
  );
});

test('MMMU: one folder a subject, pictures at their marks in question and options, open answers of several forms', async () => {
  const columns = (subject: string, rows: readonly Record<string, unknown>[]): Column[] => [
    ['id', 'text', rows.map((_, i) => `validation_${subject}_${i + 1}`)],
    ['question', 'text', rows.map(({ question }) => question)],
    ['options', 'text', rows.map(({ options }) => options)],
    ['answer', 'text', rows.map(({ answer }) => answer)],
    ['question_type', 'text', rows.map(({ type }) => type)],
    ...[1, 2, 3, 4, 5, 6, 7].map(
      (k): Column => [`image_${k}`, 'picture', rows.map((row) => row[`image_${k}`] ?? null)],
    ),
    ['subfield', 'text', rows.map(() => 'Basics')],
  ];
  await putParquet(
    'mmmu/Art_Theory/validation-00000-of-00001.parquet',
    columns('Art_Theory', [
      {
        question: 'Compare <image 1> with these.',
        options: "['<image 2>', \"it's <image 4>\"]",
        answer: 'B',
        type: 'multiple-choice',
        image_1: asPicture(P0),
        image_2: asPicture(P1),
        image_3: asPicture(P2),
        image_4: asPicture(P3),
      },
    ]),
  );
  await putParquet(
    'mmmu/Math/validation-00000-of-00001.parquet',
    columns('Math', [
      {
        question: 'In <image 1>, how long is x? See <image 1>.',
        options: '[]',
        answer: "['24/7', '3.429']",
        type: 'open',
        image_1: asPicture(P2),
      },
    ]),
  );
  const { records, prompts } = await read('mmmu', 'mmmu');
  assert.deepEqual(
    records.map(({ category }) => category),
    ['Art_Theory', 'Math'],
  );
  assert.deepEqual(digests(records[0]), [P0, P1, P3].map(sha256Hex));
  assert.deepEqual(prompts[0]?.parts, [
    'Compare ',
    { image: 0 },
    ' with these.\nA. ',
    { image: 1 },
    "\nB. it's ",
    { image: 2 },
    "\n\nAnswer with the option's letter from the given choices directly.",
  ]);
  assert.deepEqual(prompts[1]?.parts, [
    'In ',
    { image: 0 },
    ', how long is x? See <image 1>.\n\nAnswer the question using a single word or phrase.',
  ]);
  assert.deepEqual(records[1]?.answers, ['24/7', '3.429']);
  assert.equal(score('mmmu', 'x is 24/7', records[1]), 1);
  assert.equal(score('mmmu', '(B)', records[0]), 1);

  await putParquet(
    'mmmu-bad/Math/validation-00000-of-00001.parquet',
    columns('Math', [{ question: 'See <image 2>', options: '[]', answer: '1', type: 'open', image_1: asPicture(P2) }]),
  );
  await assert.rejects(
    read('mmmu', 'mmmu-bad'),
    /Math\/validation-00000-of-00001\.parquet, row 1, column `image_2`: expected a picture/,
  );
});

test('ScienceQA-IMG: Parquet and problems.json; rows without a picture are passed over', async () => {
  await putParquet('scienceqa/ScienceQA-IMG/test-00000-of-00001.parquet', [
    ['image', 'picture', [null, asPicture(P0), asPicture(P1)]],
    ['question', 'text', ['No picture?', 'Which is north?', 'Which force?']],
    [
      'choices',
      'texts',
      [
        ['x', 'y'],
        ['Maine', 'Ohio'],
        ['pull', 'push', 'none'],
      ],
    ],
    ['answer', 'int', [0, 0, 2]],
    ['hint', 'text', ['', '', 'A magnet is shown.']],
    ['grade', 'text', ['grade2', 'grade2', 'grade5']],
    ['subject', 'text', ['language science', 'social science', 'natural science']],
    ['topic', 'text', ['a', 'geography', 'physics']],
  ]);
  const problem = (
    question: string,
    choices: readonly string[],
    answer: number,
    image: string | null,
    split: string,
  ) => ({
    question,
    choices,
    answer,
    hint: '',
    image,
    split,
    grade: 'grade2',
    subject: 'social science',
    topic: 'geography',
  });
  await put(
    'scienceqa-json/problems.json',
    JSON.stringify({
      4: problem('Which is north?', ['Maine', 'Ohio'], 0, 'image.png', 'test'),
      5: problem('Trained on', ['a', 'b'], 1, 'image.png', 'train'),
      6: problem('Blind', ['a', 'b'], 1, null, 'test'),
    }),
  );
  await put('scienceqa-json/images/test/4/image.png', P0);
  const { records, prompts } = await read('scienceqa', 'scienceqa');
  assert.deepEqual(
    records.map(({ id, answers }) => [id, answers]),
    [
      ['test-2', ['A']],
      ['test-3', ['C']],
    ],
  );
  assert.equal(
    prompts[1]?.parts[1],
    "Context: A magnet is shown.\nWhich force?\nA. pull\nB. push\nC. none\nAnswer with the option's letter from the given choices directly.",
  );
  const json = await read('scienceqa', 'scienceqa-json');
  assert.deepEqual(
    json.records.map(({ id, question }) => [id, question]),
    [['4', 'Which is north?']],
  );
  assert.deepEqual(json.prompts[0]?.parts, prompts[0]?.parts);
  assert.equal(score('scienceqa', 'c', records[1]), 1);

  const wrong = await put(
    'answers.jsonl',
    `${JSON.stringify({ question: 'q', choices: ['a', 'b'], answer: 2, image: `data:image/png;base64,${P0.toString('base64')}` })}\n`,
  );
  await assert.rejects(
    read('scienceqa', { paths: [wrong] }),
    /answers\.jsonl, row 1, column `answer`: expected the place of a choice, 0 to 1, received 2/,
  );
});

test('MathVista: Parquet and testmini.json give the same records', async () => {
  const rows = [
    {
      pid: '1',
      question: 'How long?',
      choices: null,
      unit: 'cm',
      precision: 1,
      answer: '1.2',
      question_type: 'free_form',
      answer_type: 'float',
      query: 'Hint … How long?',
      task: 'geometry problem solving',
    },
    {
      pid: '2',
      question: 'Which?',
      choices: ['97', '102'],
      unit: null,
      precision: null,
      answer: '102',
      question_type: 'multi_choice',
      answer_type: 'text',
      query: 'Hint … Which?',
      task: 'geometry problem solving',
    },
  ];
  await putParquet('mathvista/data/testmini-00000-of-00001-725687bf7a18d64b.parquet', [
    ['pid', 'text', rows.map(({ pid }) => pid)],
    ['question', 'text', rows.map(({ question }) => question)],
    ['image', 'text', ['images/1.jpg', 'images/2.jpg']],
    ['decoded_image', 'picture', [asPicture(P0), asPicture(P3)]],
    ['choices', 'texts', rows.map(({ choices }) => choices)],
    ['unit', 'text', rows.map(({ unit }) => unit)],
    ['precision', 'double', rows.map(({ precision }) => precision)],
    ['answer', 'text', rows.map(({ answer }) => answer)],
    ['question_type', 'text', rows.map(({ question_type }) => question_type)],
    ['answer_type', 'text', rows.map(({ answer_type }) => answer_type)],
    ['metadata', 'metadata', rows.map(({ task }) => ({ task, skills: ['geometry reasoning'] }))],
    ['query', 'text', rows.map(({ query }) => query)],
  ]);
  await put(
    'mathvista-json/testmini.json',
    JSON.stringify(
      Object.fromEntries(
        rows.map(({ task, ...row }, i) => [
          row.pid,
          { ...row, image: `images/${i + 1}.jpg`, metadata: { task, skills: ['geometry reasoning'] } },
        ]),
      ),
    ),
  );
  await put('mathvista-json/images/1.jpg', P0);
  await put('mathvista-json/images/2.jpg', P3);
  const parquet = await read('mathvista', 'mathvista');
  assert.equal(parquet.digest, (await read('mathvista', 'mathvista-json')).digest);
  assert.deepEqual(
    parquet.prompts.map(({ parts }) => parts[1]),
    [
      'How long? (Unit: cm)\nAnswer the question using a single floating-point number with one decimal place.',
      "Which?\nA. 97\nB. 102\nAnswer with the option's letter from the given choices directly.",
    ],
  );
  assert.equal(score('mathvista', '1.23', parquet.records[0]), 1);
  assert.equal(score('mathvista', '(B)', parquet.records[1]), 1);
  const judged = taskNamed('mathvista').extraction?.('It is 1.2 cm long.', parquet.records[0] as EvalRecord);
  assert.match(
    String(judged?.parts[0]),
    /Hint … How long\?\n\nModel response: It is 1\.2 cm long\.\n\nExtracted answer:$/,
  );
  assert.equal(taskNamed('mathvista').extraction?.('1.2', parquet.records[0] as EvalRecord), null);
});

test('MuirBench: marks in question and options take their pictures along when options move', async () => {
  await putParquet('muirbench/data/test-00000-of-00001.parquet', [
    ['idx', 'text', ['0', '1']],
    ['task', 'text', ['Diagram Understanding', 'Diagram Understanding']],
    ['image_relation', 'text', ['Independent', 'Independent']],
    ['image_type', 'text', ['Slides', 'Slides']],
    ['question', 'text', ['Which fits <image>?', 'Which fits <image>, really?']],
    [
      'options',
      'texts',
      [
        ['<image>', '<image>', 'none'],
        ['yes', 'no'],
      ],
    ],
    ['answer', 'text', ['B', 'A']],
    ['image_list', 'pictures', [[asPicture(P0), asPicture(P1), asPicture(P2)], [asPicture(P3)]]],
    ['counterpart_idx', 'text', ['1', '0']],
  ]);
  const { records, prompts } = await read('muirbench', 'muirbench');
  assert.deepEqual(
    prompts[0]?.parts.filter((part) => typeof part !== 'string'),
    [{ image: 0 }, { image: 1 }, { image: 2 }],
  );
  const first = records[0] as EvalRecord;
  const [a, b, c] = first.options as readonly [string, string, string];
  const rotated = taskNamed('muirbench').prompt({ ...first, options: [c, a, b] });
  assert.deepEqual(rotated.parts.slice(0, 6), [
    'Which fits ',
    { image: 0 },
    '?\nA. none\nB. ',
    { image: 1 },
    '\nC. ',
    { image: 2 },
  ]);
  assert.equal(records[0]?.group, records[1]?.group);
  assert.equal(score('muirbench', 'B. that one', records[0]), 1);
});

test('MMIU: rows without a reference are left out, tasks differ in what comes first', async () => {
  const row = (task: string, output: string | null, k: number) => ({
    task,
    context: 'Select.\nA: one\nB: two',
    question: 'Which?',
    options: 'A: one\nB: two',
    output,
    input_image_path: [`./Low-level-semantic/${k}_0.jpg`, `./Low-level-semantic/${k}_1.jpg`],
  });
  await put(
    'mmiu/all.json',
    JSON.stringify([row('spot_the_diff', 'A', 0), row('jigsaw', null, 0), row('jigsaw', 'B', 0)]),
  );
  await put('mmiu/Low-level-semantic/0_0.jpg', P0);
  await put('mmiu/Low-level-semantic/0_1.jpg', P1);
  const { records, prompts } = await read('mmiu', 'mmiu');
  assert.deepEqual(
    records.map(({ id }) => id),
    ['spot_the_diff-1', 'jigsaw-3'],
  );
  assert.deepEqual(
    prompts.map(({ parts }) => parts[2]),
    [
      'Which?\nSelect.\nA: one\nB: two\nPlease answer the option directly like A,B,C,D...',
      'Select.\nA: one\nB: two\nWhich?\nPlease answer the option directly like A,B,C,D...',
    ],
  );
  assert.equal(score('mmiu', '(b).', records[1]), 1);
});

test('likelihoods compare letters where there are options, and are no part of the protocol of free answers', () => {
  for (const name of ['textvqa', 'vqav2', 'okvqa', 'mmiu'])
    assert.deepEqual(taskNamed(name, { answerBy: 'likelihood' }).protocol, taskNamed(name).protocol);
  const record: EvalRecord = {
    id: 'a',
    group: 'a',
    category: null,
    images: [],
    question: 'q',
    options: ['x', 'y', 'z'],
    answers: ['B'],
    fields: {},
  };
  for (const name of ['mmbench', 'mmmu', 'scienceqa', 'muirbench'])
    assert.deepEqual(taskNamed(name, { answerBy: 'likelihood' }).prompt(record).choices, ['A', 'B', 'C']);
});
