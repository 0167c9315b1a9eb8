import type { AnswerBy, TaskOptions } from '../options.ts';
import { letteredLines } from '../parsers/letters.ts';
import { extractMath, type MathAnswerType, type MathProblem, scoreMath } from '../parsers/mathvista.ts';
import { collectRecords } from '../source/collect.ts';
import { isDocument, readDocument, rowsById } from '../source/document.ts';
import type { PictureReader } from '../source/pictures.ts';
import type { Row } from '../source/row.ts';
import { splitFiles, type TableForm, tableRows } from '../source/table.ts';
import type { EvalPrompt, EvalRecord, EvalSource, EvalTask, Json, Scored } from '../task.ts';
import { LETTER_PROMPT, letterPrompt } from './letter-task.ts';

const MAX_TOKENS = 1024;

const form: TableForm = {
  split: 'testmini',
  expected: 'MathVista (Parquet of AI4Math/MathVista, or testmini.json with its pictures)',
};

/** 1,000 questions of mathematics in pictures, with choices or free (Lu et al. 2023). */
export function mathVistaTask({ answerBy = 'generation' }: TaskOptions = {}): EvalTask {
  return {
    name: 'mathvista',
    title: 'MathVista (Lu et al. 2023)',
    version: 1,
    protocol: {
      split: form.split,
      prompt: [
        'picture',
        'question, " (Unit: {unit})" where there is one',
        '"A. {choice}" lines',
        'what form of answer is wanted',
      ],
      hints: { text: LETTER_PROMPT, ...HINTS },
      extraction:
        'quick paths (a choice itself, an integer, a float, The answer is "…".); other answers as they are, unless a judge is named: then what it extracts, by a prompt of our own examples in the published form',
      score:
        'multiple choice: a letter names its choice, other text the choice at the least edit distance; integers cut towards zero, floats rounded to the precision as Python does, lists as written; equality of texts',
      maxTokens: MAX_TOKENS,
      answerBy,
      sources: [
        'https://mathvista.github.io',
        'https://huggingface.co/datasets/AI4Math/MathVista',
        'lmms-eval: mathvista_testmini (format-prompt)',
      ],
    },
    aggregate: 'records',
    open: (source) => collectRecords(source, (pictures) => mathVistaRecords(source, pictures)),
    prompt: (record) => promptOf(record, answerBy),
    score: (answer, record) => scoreOf(answer, record),
    extraction: (answer, record) =>
      extractMath(answer, problemOf(record)).rule === 'whole answer' ? judgePrompt(answer, record) : null,
  };
}

const HINTS = {
  integer: 'Answer the question using a single integer number.',
  float1: 'Answer the question using a single floating-point number with one decimal place.',
  float2: 'Answer the question using a single floating-point number with two decimal places.',
  list: 'Answer the question using a Python list.',
} as const;

function promptOf(record: EvalRecord, answerBy: AnswerBy): EvalPrompt {
  const { question, options, fields } = record;
  const unit = typeof fields.unit === 'string' && fields.unit !== '' ? ` (Unit: ${fields.unit})` : '';
  const lines = [question + unit, ...(options.length === 0 ? [] : [letteredLines(options)]), hintOf(record)];
  return letterPrompt(
    lines
      .filter((line) => line !== '')
      .join('\n')
      .trim(),
    record,
    MAX_TOKENS,
    answerBy,
  );
}

function hintOf(record: EvalRecord): string {
  const { choices, answerType, precision } = problemOf(record);
  if (choices.length > 0) return LETTER_PROMPT;
  if (answerType === 'integer') return HINTS.integer;
  if (answerType === 'list') return HINTS.list;
  if (answerType === 'float' && precision === 1) return HINTS.float1;
  return answerType === 'float' && precision === 2 ? HINTS.float2 : '';
}

const problemOf = ({ options, fields }: EvalRecord): MathProblem => ({
  choices: options,
  answerType: fields.answerType as MathAnswerType,
  precision: typeof fields.precision === 'number' ? fields.precision : null,
});

function scoreOf(answer: string, record: EvalRecord): Scored {
  const reference = record.answers[0];
  const scored = scoreMath(answer, reference ?? '', problemOf(record));
  return reference === undefined ? { ...scored, score: 0, rule: 'no reference' } : scored;
}

