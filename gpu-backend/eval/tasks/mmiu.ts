import { scoreLoneLetter } from '../parsers/letters.ts';
import { collectRecords, pictureGroup } from '../source/collect.ts';
import { firstPicture } from '../source/first-picture.ts';
import type { PictureReader, StoredImage } from '../source/pictures.ts';
import type { Row } from '../source/row.ts';
import { splitFiles, type TableForm, tableRows } from '../source/table.ts';
import type { EvalPrompt, EvalRecord, EvalSource, EvalTask } from '../task.ts';
import { placePictures } from './placing.ts';

const MAX_TOKENS = 1024;
const INSTRUCTION = 'Please answer the option directly like A,B,C,D...';

/** Tasks whose question goes before the context that holds the options; in all others it goes after it. */
const QUESTION_FIRST: ReadonlySet<string> = new Set([
  'person_reid',
  'multiple_image_captioning',
  'spot_the_similarity',
  'face_retrieval',
  'sketch2image_retrieval',
  'handwritten_retrieval',
  'spot_the_diff',
  'image2image_retrieval',
  'vehicle_retrieval',
  'text2image_retrieval',
  'general_action_recognition',
  'video_captioning',
  'next_img_prediction',
  'temporal_ordering',
  'meme_vedio_understanding',
  'action_quality_assessment',
  'temporal_localization',
  'mevis',
  'ravens_progressive_matrices',
  'threed_indoor_recognition',
  'point_tracking',
  'threed_cad_recognition',
  'single_object_tracking',
]);

const form: TableForm = {
  split: 'test',
  expected: 'MMIU (all.parquet or all.json of FanqingM/MMIU-Benchmark, with the folders of its unpacked pictures)',
  alsoNamed: (path) => /(^|\/)all\.(parquet|json)$/.test(path),
};

/** 11,698 questions of 52 tasks over 2 to 32 pictures (Meng et al. 2024). */
export function mmiuTask(): EvalTask {
  return {
    name: 'mmiu',
    title: 'MMIU (Meng et al. 2024)',
    version: 1,
    protocol: {
      split: form.split,
      prompt: ['pictures', 'context and question (in 23 of the tasks question and context)', INSTRUCTION],
      questionFirst: [...QUESTION_FIRST],
      parser:
        'a lone letter A to N, full stops, commas and brackets around it dropped; else wrong, unless a judge is named',
      judge: 'with a judge, other answers are matched by it, by a prompt of our own wording; Z is none of the options',
      records: 'those without a reference are left out',
      score: 'accuracy of each task, mean over tasks',
      maxTokens: MAX_TOKENS,
      sources: ['https://mmiu-bench.github.io', 'https://huggingface.co/datasets/FanqingM/MMIU-Benchmark'],
    },
    aggregate: 'categories',
    open: (source) => collectRecords(source, (pictures) => mmiuRecords(source, pictures)),
    prompt: (record) => {
      const { question, fields, category, images } = record;
      const context = String(fields.context ?? '');
      const pieces = QUESTION_FIRST.has(category ?? '') ? [question, context] : [context, question];
      const text = [...pieces, INSTRUCTION].join('\n');
      return { parts: placePictures(text, images.length), images, maxTokens: MAX_TOKENS };
    },
    score: (answer, { answers }) => {
      const scored = scoreLoneLetter(answer, answers[0] ?? '');
      return answers.length === 0 ? { ...scored, score: 0, rule: 'no reference' } : scored;
    },
    extraction: (answer, record) =>
      scoreLoneLetter(answer, 'A').rule === 'no letter' ? judgePrompt(answer, record) : null,
  };
}

async function* mmiuRecords(source: EvalSource, pictures: PictureReader): AsyncGenerator<EvalRecord, void, undefined> {
  let count = 0;
  for await (const { row, folder } of tableRows(await splitFiles(source, form))) {
    count++;
    if (row.has('output')) yield await recordOf(row, folder, `${row.text('task')}-${count}`, pictures);
  }
}

async function recordOf(row: Row, folder: string, id: string, pictures: PictureReader): Promise<EvalRecord> {
  const images: StoredImage[] = [];
  for (const [i, path] of row.texts('input_image_path').entries()) {
    const inside = path.replace(/^\.\//, '');
    const where = `${row.where('input_image_path')}, picture ${i + 1}`;
    images.push(await firstPicture([inside, `images/${inside}`], folder, where, pictures));
  }
  return {
    id,
    group: pictureGroup(images),
    category: row.text('task'),
    images,
    question: row.text('question'),
    // The options stand within the context, so that there are none to compare or to rotate.
    options: [],
    answers: [row.text('output').trim()],
    fields: { context: row.text('context'), options: row.has('options') ? row.text('options') : '' },
  };
}

function judgePrompt(answer: string, { question, fields }: EvalRecord): EvalPrompt {
  const text = [
    'Below are a multiple-choice question, its options and what somebody replied. Say which option the reply means; numbers need not agree to the last digit.',
    'Reply with its letter alone. Reply Z where the reply means none of the options.',
    '',
    'Question: How many birds sit on the wire?',
    'Options: A: two B: three C: five',
    'Reply: I can see a trio of birds.',
    'Letter: B',
    '',
    `Question: ${question}`,
    `Options: ${String(fields.options ?? '')}`,
    `Reply: ${answer}`,
    'Letter:',
  ].join('\n');
  return { parts: [text], images: [], maxTokens: 16 };
}
