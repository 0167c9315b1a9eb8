import { writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { buildReport, reportJson } from '../eval/report/build.ts';
import { type ComparedRun, compareReports } from '../eval/report/compare.ts';
import { renderComparisonHtml } from '../eval/report/html/compare.ts';
import { renderHtml } from '../eval/report/html/report.ts';
import { recordsOf } from '../eval/report/items.ts';
import type { EvalComparison, EvalReport } from '../eval/report/schema.ts';
import { renderComparisonText, renderText } from '../eval/report/text.ts';
import { makeThumbnails, picturesOf } from '../eval/report/thumbnails.ts';
import { makeFolder } from '../eval/run/make-folder.ts';
import type { EvalRunResult } from '../eval/run/run.ts';
import { writeDurably } from '../eval/run/run-folder.ts';
import { type SubmissionRow, writeSubmission } from '../eval/submission.ts';
import type { EvalItem, EvalModel, EvalRecord, EvalRecords, EvalTask } from '../eval/task.ts';
import type { EvalFlags } from './eval-options.ts';
import { refuse } from './eval-output.ts';

export interface FinishedRun {
  readonly task: EvalTask;
  readonly records: EvalRecords;
  readonly model: Pick<EvalModel, 'name' | 'identity'>;
  readonly result: EvalRunResult;
  /** What it is compared with. */
  readonly other: ComparedRun | null;
}

type Outputs = Pick<EvalFlags, 'out' | 'html' | 'submission' | 'force' | 'json'>;

/**
 * Prints the report, unless JSON is wanted, and writes what the flags ask for: report.json and report.html into the run's folder, rows for a server. Whatever fails
 * to be written, the report has been shown before.
 */
export async function finishRun(
  { task, records, model, result, other }: FinishedRun,
  { out, html = out === undefined ? undefined : join(out, 'report.html'), submission, force = false, json }: Outputs,
): Promise<{ readonly report: EvalReport; readonly comparison: EvalComparison | null }> {
  const { spec, items } = result;
  const say = (text: string): void => void (json === true ? null : process.stdout.write(`${text}\n`));
  const report = await buildReport({ spec, title: task.title, model, items, records: all(records) });
  say(renderText(report));
  const comparison =
    other === null
      ? null
      : await compareReports({
          first: other,
          second: { spec, model, items },
          title: task.title,
          records: all(records),
          force,
        }).catch(refuse);
  if (comparison !== null) say(renderComparisonText(comparison));
  if (out !== undefined) await writeDurably(join(out, 'report.json'), reportJson(report));
  if (submission !== undefined) await writeServerRows({ task, records, items }, submission);
  if (html !== undefined)
    await writePage(html, renderHtml(report, await makeThumbnails(picturesOf(report), all(records))));
  if (comparison !== null && out !== undefined) {
    await writeDurably(join(out, 'comparison.json'), reportJson(comparison));
    const pictures = await makeThumbnails(picturesOf(comparison), all(records));
    await writePage(join(out, 'comparison.html'), renderComparisonHtml(comparison, pictures));
  }
  return { report, comparison };
}

export async function writePage(path: string, html: string): Promise<void> {
  await makeFolder(dirname(path));
  await writeFile(path, html);
}

function all(records: EvalRecords): AsyncGenerator<EvalRecord> {
  return recordsOf(records, records.length);
}

/** One row a record, of its question as published. */
async function writeServerRows(
  { task, records, items }: Pick<FinishedRun, 'task' | 'records'> & { readonly items: readonly EvalItem[] },
  path: string,
): Promise<void> {
  if (task.submissionRow === undefined) return;
  const answers = new Map<string, EvalItem>();
  for (const item of items)
    if (item.variant.control === 'none' && !answers.has(item.record)) answers.set(item.record, item);
  const rows: SubmissionRow[] = [];
  for await (const record of all(records)) rows.push(task.submissionRow(answers.get(record.id)?.answer ?? '', record));
  await makeFolder(dirname(path));
  await writeSubmission(path, rows);
}
