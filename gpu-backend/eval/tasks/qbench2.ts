import type { TaskOptions } from '../options.ts';
import { collectRecords, pictureGroup } from '../source/collect.ts';
import { findFiles, ofSplit, type SourceFile } from '../source/files.ts';
import { firstPicture } from '../source/first-picture.ts';
import type { PictureReader, StoredImage } from '../source/pictures.ts';
import { type Row, readRows } from '../source/row.ts';
import type { EvalRecord, EvalSource, EvalTask } from '../task.ts';
import { mantisRecord, mantisTask } from './mantis-form.ts';

const EXPECTED =
  'Q-Bench2 A1 pairs: q-bench2-a1-dev.jsonl with the folder all_single_images, the prepared q-bench2-a1-pair-dev.json, or dev-*.parquet of Q-Bench2-HF';

/** Which of two pictures is clearer, brighter, … (Zhang et al. 2024), pairs of the dev split in the Mantis paper's form. */
export function qbench2Task(options?: TaskOptions): EvalTask {
  return mantisTask(
    {
      name: 'qbench2',
      title: 'Q-Bench2 A1, pairs (Zhang et al. 2024)',
      version: 1,
      split: 'dev',
      acceptsTrueFalse: false,
      notes: { options: 'with their letters in brackets, "(A) …", as the Mantis paper prepared them' },
      open,
    },
    options,
  );
}

async function open(source: EvalSource) {
  const split = source.split ?? 'dev';
  const isWanted = (path: string) => {
    const name = path.slice(path.lastIndexOf('/') + 1);
    return (
      name === `q-bench2-a1-${split}.jsonl` ||
      name === `q-bench2-a1-pair-${split}.json` ||
      (name.startsWith(`${split}-`) && name.endsWith('.parquet'))
    );
  };
  const found = await findFiles(source, isWanted, `${EXPECTED}${ofSplit(split)}`);
  // Who ran the paper's preparation has the prepared file beside the one that it was made from.
  const prepared = found.filter(({ label, isNamed }) => !isNamed && /-pair-[a-z]+\.json$/.test(label));
  const files = prepared.length > 0 ? prepared : found;
  return await collectRecords(source, async function* (pictures) {
    for (const file of files)
      for await (const row of readRows(file.path, file.label)) {
        if (row.has('question_type') && row.has('images')) yield await mantisRecord(row, pictures, file.imageFolder);
        else yield await authorsRecord(row, file, pictures);
      }
  });
}

/**
 * `question, candidates, img_path, correct_choice?` of the authors' lines, or `question, option0 … option3, image1, image2, correct_choice?` of their Parquet
 * files; the test split has no answers.
 */
async function authorsRecord(row: Row, file: SourceFile, pictures: PictureReader): Promise<EvalRecord> {
  const isParquet = row.has('image1');
  const images: StoredImage[] = [];
  if (isParquet) {
    for (const column of ['image1', 'image2'])
      images.push(await pictures.take(row.values[column], file.imageFolder, row.where(column)));
  } else {
    for (const name of pairNames(row))
      images.push(
        await firstPicture([name, `all_single_images/${name}`], file.imageFolder, row.where('img_path'), pictures),
      );
  }
  const options = row.has('candidates')
    ? row.texts('candidates')
    : ['option0', 'option1', 'option2', 'option3'].flatMap((column) => {
        const option = row.optionalText(column);
        return option === null || option === 'N/A' || option === '' ? [] : [option];
      });
  if (options.length < 2) row.fail(row.has('candidates') ? 'candidates' : 'option1', 'at least 2 options');
  const choice = row.has('correct_choice') ? row.text('correct_choice') : null;
  if (choice !== null && !(/^[A-Z]$/.test(choice) && choice.charCodeAt(0) - 65 < options.length))
    row.fail('correct_choice', `a letter from A to ${String.fromCharCode(64 + options.length)}`);
  return {
    id: row.has('id') ? row.label('id') : `qbench2-a1-${row.line - 1}`,
    group: pictureGroup(images),
    category: 'low level visual comparison',
    images,
    question: row.text('question'),
    options,
    answers: choice === null ? [] : [choice],
    fields: {
      questionType: 'multi-choice',
      letters: options.map((_, i) => `(${String.fromCharCode(65 + i)}) `),
      ...(row.has('type') ? { type: row.json('type') } : {}),
      ...(row.has('concern') ? { concern: row.json('concern') } : {}),
    },
  };
}

/** The two pictures in the name of their joined one: `llvisionqa_compare_dev\00079.jpg_cat_09769.jpg.jpg`. */
function pairNames(row: Row): readonly string[] {
  const joined = row.text('img_path').split(/[\\/]/).at(-1) ?? '';
  const names = joined.replace(/\.jpg$/, '').split('_cat_');
  if (names.length !== 2 || names.some((name) => name === '')) row.fail('img_path', 'two names joined by "_cat_"');
  return names;
}
