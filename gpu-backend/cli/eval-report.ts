import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { buildReport, reportJson } from '../eval/report/build.ts';
import { recordsOf } from '../eval/report/items.ts';
import type { EvalReport } from '../eval/report/schema.ts';
import type { EvalRunResult } from '../eval/run/run.ts';
import { writeDurably } from '../eval/run/run-folder.ts';
import { type SubmissionRow, writeSubmission } from '../eval/submission.ts';
import type { EvalItem, EvalModel, EvalRecords, EvalTask } from '../eval/task.ts';
import { CliError } from './error.ts';
import type { EvalFlags } from './eval-options.ts';

export interface FinishedRun {
  readonly task: EvalTask;
  readonly records: EvalRecords;
  readonly model: Pick<EvalModel, 'name' | 'identity'>;
  readonly result: EvalRunResult;
}

/** Writes what the flags ask for: report.json into the run's folder, the HTML page, the rows for a server. */
export async function writeResults(run: FinishedRun, flags: EvalFlags): Promise<EvalReport> {
  const { task, records, model, result } = run;
  const report = await buildReport({
    spec: result.spec,
    title: task.title,
    model,
    items: result.items,
    records: recordsOf(records, records.length),
  });
  if (flags.out !== undefined) await writeDurably(join(flags.out, 'report.json'), reportJson(report));
  if (flags.submission !== undefined) await writeServerRows(run, flags.submission);
  return report;
}

/** One row a record, of its question as published. */
async function writeServerRows({ task, records, result }: FinishedRun, path: string): Promise<void> {
  if (task.submissionRow === undefined)
    throw new CliError(`--submission: ${task.title} has no server that answers are handed in to`, 2);
  const answers = new Map<string, EvalItem>();
  for (const item of result.items)
    if (item.variant.control === 'none' && !answers.has(item.record)) answers.set(item.record, item);
  const rows: SubmissionRow[] = [];
  for await (const record of recordsOf(records, records.length))
    rows.push(task.submissionRow(answers.get(record.id)?.answer ?? '', record));
  await mkdir(dirname(path), { recursive: true });
  await writeSubmission(path, rows).catch((error: unknown) => {
    throw new CliError(`--submission: ${error instanceof Error ? error.message : String(error)}`, 2);
  });
}

/** Reads and writes nothing else: see eval/report for what stands in a page. */
export async function writePage(path: string, html: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, html);
}
