import type { TaskOptions } from '../options.ts';
import { letteredLines, letterOf, scoreExactLetter } from '../parsers/letters.ts';
import { collectRecords } from '../source/collect.ts';
import { isDocument, readDocument, rowsById } from '../source/document.ts';
import { firstPicture } from '../source/first-picture.ts';
import type { PictureReader, StoredImage } from '../source/pictures.ts';
import type { Row } from '../source/row.ts';
import { splitFiles, type TableForm, tableRows } from '../source/table.ts';
import type { EvalRecord, EvalSource, EvalTask } from '../task.ts';
import { LETTER_PROMPT, type LetterBenchmark, letterTask } from './letter-task.ts';

const form: TableForm = {
  split: 'test',
  expected: 'ScienceQA (Parquet of lmms-lab/ScienceQA, configuration ScienceQA-IMG, or problems.json)',
  alsoNamed: (path) => /(^|\/)problems\.json$/.test(path),
  // The repository holds ScienceQA-FULL beside it, whose rows with pictures are the same.
  never: (path) => /(^|\/)ScienceQA-FULL\//.test(path),
};

const scienceQa: LetterBenchmark = {
  name: 'scienceqa',
  title: 'ScienceQA-IMG (Lu et al. 2022)',
  version: 1,
  split: form.split,
  maxTokens: 16,
  aggregate: 'records',
  promptForm: [
    'picture',
    '"Context: {hint}" line where there is a hint',
    'question',
    '"A. {option}" lines',
    LETTER_PROMPT,
  ],
  write: ({ question, options, fields }) => {
    const context = typeof fields.hint === 'string' && fields.hint !== '' ? `Context: ${fields.hint}\n` : '';
    return `${context}${question}\n${letteredLines(options)}\n${LETTER_PROMPT}`;
  },
  parser: 'the letter in either case, or an upper-case letter and a full stop at the start; else wrong',
  score: (answer, _record, target) => scoreExactLetter(answer, target),
  open: (source) => collectRecords(source, (pictures) => scienceQaRecords(source, pictures)),
  notes: {
    records: 'only those with a picture',
    splitOfThePaper: 'its table says validation, its task file test; test is asked here',
  },
  sources: [
    'https://scienceqa.github.io',
    'https://huggingface.co/datasets/lmms-lab/ScienceQA',
    'lmms-eval: scienceqa_img',
  ],
};

/** @throws RangeError for an option that does not apply */
export const scienceQaTask = (options?: TaskOptions): EvalTask => letterTask(scienceQa, options);

async function* scienceQaRecords(
  source: EvalSource,
  pictures: PictureReader,
): AsyncGenerator<EvalRecord, void, undefined> {
  const split = source.split ?? form.split;
  const tables = [];
  for (const file of await splitFiles(source, form)) {
    if (!(await isDocument(file.path))) {
      tables.push(file);
      continue;
    }
    for (const [id, row] of rowsById(await readDocument(file.path, file.label), file.label)) {
      // The published splits are named train, val and test.
      if (!row.has('image') || (split === 'validation' ? 'val' : split) !== row.text('split')) continue;
      const name = row.text('image');
      const paths = [
        `${row.text('split')}/${id}/${name}`,
        `images/${row.text('split')}/${id}/${name}`,
        `${id}/${name}`,
      ];
      const image = await firstPicture(paths, file.imageFolder, row.where('image'), pictures);
      yield recordOf(id, row, image);
    }
  }
  let count = 0;
  for await (const { row, folder } of tableRows(tables)) {
    count++;
    if (!row.has('image')) continue;
    // Published rows have no id: their number in the split stands for one.
    const id = row.has('id') ? row.label('id') : `${split}-${count}`;
    yield recordOf(id, row, await pictures.take(row.values.image, folder, row.where('image')));
  }
}

function recordOf(id: string, row: Row, image: StoredImage): EvalRecord {
  const options = row.texts('choices');
  const answer = row.number('answer');
  if (options.length < 2 || options.length > 26) row.fail('choices', '2 to 26 texts');
  if (!Number.isInteger(answer) || answer < 0 || answer >= options.length)
    row.fail('answer', `the place of a choice, 0 to ${options.length - 1}`);
  return {
    id,
    group: image.sha256.slice(0, 16),
    category: row.optionalText('subject'),
    images: [image],
    question: row.text('question'),
    options,
    answers: [letterOf(answer)],
    fields: {
      hint: row.optionalText('hint') ?? '',
      ...(row.has('grade') ? { grade: row.text('grade') } : {}),
      ...(row.has('topic') ? { topic: row.text('topic') } : {}),
    },
  };
}
