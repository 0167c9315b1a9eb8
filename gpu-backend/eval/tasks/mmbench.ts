import type { TaskOptions } from '../options.ts';
import { inferOption, letteredLines, letterOf, scoreInferred } from '../parsers/letters.ts';
import { collectRecords } from '../source/collect.ts';
import type { PictureReader, StoredImage } from '../source/pictures.ts';
import type { Row } from '../source/row.ts';
import { splitFiles, type TableForm, tableRows } from '../source/table.ts';
import type { EvalPrompt, EvalRecord, EvalSource, EvalTask, Json } from '../task.ts';
import { LETTER_PROMPT, type LetterBenchmark, letterTask } from './letter-task.ts';

const INTRODUCTION = 'There are several options:';
/** Rows of one question under further rotations of its options are numbered a million higher each. */
const ROTATION_STEP = 1_000_000;
const MAX_OPTIONS = 5;

const form: TableForm = {
  split: 'test',
  expected:
    'MMBench-EN (Parquet of lmms-lab/MMBench, configuration en, or a file of tab-separated values such as MMBench_TEST_EN.tsv)',
  alsoNamed: (path, split) => {
    const name = path.split('/').at(-1) ?? '';
    return /^mmbench_.*\.tsv$/i.test(name) && !/_cn|_cc/i.test(name) && name.toLowerCase().includes(`_${split}`);
  },
  never: (path) => /(^|\/)(cn|cc|ru|ko)\//.test(path),
};

const mmBench: LetterBenchmark = {
  name: 'mmbench',
  title: 'MMBench-EN (Liu et al. 2023)',
  version: 1,
  split: form.split,
  maxTokens: 1024,
  aggregate: 'groups',
  promptForm: [
    'picture',
    '"{hint} " where there is one',
    `"{question} ${INTRODUCTION}"`,
    '"A. {option}" lines',
    LETTER_PROMPT,
  ],
  write: ({ question, options, fields }) => {
    const hint = typeof fields.hint === 'string' && fields.hint !== '' ? `${fields.hint} ` : '';
    return `${hint}${question} ${INTRODUCTION}\n${letteredLines(options)}\n${LETTER_PROMPT}`;
  },
  parser:
    'one letter A to E among the words, plain or decorated, else one option within the answer; else wrong, unless a judge is named',
  score: (answer, record, target) => scoreInferred(answer, record.options, target),
  open: (source) => collectRecords(source, (pictures) => mmBenchRecords(source, pictures)),
  extraction: (answer, record) => (inferOption(answer, record.options) === null ? judgePrompt(answer, record) : null),
  submissionRow: (answer, record) => submissionRow(answer, record),
  notes: {
    circular:
      'rows of one question (index modulo 1,000,000), its options rotated, count as one: right only where every row is; files without such rows give plain accuracy',
    server: 'the test split has no answers: hand in with --submission FILE.xlsx at mmbench.opencompass.org.cn',
    judge:
      'with a judge, answers that the parser cannot read are matched by it, by a prompt of our own wording; E is none of the options',
  },
  sources: [
    'https://github.com/open-compass/MMBench',
    'https://huggingface.co/datasets/lmms-lab/MMBench',
    'lmms-eval: mmbench_en_test',
  ],
};

export const mmBenchTask = (options?: TaskOptions): EvalTask => letterTask(mmBench, options);

async function* mmBenchRecords(
  source: EvalSource,
  pictures: PictureReader,
): AsyncGenerator<EvalRecord, void, undefined> {
  /** Pictures by index: tab-separated files hold a picture once and name that row in the others. */
  const seen = new Map<string, StoredImage>();
  for await (const { row, folder } of tableRows(await splitFiles(source, form))) {
    const index = row.label('index');
    if (!/^\d{1,15}$/.test(index)) row.fail('index', 'a whole number');
    const image = await pictureOf(row, folder, seen, pictures);
    seen.set(index, image);
    yield recordOf(row, index, image);
  }
}

async function pictureOf(
  row: Row,
  folder: string,
  seen: ReadonlyMap<string, StoredImage>,
  pictures: PictureReader,
): Promise<StoredImage> {
  const value = row.values.image;
  if (typeof value !== 'string' || !/^\d{1,15}$/.test(value))
    return await pictures.take(
      typeof value === 'string' ? `data:image/x;base64,${value}` : value,
      folder,
      row.where('image'),
    );
  const other = seen.get(value);
  if (other === undefined) row.fail('image', 'base64, or the index of an earlier row');
  return other;
}

function recordOf(row: Row, index: string, image: StoredImage): EvalRecord {
  const cells = Array.from({ length: MAX_OPTIONS }, (_, i) => cell(row, letterOf(i)));
  const count = cells.indexOf(null) < 0 ? MAX_OPTIONS : cells.indexOf(null);
  const options = cells.slice(0, count).filter((option) => option !== null);
  if (options.length < 2 || cells.slice(count).some((option) => option !== null))
    row.fail('A', 'options in the columns A, B, … without a gap, two at least');
  const answer = cell(row, 'answer');
  if (answer !== null && !options.some((_, i) => letterOf(i) === answer)) row.fail('answer', 'the letter of an option');
  const fields: Record<string, Json> = { hint: cell(row, 'hint') ?? '' };
  for (const column of ['source', 'split', 'L2-category', 'l2-category', 'category']) {
    const value = cell(row, column);
    if (value !== null) fields[column.toLowerCase()] = value;
  }
  return {
    id: index,
    group: String(Number(index) % ROTATION_STEP),
    category: cell(row, 'category'),
    images: [image],
    question: row.text('question'),
    options,
    answers: answer === null ? [] : [answer],
    fields,
  };
}

/** Text, numbers as text; null for nothing, which published files also write as `nan`. */
function cell(row: Row, column: string): string | null {
  if (!row.has(column) || Number.isNaN(row.values[column])) return null;
  const value = row.label(column);
  return value === 'nan' || value === '' ? null : value;
}

/** The columns that MMBench's server reads, in the order of its published files. */
function submissionRow(answer: string, record: EvalRecord): { readonly [column: string]: Json } {
  const { fields, options } = record;
  return {
    index: Number(record.id),
    question: record.question,
    ...Object.fromEntries(options.map((option, i) => [letterOf(i), option])),
    prediction: answer.trim(),
    hint: fields.hint ?? '',
    category: fields.category ?? '',
    'l2-category': fields['l2-category'] ?? '',
    source: fields.source ?? '',
    split: fields.split ?? '',
  };
}

function judgePrompt(answer: string, { question, options }: EvalRecord): EvalPrompt {
  const lines = options.map((option, i) => `${letterOf(i)}. ${option}`);
  const text = [
    'Below are a multiple-choice question, its options and what somebody replied. Say which option the reply means.',
    'Reply with its letter alone. Reply E where the reply means none of the options.',
    '',
    'Question: How many birds sit on the wire?',
    'Options: A. two B. three C. five',
    'Reply: I can see a trio of birds.',
    'Letter: B',
    '',
    `Question: ${question}`,
    `Options: ${lines.join(' ')}`,
    `Reply: ${answer}`,
    'Letter:',
  ].join('\n');
  return { parts: [text], images: [], maxTokens: 16 };
}
