import type { EvalSource } from '../task.ts';
import { findFiles, isOfSplit, ofSplit, type SourceFile } from './files.ts';
import { type Row, readRows } from './row.ts';
import { readTsv } from './tsv.ts';

/** A row and where its pictures' paths start from. */
export interface TableRow {
  readonly row: Row;
  readonly folder: string;
}

/** What of a folder a task reads. */
export interface TableForm {
  /** Of the protocol, where the user names no other. */
  readonly split: string;
  /** What is looked for, in words, for the message where there is none: `TextVQA's Parquet files`. */
  readonly expected: string;
  /** Names of a split's files in other forms than Hugging Face's: `v2_mscoco_val2014_annotations.json`. */
  readonly alsoNamed?: (path: string, split: string) => boolean;
  /** Files of a folder that are never meant: other languages, other configurations. */
  readonly never?: (path: string) => boolean;
}

/**
 * The files of a task's split: those that the user names, and in folders those named after the split. Where a folder holds a split in two forms, Parquet is
 * read, since it holds its pictures.
 * @throws Error naming the split and the others that are there
 */
export async function splitFiles(source: EvalSource, form: TableForm): Promise<readonly SourceFile[]> {
  const split = source.split ?? form.split;
  const isMeant = (path: string): boolean =>
    form.never?.(path) !== true &&
    ((/\.(parquet|jsonl|json|tsv)$/i.test(path) && isOfSplit(path, split)) || form.alsoNamed?.(path, split) === true);
  const files = await findFiles(source, isMeant, `${form.expected}${ofSplit(split)}`);
  const found = files.filter(({ isNamed }) => !isNamed);
  const isParquet = ({ path }: SourceFile): boolean => path.endsWith('.parquet');
  return found.some(isParquet) ? files.filter((file) => file.isNamed || isParquet(file)) : files;
}

/** The rows of a split's files: Parquet, JSON Lines, a JSON array or tab-separated values. */
export async function* tableRows(files: readonly SourceFile[]): AsyncGenerator<TableRow, void, undefined> {
  for (const { path, label, imageFolder } of files) {
    const rows = /\.tsv$/i.test(path) ? readTsv(path, label) : readRows(path, label);
    for await (const row of rows) yield { row, folder: imageFolder };
  }
}
