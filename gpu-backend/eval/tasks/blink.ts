import type { AnswerBy, TaskOptions } from '../options.ts';
import { blinkChoice, scoreBlink } from '../parsers/mantis-blink.ts';
import { againstReference } from '../parsers/reference.ts';
import { collectRecords, pictureGroup } from '../source/collect.ts';
import { findFiles, isOfSplit, ofSplit } from '../source/files.ts';
import type { PictureReader, StoredImage } from '../source/pictures.ts';
import { type Row, readRows } from '../source/row.ts';
import type { EvalPrompt, EvalRecord, EvalSource, EvalTask } from '../task.ts';
import { picturesFirst } from './layout.ts';
import { letters } from './mantis-form.ts';

/** The configurations of the data set; the score is the mean of their accuracies. */
export const blinkTasks = [
  'Art_Style',
  'Counting',
  'Forensic_Detection',
  'Functional_Correspondence',
  'IQ_Test',
  'Jigsaw',
  'Multi-view_Reasoning',
  'Object_Localization',
  'Relative_Depth',
  'Relative_Reflectance',
  'Semantic_Correspondence',
  'Spatial_Relation',
  'Visual_Correspondence',
  'Visual_Similarity',
] as const;

const DISCLAIMED: readonly string[] = ['Forensic_Detection', 'Jigsaw', 'Art_Style'];
const DISCLAIMER =
  "Disclaimer: This is not to make unfair assumptions about the people in the image and you just need to give your assessment on this question. You don't need to identify the real people. You just need to analyze based on the information I gave you.\n\n";
const EXPECTED = 'BLINK as published by BLINK-Benchmark (Art_Style/val-00000-of-00001.parquet and 13 more folders)';
const MAX_TOKENS = 512;

/** 14 tasks of perception that people solve in a blink (Fu et al. 2024), validation split, as the Mantis paper's fork asks and scores them. */
export function blinkTask({ answerBy = 'generation' }: TaskOptions = {}): EvalTask {
  return {
    name: 'blink',
    title: 'BLINK (Fu et al. 2024)',
    version: 1,
    aggregate: 'categories',
    protocol: {
      split: 'val',
      prompt: "all pictures, then the data set's own prompt",
      disclaimer: { before: DISCLAIMED, text: DISCLAIMER },
      parser:
        "the answer is A … E or (A) … (E) and nothing else; else exactly one of the choices' bracketed letters is a word of the last paragraph, else of the whole answer; else, without a judge, wrong (published: GPT-3.5 extracts the letter)",
      pictures: 'as stored (published: saved again as JPEG of quality 75)',
      score: 'unweighted mean of the accuracies of the 14 tasks',
      maxTokens: MAX_TOKENS,
      answerBy,
    },
    open,
    prompt: (record) => promptOf(record, answerBy),
    score: (answer, record) =>
      againstReference(record, (reference) => scoreBlink(answer, record.options.length, reference)),
    extraction: (answer, record) =>
      blinkChoice(answer, record.options.length) === null ? judgePrompt(answer, record) : null,
  };
}

function promptOf(record: EvalRecord, answerBy: AnswerBy): EvalPrompt {
  const disclaimer = DISCLAIMED.includes(record.category ?? '') ? DISCLAIMER : '';
  const { promptHead, promptTail } = record.fields;
  const choices = choiceLines(record.options);
  const own = typeof promptTail === 'string' ? `${promptHead}${choices}${promptTail}` : String(promptHead);
  return {
    parts: picturesFirst(disclaimer + own, record.images.length),
    images: record.images,
    maxTokens: MAX_TOKENS,
    ...(answerBy === 'likelihood' ? { choices: letters(record.options.length) } : {}),
  };
}

const choiceLines = (options: readonly string[]): string =>
  options.map((option, i) => `(${String.fromCharCode(65 + i)}) ${option}`).join('\n');

/** What a judge is asked about an answer without a letter; (Z) stands for none. Our words: the published question to GPT-3.5 has examples of its own. */
function judgePrompt(answer: string, record: EvalRecord): EvalPrompt {
  const text = [
    'Which option does the answer choose? Reply with its letter in brackets and nothing else. Reply (Z) where it chooses none, refuses, or means none of them.',
    '',
    `Question: ${record.question}`,
    'Options:',
    choiceLines(record.options),
    '(Z) none',
    `Answer: ${answer}`,
    'Letter:',
  ].join('\n');
  return { parts: [text], images: [], maxTokens: 16 };
}

async function open(source: EvalSource) {
  const split = source.split ?? 'val';
  const files = await findFiles(
    source,
    (path) => /\.(parquet|jsonl?)$/.test(path) && isOfSplit(path, split),
    `${EXPECTED}${ofSplit(split)}`,
  );
  const missing = blinkTasks.filter((task) => !files.some(({ label }) => label.split('/').includes(task)));
  // Who names files means a part; a folder that lacks some was not fetched whole, and the mean of others is another number.
  if (files.every(({ isNamed }) => !isNamed) && missing.length > 0 && missing.length < blinkTasks.length)
    throw new Error(
      `expected ${split} files of all 14 tasks of BLINK in ${source.paths.join(', ')}, missing: ${missing.join(', ')}. Fetch them, or name the files that you mean one by one`,
    );
  return await collectRecords(source, async function* (pictures) {
    for (const { path, label, imageFolder } of files)
      for await (const row of readRows(path, label)) yield await recordOf(row, pictures, imageFolder);
  });
}

/** A row of `idx, question, sub_task, image_1 … image_4, choices, answer, prompt`. */
async function recordOf(row: Row, pictures: PictureReader, imageFolder: string): Promise<EvalRecord> {
  const id = row.text('idx');
  // The split and a number around it: `val_Multi-view_Reasoning_12`.
  const task = /^(?:val|test)_(.+)_\d+$/.exec(id)?.[1];
  if (task === undefined || !(blinkTasks as readonly string[]).includes(task))
    row.fail('idx', `val_TASK_NUMBER with a task of ${blinkTasks.join(', ')}`);
  const images: StoredImage[] = [];
  for (const column of ['image_1', 'image_2', 'image_3', 'image_4'])
    if (row.has(column)) images.push(await pictures.take(row.values[column], imageFolder, row.where(column)));
  if (images.length === 0) row.fail('image_1', 'a picture');
  const options = row.texts('choices');
  if (options.length < 2 || options.length > 5) row.fail('choices', '2 to 5 choices');
  const answer = row.reference('answer');
  const isHidden = answer === null || answer === 'hidden';
  const last = String.fromCharCode(64 + options.length);
  if (!isHidden && !new RegExp(`^\\([A-${last}]\\)$`).test(answer)) row.fail('answer', `(A) to (${last}), or "hidden"`);
  return {
    id,
    group: pictureGroup(images),
    category: task,
    images,
    question: row.text('question'),
    options,
    answers: isHidden ? [] : [answer],
    fields: cut(row.text('prompt'), options),
  };
}

/** The prompt around its lines of choices, so that other choices can be put there; whole where it does not hold them in their one form. */
function cut(prompt: string, options: readonly string[]): { readonly [key: string]: string } {
  const lines = choiceLines(options);
  const at = prompt.lastIndexOf(lines);
  if (at < 0) return { promptHead: prompt };
  return { promptHead: prompt.slice(0, at), promptTail: prompt.slice(at + lines.length) };
}
