import type { AnswerBy, TaskOptions } from '../options.ts';
import { letteredLines, letterOf } from '../parsers/letters.ts';
import { openReferences, parseMultiChoice, scoreMmmu } from '../parsers/mmmu.ts';
import { parseStringList } from '../parsers/python-text.ts';
import { collectRecords, pictureGroup } from '../source/collect.ts';
import type { PictureReader, StoredImage } from '../source/pictures.ts';
import type { Row } from '../source/row.ts';
import { splitFiles, type TableForm, tableRows } from '../source/table.ts';
import type { EvalPrompt, EvalRecord, EvalSource, EvalTask, Scored } from '../task.ts';
import { LETTER_PROMPT, letterPrompt } from './letter-task.ts';

const OPEN_PROMPT = 'Answer the question using a single word or phrase.';
const MAX_PICTURES = 7;

const MAX_TOKENS = 128;

const form: TableForm = {
  split: 'validation',
  expected: 'MMMU (the Parquet files of MMMU/MMMU, a folder a subject, or of lmms-lab/MMMU)',
};

/** 900 validation questions of college exams in 30 subjects, with options or open (Yue et al. 2023). */
export function mmmuTask({ answerBy = 'generation' }: TaskOptions = {}): EvalTask {
  return {
    name: 'mmmu',
    title: 'MMMU (Yue et al. 2023)',
    version: 1,
    protocol: {
      split: form.split,
      prompt: {
        options: ['question, pictures at their <image k>', '"A. {option}" lines', 'empty line', LETTER_PROMPT],
        open: ['question, pictures at their <image k>', 'empty line', OPEN_PROMPT],
      },
      pictures: 'those that question or options mention; where one is mentioned again, its mark stays as text',
      parser:
        'lmms-eval: letters in brackets, else a letter before a space, else one before a full stop, else (above five words) option texts; the last of several. Open: tails of lines behind signs of an answer and numbers of two decimals',
      drawn:
        'where the parser finds nothing the publishers draw a letter at random; here it is SHA-256(id) modulo the number of options, as often right and the same for ever',
      references: 'a list of strings in the answer column means any of them',
      score: 'accuracy over all questions',
      maxTokens: MAX_TOKENS,
      answerBy,
      sources: [
        'https://github.com/MMMU-Benchmark/MMMU',
        'https://huggingface.co/datasets/MMMU/MMMU',
        'lmms-eval: mmmu_val',
      ],
    },
    aggregate: 'records',
    open: (source) => collectRecords(source, (pictures) => mmmuRecords(source, pictures)),
    prompt: (record) => promptOf(record, answerBy),
    score: (answer, record) => scoreOf(answer, record),
    submissionRow: (answer, record) => ({
      id: record.id,
      answer: record.options.length === 0 ? answer : parseMultiChoice(answer, record.options, record.id).letter,
    }),
  };
}

function promptOf(record: EvalRecord, answerBy: AnswerBy): EvalPrompt {
  const { question, options } = record;
  const text =
    options.length === 0
      ? `${question}\n\n${OPEN_PROMPT}`
      : `${question}\n${letteredLines(options)}\n\n${LETTER_PROMPT}`;
  return letterPrompt(text, record, MAX_TOKENS, answerBy);
}

function scoreOf(answer: string, { id, options, answers }: EvalRecord): Scored {
  const scored = scoreMmmu(answer, options, answers, id);
  return answers.length === 0 ? { ...scored, score: 0, rule: 'no reference' } : scored;
}

async function* mmmuRecords(source: EvalSource, pictures: PictureReader): AsyncGenerator<EvalRecord, void, undefined> {
  for await (const { row, folder } of tableRows(await splitFiles(source, form)))
    yield await recordOf(row, folder, pictures);
}

async function recordOf(row: Row, folder: string, pictures: PictureReader): Promise<EvalRecord> {
  const id = row.label('id');
  const type = row.text('question_type');
  if (type !== 'multiple-choice' && type !== 'open') row.fail('question_type', '"multiple-choice" or "open"');
  const options = type === 'open' ? [] : optionsOf(row);
  const published = row.reference('answer');
  // Test rows have a question mark.
  const answer = published === null || published === '?' || published === '' ? null : published;
  if (type !== 'open' && answer !== null && !options.some((_, i) => letterOf(i) === answer))
    row.fail('answer', `a letter from A to ${letterOf(options.length - 1)}, or "?" where it is kept back`);
  const question = row.text('question');
  const mentioned = mentionedPictures([question, ...options].join('\n'));
  const images: StoredImage[] = [];
  for (const [place, number] of mentioned.entries()) {
    if (number > MAX_PICTURES) row.fail('question', `pictures <image 1> to <image ${MAX_PICTURES}>`);
    images[place] = await pictures.take(row.values[`image_${number}`], folder, row.where(`image_${number}`));
  }
  const renumber = (text: string): string =>
    text.replace(/<image (\d+)>/g, (_mark, number: string) => `<image ${mentioned.indexOf(Number(number)) + 1}>`);
  return {
    id,
    group: images.length === 0 ? id : pictureGroup(images),
    category: subjectOf(id) ?? row.optionalText('subfield'),
    images,
    question: renumber(question),
    options: options.map(renumber),
    answers: answer === null ? [] : type === 'open' ? openReferences(answer) : [answer],
    fields: row.has('subfield') ? { subfield: row.text('subfield') } : {},
  };
}

/** A list, or the text of a Python list, as published. */
function optionsOf(row: Row): readonly string[] {
  const options = typeof row.values.options === 'string' ? parseStringList(row.values.options) : row.texts('options');
  if (options === null || options.length < 2 || options.length > 26)
    row.fail('options', 'a list of 2 to 26 texts, or the text of one in Python');
  return options;
}

/** Numbers of the pictures that a text mentions, ascending, each once: the publishers' order. */
const mentionedPictures = (text: string): number[] =>
  [...new Set([...text.matchAll(/<image (\d+)>/g)].map((mark) => Number(mark[1])))].sort((a, b) => a - b);

/** `validation_Art_Theory_12` → `Art_Theory`. */
const subjectOf = (id: string): string | null => /^[a-z]+_(.+)_\d+$/.exec(id)?.[1] ?? null;
