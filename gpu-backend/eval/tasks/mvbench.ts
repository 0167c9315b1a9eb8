import type { AnswerBy, TaskOptions } from '../options.ts';
import { scoreMvBench } from '../parsers/mantis-mvbench.ts';
import { againstReference } from '../parsers/reference.ts';
import { collectRecords, pictureGroup } from '../source/collect.ts';
import { findFiles } from '../source/files.ts';
import type { PictureReader, StoredImage } from '../source/pictures.ts';
import { type Row, readRows } from '../source/row.ts';
import type { EvalPrompt, EvalRecord, EvalSource, EvalTask } from '../task.ts';
import { picturesFirst } from './layout.ts';
import { letters, splitLetters } from './mantis-form.ts';
import { type MvBenchClip, mvBenchFrames, mvBenchTasks } from './mvbench-frames.ts';

const INSTRUCTION = "Answer with the option's letter from the given choices directly.";
const EXPECTED =
  'MVBench as published by OpenGVLab (json/action_sequence.json and 19 more beside the folder video), or rows of 8 frames: question, images, options, answer';
const MAX_TOKENS = 512;
const FRAMES = 8;

/** 20 tasks about what happens in a clip (Li et al. 2024), 8 frames of each, as the Mantis paper asks and scores them. */
export function mvBenchTask({ answerBy = 'generation' }: TaskOptions = {}): EvalTask {
  return {
    name: 'mvbench',
    title: 'MVBench (Li et al. 2024), 8 frames',
    version: 1,
    aggregate: 'records',
    protocol: {
      split: 'test',
      frames: `${FRAMES}, the middles of ${FRAMES} equal parts of the clip (between start and end where the task has them), unscaled`,
      prompt: `all frames, then "Question: {question}", a line "A. {option}" for each option, "${INSTRUCTION}"`,
      parser:
        'after the last "the answer is", else "answer:", else "the option is ", else "Answer:" (capitals count): the first letter, as it is written',
      score: 'accuracy over all questions',
      maxTokens: MAX_TOKENS,
      answerBy,
    },
    open,
    prompt: (record) => promptOf(record, answerBy),
    score: (answer, record) => againstReference(record, (reference) => scoreMvBench(answer, reference)),
  };
}

function promptOf(record: EvalRecord, answerBy: AnswerBy): EvalPrompt {
  const lines = record.options.map((option, i) => `${String.fromCharCode(65 + i)}. ${option}\n`).join('');
  const text = `Question: ${record.question}\n${lines}${INSTRUCTION}`;
  return {
    parts: picturesFirst(text, record.images.length),
    images: record.images,
    maxTokens: MAX_TOKENS,
    ...(answerBy === 'likelihood' ? { choices: letters(record.options.length) } : {}),
  };
}

async function open(source: EvalSource) {
  const ofTask = (path: string) => mvBenchTasks.find(({ file }) => path === file || path.endsWith(`/${file}`));
  const isRows = (path: string) => /(^|\/)test[^/]*\.(parquet|jsonl?)$/.test(path);
  const files = await findFiles(source, (path) => ofTask(path) !== undefined || isRows(path), EXPECTED);
  const missing = mvBenchTasks.filter((task) => !files.some(({ path }) => ofTask(path) === task));
  if (files.every(({ isNamed }) => !isNamed) && missing.length > 0 && missing.length < mvBenchTasks.length)
    throw new Error(
      `expected all 20 tasks of MVBench in ${source.paths.join(', ')}, missing: ${missing.map(({ file }) => file).join(', ')}. Fetch them, or name the files that you mean one by one`,
    );
  return await collectRecords(source, async function* (pictures) {
    for (const { path, label, imageFolder } of files) {
      const task = ofTask(path);
      const folder = source.imageFolder ?? null;
      for await (const row of readRows(path, label)) {
        if (row.has('images')) yield await frameRecord(row, pictures, imageFolder);
        else if (task !== undefined)
          yield await clipRecord(row, { ...task, jsonPath: path, videoFolder: folder }, pictures);
        else row.fail('images', `${FRAMES} frames`);
      }
    }
  });
}

/** An element of a published task: `video, question, candidates, answer, start?, end?`. */
async function clipRecord(row: Row, clip: MvBenchClip, pictures: PictureReader): Promise<EvalRecord> {
  const options = row.texts('candidates');
  const frames = await mvBenchFrames(row, clip, FRAMES);
  const images: StoredImage[] = [];
  for (const name of frames.names) images.push(await pictures.path(name, frames.folder, row.where('video')));
  return {
    id: `${clip.file.replace(/\.json$/, '')}-${row.line - 1}`,
    group: `${clip.folder}${row.text('video')}`,
    category: clip.name,
    images,
    question: row.text('question'),
    options,
    answers: [letterOfText(row, options)],
    fields: {},
  };
}

/** A row that holds its frames: `id, question, images, options or candidates, answer (a letter or the option's text), category or task_type`. */
async function frameRecord(row: Row, pictures: PictureReader, imageFolder: string): Promise<EvalRecord> {
  const values = row.list('images');
  if (values.length !== FRAMES) row.fail('images', `${FRAMES} frames`);
  const images: StoredImage[] = [];
  for (const [i, value] of values.entries())
    images.push(await pictures.take(value, imageFolder, `${row.where('images')}, frame ${i + 1}`));
  const { options } = splitLetters(row.texts(row.has('options') ? 'options' : 'candidates'));
  const answer = row.text('answer');
  const letter = /^\(?([A-Z])(?:[).:].*)?$/s.exec(answer)?.[1];
  const isLetter = letter !== undefined && !options.includes(answer) && letter.charCodeAt(0) - 65 < options.length;
  return {
    id: row.has('id') ? row.label('id') : `${row.file}-${row.line}`,
    group: pictureGroup(images),
    category: row.optionalText(row.has('task_type') ? 'task_type' : 'category'),
    images,
    question: row.text('question'),
    options,
    answers: [isLetter ? letter : letterOfText(row, options)],
    fields: {},
  };
}

/** The letter of the option that the answer is; the last one where two have its text, as published. */
function letterOfText(row: Row, options: readonly string[]): string {
  const place = options.lastIndexOf(row.text('answer'));
  if (place < 0) row.fail('answer', `one of the options ${JSON.stringify(options)}`);
  return String.fromCharCode(65 + place);
}
