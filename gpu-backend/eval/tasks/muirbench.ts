import type { TaskOptions } from '../options.ts';
import { letteredLines, letterOf, scoreLeadingLetter } from '../parsers/letters.ts';
import { collectRecords, pictureGroup } from '../source/collect.ts';
import type { PictureReader, StoredImage } from '../source/pictures.ts';
import type { Row } from '../source/row.ts';
import { splitFiles, type TableForm, tableRows } from '../source/table.ts';
import type { EvalRecord, EvalSource, EvalTask } from '../task.ts';
import { LETTER_PROMPT, type LetterBenchmark, letterTask } from './letter-task.ts';
import { numberMarkers } from './placing.ts';

const form: TableForm = { split: 'test', expected: 'MuirBench (the Parquet files of MUIRBENCH/MUIRBENCH)' };

const muirBench: LetterBenchmark = {
  name: 'muirbench',
  title: 'MuirBench (Wang et al. 2024)',
  version: 1,
  split: form.split,
  maxTokens: 16,
  aggregate: 'records',
  promptForm: ['question, pictures at their <image>', '"A. {option}" lines, pictures likewise', LETTER_PROMPT],
  write: ({ question, options }) => `${question}\n${letteredLines(options)}\n${LETTER_PROMPT}`,
  parser: 'an upper-case letter and a full stop at the start, else the whole answer must be the letter, in either case',
  score: (answer, _record, target) => scoreLeadingLetter(answer, target),
  open: (source) => collectRecords(source, (pictures) => muirBenchRecords(source, pictures)),
  sources: [
    'https://muirbench.github.io',
    'https://huggingface.co/datasets/MUIRBENCH/MUIRBENCH',
    'lmms-eval: muirbench',
  ],
};

/** 2,600 questions over several pictures; answerable ones have an unanswerable counterpart. */
export const muirBenchTask = (options?: TaskOptions): EvalTask => letterTask(muirBench, options);

async function* muirBenchRecords(
  source: EvalSource,
  pictures: PictureReader,
): AsyncGenerator<EvalRecord, void, undefined> {
  for await (const { row, folder } of tableRows(await splitFiles(source, form)))
    yield await recordOf(row, folder, pictures);
}

async function recordOf(row: Row, folder: string, pictures: PictureReader): Promise<EvalRecord> {
  const published = row.texts('options');
  if (published.length < 2 || published.length > 26) row.fail('options', '2 to 26 texts');
  const images: StoredImage[] = [];
  for (const [i, value] of row.list('image_list').entries())
    images.push(await pictures.take(value, folder, `${row.where('image_list')}, picture ${i + 1}`));
  const { texts, count } = numberMarkers([row.text('question'), ...published]);
  if (count > images.length)
    row.fail('question', `at most ${images.length} marks \`<image>\`, one for each picture, not ${count}`);
  const [question = '', ...options] = texts;
  const answer = row.text('answer').trim().toUpperCase();
  if (!options.some((_, i) => letterOf(i) === answer)) row.fail('answer', 'the letter of an option');
  const id = row.label('idx');
  const counterpart = row.has('counterpart_idx') ? row.label('counterpart_idx') : null;
  return {
    id,
    // A question and its unanswerable counterpart are variants of one.
    group: counterpart === null ? pictureGroup(images) : [id, counterpart].sort().join(' '),
    category: row.optionalText('task'),
    images,
    question,
    options,
    answers: [answer],
    fields: {
      ...(row.has('image_relation') ? { imageRelation: row.text('image_relation') } : {}),
      ...(row.has('image_type') ? { imageType: row.text('image_type') } : {}),
    },
  };
}
