import type { TaskOptions } from '../options.ts';
import { collectRecords } from '../source/collect.ts';
import { findFiles, isOfSplit, ofSplit } from '../source/files.ts';
import { readRows } from '../source/row.ts';
import type { EvalSource, EvalTask } from '../task.ts';
import { mantisRecord, mantisTask } from './mantis-form.ts';

const EXPECTED =
  'Mantis-Eval as published by TIGER-Lab (test-00000-of-00001.parquet), or JSON rows of the same columns';

/** 217 questions over 2 to 5 pictures, options and short answers mixed (Jiang et al. 2024). */
export function mantisEvalTask(options?: TaskOptions): EvalTask {
  const split = 'test';
  return mantisTask(
    { name: 'mantis-eval', title: 'Mantis-Eval (Jiang et al. 2024)', version: 1, split, acceptsTrueFalse: false, open },
    options,
  );
}

async function open(source: EvalSource) {
  const split = source.split ?? 'test';
  const files = await findFiles(
    source,
    (path) => /\.(parquet|jsonl?)$/.test(path) && isOfSplit(path, split),
    `${EXPECTED}${ofSplit(split)}`,
  );
  return await collectRecords(source, async function* (pictures) {
    for (const { path, label, imageFolder } of files)
      for await (const row of readRows(path, label)) yield await mantisRecord(row, pictures, imageFolder);
  });
}