/** Our own examples in the published form; the publishers' are of the benchmark itself. */
const JUDGE_EXAMPLES = [
  [
    'Hint: Please answer the question requiring an integer answer and provide the final value, e.g., 1, 2, 3, at the end.\nQuestion: How many sides does the shape have?',
    'Counting along the outline I find six sides, so it is a hexagon: 6.',
    '6',
  ],
  [
    'Hint: Please answer the question requiring a floating-point number with one decimal place and provide the final value, e.g., 1.2, 1.3, 1.4, at the end.\nQuestion: How long is the pencil? (Unit: cm)',
    'The pencil ends between 7 and 8 on the ruler; it is about 7.5 cm long.',
    '7.5',
  ],
  [
    'Hint: Please answer the question requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the end.\nQuestion: Which two bars are of equal height?',
    'The second and the fifth bar reach the same line.',
    '[2, 5]',
  ],
  [
    'Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.\nQuestion: What part of the circle is shaded?\nChoices:\n(A) 1/4\n(B) 1/3\n(C) 1/2',
    'One of three equal sectors is shaded, which makes a third, choice (B).',
    'B',
  ],
] as const;

function judgePrompt(answer: string, record: EvalRecord): EvalPrompt {
  const shown = (question: string, response: string): string =>
    `${question}\n\nModel response: ${response}\n\nExtracted answer:`;
  const examples = JUDGE_EXAMPLES.map(([question, response, extracted]) => `${shown(question, response)} ${extracted}`);
  const query = typeof record.fields.query === 'string' ? record.fields.query : record.question;
  const text = [
    'Read the examples. Then extract the answer from the last model response; reply with it alone.',
    ...examples,
    shown(query, answer.trim()),
  ].join('\n\n');
  return { parts: [text], images: [], maxTokens: 256 };
}

async function* mathVistaRecords(
  source: EvalSource,
  pictures: PictureReader,
): AsyncGenerator<EvalRecord, void, undefined> {
  const tables = [];
  for (const file of await splitFiles(source, form)) {
    if (!(await isDocument(file.path))) {
      tables.push(file);
      continue;
    }
    for (const [, row] of rowsById(await readDocument(file.path, file.label), file.label))
      yield await recordOf(row, file.imageFolder, pictures);
  }
  for await (const { row, folder } of tableRows(tables)) yield await recordOf(row, folder, pictures);
}

async function recordOf(row: Row, folder: string, pictures: PictureReader): Promise<EvalRecord> {
  const column = row.has('decoded_image') ? 'decoded_image' : 'image';
  const image = await pictures.take(row.values[column], folder, row.where(column));
  const type = row.text('question_type');
  if (type !== 'multi_choice' && type !== 'free_form') row.fail('question_type', '"multi_choice" or "free_form"');
  const options = type === 'multi_choice' ? row.texts('choices') : [];
  if (type === 'multi_choice' && (options.length < 2 || options.length > 26)) row.fail('choices', '2 to 26 texts');
  const answerType = row.text('answer_type');
  if (!['text', 'integer', 'float', 'list'].includes(answerType))
    row.fail('answer_type', 'text, integer, float or list');
  const answer = row.reference('answer');
  const fields: Record<string, Json> = { answerType };
  if (row.has('precision')) fields.precision = row.number('precision');
  if (row.has('unit')) fields.unit = row.text('unit');
  if (row.has('query')) fields.query = row.text('query');
  const metadata = row.has('metadata') ? row.json('metadata') : null;
  return {
    id: row.label('pid'),
    group: image.sha256.slice(0, 16),
    category: taskOf(metadata),
    images: [image],
    question: row.text('question'),
    options,
    // The test split keeps its answers, as nothing or as an empty text.
    answers: answer === null || answer === '' ? [] : [answer],
    fields,
  };
}

function taskOf(metadata: Json): string | null {
  if (typeof metadata !== 'object' || metadata === null || Array.isArray(metadata)) return null;
  const { task } = metadata as { readonly [key: string]: Json };
  return typeof task === 'string' ? task : null;
}
