import { pictureGroup } from '../source/collect.ts';
import { isDocument, readDocument, rowsIn } from '../source/document.ts';
import type { SourceFile } from '../source/files.ts';
import { firstPicture } from '../source/first-picture.ts';
import type { PictureReader, StoredImage } from '../source/pictures.ts';
import { type Row, shown } from '../source/row.ts';
import { splitFiles, type TableForm, tableRows } from '../source/table.ts';
import type { EvalRecord, EvalSource, Json } from '../task.ts';

/** How the published files of a VQA benchmark differ from the next. */
export interface VqaForm extends TableForm {
  /** Column that a report breaks the score down by; null for none. */
  readonly categoryColumn: string | null;
  /** Files of pictures, tried in turn under the folder of pictures, for rows that hold none. */
  picturePaths(row: Row, split: string): readonly string[];
}

/**
 * Records of a VQA benchmark, from any of its published forms: rows that hold their pictures (Parquet); one document with a list `data` (TextVQA); or the pair
 * of a document with `questions` and one with `annotations` (VQA). The forms give equal records.
 */
export async function* vqaRecords(
  source: EvalSource,
  form: VqaForm,
  pictures: PictureReader,
): AsyncGenerator<EvalRecord, void, undefined> {
  const split = source.split ?? form.split;
  const files = await splitFiles(source, form);
  const tables: SourceFile[] = [];
  const documents: (readonly [SourceFile, Readonly<Record<string, unknown>>])[] = [];
  for (const file of files) {
    if (!(await isDocument(file.path))) {
      tables.push(file);
      continue;
    }
    const document = await readDocument(file.path, file.label);
    if (!['questions', 'annotations', 'data'].some((key) => Object.hasOwn(document, key)))
      throw new Error(
        `${file.label}: expected a document with \`questions\`, \`annotations\` or \`data\`, received one with ${Object.keys(document).slice(0, 6).join(', ') || 'nothing'}`,
      );
    documents.push([file, document]);
  }
  for await (const { row, folder } of tableRows(tables)) yield await recordOf(row, folder, row, form, split, pictures);

  const annotations = new Map<string, Row>();
  for (const [file, document] of documents) {
    if (document.annotations === undefined) continue;
    for (const row of rowsIn(document, 'annotations', file.label)) annotations.set(row.label('question_id'), row);
  }
  if (
    documents.length > 0 &&
    annotations.size === 0 &&
    documents.every(([, { data }]) => data === undefined) &&
    !split.startsWith('test')
  )
    throw new Error(
      `${documents.map(([{ label }]) => label).join(', ')}: expected a document with \`annotations\` beside the questions; name it as well`,
    );
  let asked = 0;
  for (const [file, document] of documents) {
    const key = document.questions === undefined ? 'data' : 'questions';
    if (document.annotations !== undefined && document[key] === undefined) continue;
    asked++;
    for (const row of rowsIn(document, key, file.label)) {
      const own = key === 'data' ? row : annotations.get(row.label('question_id'));
      if (own === undefined && annotations.size > 0)
        throw new Error(`${row.where('question_id')}: expected a question with annotations, there are none for it`);
      yield await recordOf(row, file.imageFolder, own ?? row, form, split, pictures);
    }
  }
  if (documents.length > 0 && asked === 0)
    throw new Error(
      `${documents.map(([{ label }]) => label).join(', ')}: expected a document with \`questions\` or \`data\` beside the annotations; name it as well`,
    );
}

async function recordOf(
  row: Row,
  folder: string,
  annotation: Row,
  form: VqaForm,
  split: string,
  pictures: PictureReader,
): Promise<EvalRecord> {
  const image = await pictureOf(row, folder, form, split, pictures);
  const fields: Record<string, Json> = {};
  for (const column of ['question_type', 'answer_type'])
    if (annotation.has(column)) fields[column] = annotation.text(column);
  return {
    id: row.label('question_id'),
    group: pictureGroup([image]),
    category: form.categoryColumn === null ? null : (annotation.optionalText(form.categoryColumn) ?? null),
    images: [image],
    question: row.text('question'),
    options: [],
    answers: annotation.has('answers') ? answersOf(annotation) : [],
    fields,
  };
}

/** Texts, or VQA's `{answer, answer_confidence, answer_id}`. */
function answersOf(row: Row): string[] {
  return row.list('answers').map((value, i) => {
    if (typeof value === 'string') return value;
    const answer = typeof value === 'object' && value !== null ? (value as { answer?: unknown }).answer : undefined;
    if (typeof answer !== 'string')
      throw new Error(`${row.where('answers')}, element ${i + 1}: expected text or {answer}, received ${shown(value)}`);
    return answer;
  });
}

async function pictureOf(
  row: Row,
  folder: string,
  form: VqaForm,
  split: string,
  pictures: PictureReader,
): Promise<StoredImage> {
  if (row.has('image')) return await pictures.take(row.values.image, folder, row.where('image'));
  if (!row.has('image_id')) row.fail('image', 'a picture, or an `image_id` that names its file');
  return await firstPicture(form.picturePaths(row, split), folder, row.where('image_id'), pictures);
}

/** COCO's names: `COCO_val2014_000000262148.jpg`, beside the questions or in a folder of the split. */
export function cocoPaths(row: Row, split: string): readonly string[] {
  const year = split === 'validation' || split === 'val' ? 'val2014' : split.startsWith('test') ? 'test2015' : split;
  const name = `COCO_${year}_${row.label('image_id').padStart(12, '0')}.jpg`;
  return [name, `${year}/${name}`, `images/${name}`];
}
