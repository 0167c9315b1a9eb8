import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { inflateRawSync } from 'node:zlib';
import { editDistance } from '../../../gpu-backend/eval/parsers/mathvista.ts';
import { parseMultiChoice } from '../../../gpu-backend/eval/parsers/mmmu.ts';
import {
  floatRepr,
  parseFloatOf,
  parseInteger,
  parseStringList,
  roundHalfEven,
} from '../../../gpu-backend/eval/parsers/python-text.ts';
import { normalizeEvalAi, normalizeVqa, vqaAccuracy } from '../../../gpu-backend/eval/parsers/vqa.ts';
import { taskNamed } from '../../../gpu-backend/eval/registry.ts';
import { readTsv } from '../../../gpu-backend/eval/source/tsv.ts';
import { writeSubmission } from '../../../gpu-backend/eval/submission.ts';
import { canonicalJson, type EvalRecord, type Json } from '../../../gpu-backend/eval/task.ts';
import { placePictures } from '../../../gpu-backend/eval/tasks/placing.ts';
import { sha256Hex } from '../../../gpu-backend/io/digest.ts';

/**
 * Digest of what each version of a task makes of its table: prompts, parsed answers, rules, scores. Another digest under the same version means that reports of
 * one hash would not be comparable: raise the task's version and add a line.
 */
const VERSIONS: Readonly<Record<string, Readonly<Record<number, string>>>> = {
  textvqa: { 1: 'e9aabf9a19551726' },
  vqav2: { 1: '94a08fa540f31cf7' },
  okvqa: { 1: '15f0735725bfb9c3' },
  mmbench: { 1: 'bc00671bec790ab8' },
  mmmu: { 1: '4b39de7894657c1b' },
  scienceqa: { 1: 'b8fa0c77004ff70b' },
  mathvista: { 1: '92964a7ea0fe8360' },
  muirbench: { 1: '3c711ae16b33dff6' },
  mmiu: { 1: '5ff2b9ffe1c8f801' },
};

interface CaseTable {
  readonly records: Readonly<Record<string, Partial<EvalRecord>>>;
  readonly prompts: Readonly<Record<string, string>>;
  /** Record, answer; what the published rules read, the rule's name with us, the score. */
  readonly cases: readonly (readonly [string, string, string | null, string, number])[];
}

for (const name of ['textvqa', 'vqav2', 'okvqa', 'mmbench', 'mmmu', 'scienceqa', 'mathvista', 'muirbench', 'mmiu']) {
  const table = JSON.parse(
    readFileSync(new URL(`../../fixtures/eval/${name}.json`, import.meta.url), 'utf8'),
  ) as CaseTable;
  const task = taskNamed(name);
  const recordOf = (id: string): EvalRecord => {
    const empty = { category: null, images: [], question: '', options: [], answers: [], fields: {} };
    return { ...empty, id, group: id, ...table.records[id] };
  };
  const textOf = (id: string): string =>
    task
      .prompt(recordOf(id))
      .parts.map((part) => (typeof part === 'string' ? part : `<${part.image}>`))
      .join('');

  test(`${name}: ${table.cases.length} answers are read and scored by the published rules`, () => {
    assert.ok(table.cases.length >= 60, `expected at least 60 cases, there are ${table.cases.length}`);
    for (const [id, answer, parsed, rule, score] of table.cases) {
      const scored = task.score(answer, recordOf(id));
      const shown = `${id}: ${JSON.stringify(answer)}`;
      assert.deepEqual([scored.parsed, scored.rule], [parsed, rule], shown);
      assert.ok(Math.abs(scored.score - score) < 1e-9, `${shown}: expected the score ${score}, got ${scored.score}`);
    }
    for (const [id, prompt] of Object.entries(table.prompts)) assert.equal(textOf(id), prompt);
  });

  test(`${name}: version ${task.version} does what it did`, () => {
    const outcomes: Json = {
      prompts: Object.keys(table.records).map(textOf),
      scored: table.cases.map(([id, answer]) => ({ ...task.score(answer, recordOf(id)) })),
      aggregate: task.aggregate,
      maxTokens: task.prompt(recordOf(Object.keys(table.records)[0] ?? '')).maxTokens,
    };
    assert.equal(sha256Hex(canonicalJson(outcomes)).slice(0, 16), VERSIONS[name]?.[task.version]);
  });

  test(`${name}: a record without a reference counts in nothing`, () => {
    const [id = '', answer = ''] = table.cases[0] ?? [];
    assert.deepEqual(
      [
        task.score(answer, { ...recordOf(id), answers: [] }).score,
        task.score(answer, { ...recordOf(id), answers: [] }).rule,
      ],
      [0, 'no reference'],
    );
  });
}

/** Numbers 0 … 1 from a seed. */
function* random(seed: number): Generator<number, never, undefined> {
  for (let state = seed; ; ) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    yield state / 2 ** 32;
  }
}

