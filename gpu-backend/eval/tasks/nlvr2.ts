import { sha256Hex } from '../../io/digest.ts';
import type { TaskOptions } from '../options.ts';
import { collectRecords } from '../source/collect.ts';
import { findFiles, isOfSplit, ofSplit, type SourceFile } from '../source/files.ts';
import { firstPicture } from '../source/first-picture.ts';
import type { PictureReader, StoredImage } from '../source/pictures.ts';
import { type Row, readRows } from '../source/row.ts';
import type { EvalRecord, EvalSource, EvalTask } from '../task.ts';
import { mantisRecord, mantisTask } from './mantis-form.ts';

const EXPECTED =
  'NLVR2 as published by TIGER-Lab (test-00000-of-00084.parquet, …) or by its authors (test1.json with the folder of pictures test1)';

/** Whether a statement about two photographs is true (Suhr et al. 2019), in the Mantis paper's form. */
export function nlvr2Task(options?: TaskOptions): EvalTask {
  return mantisTask(
    {
      name: 'nlvr2',
      title: 'NLVR2 (Suhr et al. 2019)',
      version: 1,
      split: 'test-public',
      acceptsTrueFalse: true,
      notes: {
        authorsFiles:
          '"<image><image> Here is a statement about the images. Is it true or false?", the statement on a line of its own, options (A) and (B); which of them is True is the lowest bit of the first byte of the SHA-256 of the identifier (the published rows drew it)',
      },
      open,
    },
    options,
  );
}

async function open(source: EvalSource) {
  const split = source.split ?? 'test';
  // The authors name the public test split test1.
  const names = split === 'test' ? ['test', 'test1'] : [split];
  const files = await findFiles(
    source,
    (path) => /\.(parquet|jsonl?)$/.test(path) && names.some((name) => isOfSplit(path, name)),
    `${EXPECTED}${ofSplit(split)}`,
  );
  return await collectRecords(source, async function* (pictures) {
    for (const file of files)
      for await (const row of readRows(file.path, file.label)) {
        yield row.has('sentence')
          ? await authorsRecord(row, file, pictures)
          : trueOrFalse(row, await mantisRecord(row, pictures, file.imageFolder, setOf));
      }
  });
}

/** Rows of the Mantis form look alike in all benchmarks; these ask for true or false. */
function trueOrFalse(row: Row, record: EvalRecord): EvalRecord {
  const said = record.options.map((option) => option.trim().toLowerCase()).sort();
  return said.join() === 'false,true'
    ? record
    : row.fail('options', 'True and False, as all questions of NLVR2 have them');
}

/** `test1-0-1-0` is statement 0 on pair 1 of set 0: one person wrote the statements of a set, on pairs that were found together. */
function setOf(identifier: string): string {
  const match = /^([a-z]+\d?-\d+)-\d+-\d+$/.exec(identifier);
  return match?.[1] ?? identifier;
}

/** A line of the authors' files: `identifier, sentence, label, directory?`. */
async function authorsRecord(row: Row, file: SourceFile, pictures: PictureReader): Promise<EvalRecord> {
  const id = row.text('identifier');
  const pair = id.slice(0, Math.max(0, id.lastIndexOf('-')));
  const images: StoredImage[] = [];
  for (const side of [0, 1]) {
    const paths = picturePaths(`${pair}-img${side}.png`, row);
    images.push(await firstPicture(paths, file.imageFolder, row.where('identifier'), pictures));
  }
  const label = row.has('label') ? row.label('label').toLowerCase() : null;
  if (label !== null && label !== 'true' && label !== 'false') row.fail('label', '"True" or "False"');
  const isTrueFirst = (Number.parseInt(sha256Hex(id).slice(0, 2), 16) & 1) === 1;
  return {
    id,
    group: setOf(id),
    category: 'logical reasoning',
    images,
    question: `<image><image> Here is a statement about the images. Is it true or false?\n${row.text('sentence')}`,
    options: isTrueFirst ? ['True', 'False'] : ['False', 'True'],
    answers: label === null ? [] : [(label === 'true') === isTrueFirst ? 'A' : 'B'],
    fields: { questionType: 'multi-choice', letters: ['(A) ', '(B) '] },
  };
}

/** Where the authors' archives put a picture: `test1/…`, `dev/…`, `images/train/DIRECTORY/…`; or all in one folder. */
function picturePaths(name: string, row: Row): readonly string[] {
  const split = name.slice(0, Math.max(0, name.indexOf('-')));
  const directory = row.has('directory') ? row.label('directory') : null;
  const folders = ['', split, `images/${split}`, `${split}_images`, `${split.replace(/\d$/, '')}_images`];
  if (directory !== null) folders.push(directory, `images/train/${directory}`, `train/${directory}`);
  return folders.map((folder) => (folder === '' ? name : `${folder}/${name}`));
}