test('VQA accuracy of ten annotators is 0, 0.3, 0.6, 0.9 or 1; normalising twice changes nothing', () => {
  const numbers = random(1);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(numbers.next().value * from.length)] as T;
  const words = [
    'a',
    'The',
    'two',
    'none',
    'dont',
    'Cat',
    '1,000',
    '2.5',
    'U.S.',
    'red',
    'x-ray',
    'yes.',
    '(b)',
    'ok!',
    '#',
    'é',
  ];
  for (let i = 0; i < 2000; i++) {
    const references = Array.from({ length: 10 }, () => pick(['x', 'y', 'z']));
    const matches = references.filter((one) => one === 'x').length;
    assert.equal(vqaAccuracy('x', references), [0, 0.3, 0.6, 0.9, 1][Math.min(matches, 4)]);
    const text = Array.from({ length: 6 }, () => pick(words)).join(pick([' ', '  ', '\n']));
    for (const normalize of [normalizeVqa, normalizeEvalAi]) {
      assert.equal(normalize(normalize(text)), normalize(text), text);
      assert.doesNotMatch(normalize(text), /[;/[\]"{}()=+\\_><@`,?!A-Z-]|\b(a|an|the|two|none)\b|^ | {2}| $/, text);
    }
  }
});

test('MMMU: a drawn letter is the same for ever, and every letter is drawn about as often', () => {
  const options = ['one', 'two', 'three', 'four'];
  const counts = new Map<string, number>();
  for (let i = 0; i < 4000; i++) {
    const { letter, rule } = parseMultiChoice('no idea', options, `validation_Math_${i}`);
    assert.equal(rule, 'drawn');
    assert.equal(parseMultiChoice('', options, `validation_Math_${i}`).letter, letter);
    counts.set(letter, (counts.get(letter) ?? 0) + 1);
  }
  assert.deepEqual([...counts.keys()].sort(), ['A', 'B', 'C', 'D']);
  for (const count of counts.values()) assert.ok(Math.abs(count - 1000) < 120, String(count));
  // The two published readings differ here alone: a letter without a space in front.
  assert.equal(parseMultiChoice('DNA is', options, 'x').letter, 'A');
  assert.equal(parseMultiChoice('DNA is', options, 'x', 'mmmu').rule, 'drawn');
  assert.equal(parseMultiChoice('B.) yes', options, 'x').rule, 'letter and full stop');
});

test('numbers and lists as Python reads and writes them', () => {
  const rounded = [0.125, 0.375, 2.675, 1.005, -0.125, 1e300, 2.5].map((value) => roundHalfEven(value, 2));
  assert.deepEqual(rounded, [0.12, 0.38, 2.67, 1, -0.12, 1e300, 2.5]);
  assert.deepEqual(
    [0.5, 1.5, 2.5, -0.5].map((value) => roundHalfEven(value, 0)),
    [0, 2, 2, -0],
  );
  const written = [
    1,
    -2.5,
    0.1,
    1e16,
    123456789012345.6,
    1e-5,
    0.0001,
    1e22,
    0,
    -0,
    Number.NaN,
    Number.POSITIVE_INFINITY,
  ];
  assert.deepEqual(written.map(floatRepr), [
    '1.0',
    '-2.5',
    '0.1',
    '1e+16',
    '123456789012345.6',
    '1e-05',
    '0.0001',
    '1e+22',
    '0.0',
    '-0.0',
    'nan',
    'inf',
  ]);
  assert.deepEqual([' 1_000 ', '+5', '-0', '12345678901234567890', '1.0', '1__0', '', '0x1'].map(parseInteger), [
    '1000',
    '5',
    '0',
    '12345678901234567890',
    null,
    null,
    null,
    null,
  ]);
  assert.deepEqual(['1e3', '.5', '5.', '1_0.5', ' -Infinity', '1,5', '0x1', 'e3', ''].map(parseFloatOf), [
    1000,
    0.5,
    5,
    10.5,
    Number.NEGATIVE_INFINITY,
    null,
    null,
    null,
    null,
  ]);
  assert.deepEqual(parseStringList(`['a', "b's", 'c\\'d', '\\u00e9\\n', '\\q',]`), ['a', "b's", "c'd", 'é\n', '\\q']);
  for (const text of ['[]', '[ ]']) assert.deepEqual(parseStringList(text), []);
  for (const text of ["['a'", "['a' 'b']", '[1]', "['a']x", 'a', "['a]"])
    assert.equal(parseStringList(text), null, text);
  assert.deepEqual([editDistance('kitten', 'sitting'), editDistance('', 'abc'), editDistance('😀', 'a')], [3, 3, 1]);
});

test('pictures stand at their marks once, the others in front', () => {
  assert.deepEqual(placePictures('See <image 2> and <image 2>, not <image 9>.', 3), [
    { image: 0 },
    { image: 2 },
    'See ',
    { image: 1 },
    ' and <image 2>, not <image 9>.',
  ]);
  assert.deepEqual(placePictures('<image 1>', 1), [{ image: 0 }]);
  assert.deepEqual(placePictures('text', 0), ['text']);
});

const folder = await mkdtemp(join(tmpdir(), 'submission-'));
after(() => rm(folder, { recursive: true, force: true }));

test('rows for a server: a workbook, tab-separated values that read back, JSON', async () => {
  const rows = [
    { index: 7, question: 'Is <a> & "b"\tthe same\nas c?', A: 'x', prediction: 'A' },
    { index: 8, question: 'Warum?', prediction: 'ä 😀\u0001', l2: null },
  ];
  await writeSubmission(join(folder, 'a.xlsx'), rows);
  const files = unzip(await readFile(join(folder, 'a.xlsx')));
  assert.deepEqual(
    [...files.keys()],
    ['[Content_Types].xml', '_rels/.rels', 'xl/workbook.xml', 'xl/_rels/workbook.xml.rels', 'xl/worksheets/sheet1.xml'],
  );
  const sheet = files.get('xl/worksheets/sheet1.xml') ?? '';
  const cells = [
    ...sheet.matchAll(
      /<c r="([A-Z]+\d+)"(?: t="inlineStr"><is><t xml:space="preserve">([^<]*)<\/t><\/is>|><v>([^<]*)<\/v>)<\/c>/g,
    ),
  ];
  assert.deepEqual(
    cells.map(([, at, text, number]) => [at, text ?? Number(number)]),
    [
      ['A1', 'index'],
      ['B1', 'question'],
      ['C1', 'A'],
      ['D1', 'prediction'],
      ['E1', 'l2'],
      ['A2', 7],
      ['B2', 'Is &lt;a&gt; &amp; "b"\tthe same\nas c?'],
      ['C2', 'x'],
      ['D2', 'A'],
      ['A3', 8],
      ['B3', 'Warum?'],
      ['D3', 'ä 😀'],
      ['E3', 'null'],
    ].filter(([at]) => at !== 'E3'),
  );

  await writeSubmission(
    join(folder, 'a.tsv'),
    rows.map(({ index, question }) => ({ index, question })),
  );
  const back = [];
  for await (const row of readTsv(join(folder, 'a.tsv'), 'a.tsv')) back.push(row.values);
  assert.deepEqual(
    back,
    rows.map(({ index, question }) => ({ index: String(index), question })),
  );
  await writeSubmission(join(folder, 'a.json'), [{ question_id: 1, answer: 'no' }]);
  assert.deepEqual(JSON.parse(await readFile(join(folder, 'a.json'), 'utf8')), [{ question_id: 1, answer: 'no' }]);
  await assert.rejects(
    writeSubmission(join(folder, 'a.csv'), rows),
    /\.json, \.jsonl, \.tsv or \.xlsx, received \.csv/,
  );
  await assert.rejects(writeSubmission(join(folder, 'b.json'), []), /expected rows to hand in/);

  // Files are read a mebibyte at a time: a quote within a cell that is not quoted, and a doubled one, stand across two reads.
  const names = 'a\tb\n';
  for (const [cell, shown] of [
    [`${'x'.repeat((1 << 20) - names.length)}"y"`, `${'x'.repeat((1 << 20) - names.length)}"y"`],
    [`"${'x'.repeat((1 << 20) - names.length - 2)}""y"`, `${'x'.repeat((1 << 20) - names.length - 2)}"y`],
  ] as const) {
    await writeFile(join(folder, 'long.tsv'), `${names}${cell}\tz\n`);
    for await (const row of readTsv(join(folder, 'long.tsv'), 'long.tsv'))
      assert.ok(row.text('a') === shown && row.text('b') === 'z');
  }

  await writeFile(join(folder, 'open.tsv'), 'a\tb\n1\t"never closed\n');
  await assert.rejects(async () => {
    for await (const row of readTsv(join(folder, 'open.tsv'), 'open.tsv')) assert.fail(String(row.line));
  }, /open\.tsv, row 1: the file ends within a quoted cell/);
});

/** The files of a zip archive, by its directory; each must be where and what the directory says. */
function unzip(archive: Buffer): Map<string, string> {
  const end = archive.lastIndexOf('PK\x05\x06', undefined, 'latin1');
  const files = new Map<string, string>();
  let at = archive.readUInt32LE(end + 16);
  for (let i = 0; i < archive.readUInt16LE(end + 10); i++) {
    assert.equal(archive.readUInt32LE(at), 0x02014b50);
    const [packed, plain, nameLength] = [
      archive.readUInt32LE(at + 20),
      archive.readUInt32LE(at + 24),
      archive.readUInt16LE(at + 28),
    ];
    const name = archive.toString('utf8', at + 46, at + 46 + nameLength);
    const local = archive.readUInt32LE(at + 42);
    assert.equal(archive.readUInt32LE(local), 0x04034b50);
    assert.deepEqual(archive.subarray(local + 4, local + 30), archive.subarray(at + 6, at + 32));
    const from = local + 30 + nameLength;
    const text = inflateRawSync(archive.subarray(from, from + packed));
    assert.equal(text.length, plain);
    files.set(name, text.toString('utf8'));
    at += 46 + nameLength;
  }
  assert.equal(at, end);
  return files;
}
