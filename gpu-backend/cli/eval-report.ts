import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { buildReport, reportJson } from '../eval/report/build.ts';
import { type ComparedRun, compareReports, NotComparable } from '../eval/report/compare.ts';
import { renderComparisonHtml } from '../eval/report/html/compare.ts';
import { renderHtml } from '../eval/report/html/report.ts';
import { type ReportRecord, recordsOf } from '../eval/report/items.ts';
import { type EvalComparison, type EvalReport, evalReportSchema } from '../eval/report/schema.ts';
import { renderComparisonText, renderText } from '../eval/report/text.ts';
import { makeThumbnails, picturesOf } from '../eval/report/thumbnails.ts';
import type { EvalRunResult } from '../eval/run/run.ts';
import { RunFolderError, readRun, writeDurably } from '../eval/run/run-folder.ts';
import { type SubmissionRow, writeSubmission } from '../eval/submission.ts';
import type { EvalItem, EvalModel, EvalRecord, EvalRecords, EvalTask } from '../eval/task.ts';
import { CliError } from './error.ts';
import type { EvalFlags } from './eval-options.ts';

export interface FinishedRun {
  readonly task: EvalTask;
  readonly records: EvalRecords;
  readonly model: Pick<EvalModel, 'name' | 'identity'>;
  readonly result: EvalRunResult;
}

/** Shows the report on standard error and writes what the flags ask for: report.json and report.html into the run's folder, rows for a server. */
export async function finishRun(
  { task, records, model, result }: FinishedRun,
  flags: EvalFlags,
): Promise<{ readonly report: EvalReport; readonly comparison: EvalComparison | null }> {
  const { spec, items } = result;
  const report = await buildReport({ spec, title: task.title, model, items, records: all(records) });
  const { out, html = out === undefined ? undefined : join(out, 'report.html') } = flags;
  if (out !== undefined) await writeDurably(join(out, 'report.json'), reportJson(report));
  if (html !== undefined)
    await writePage(html, renderHtml(report, await makeThumbnails(picturesOf(report), all(records))));
  process.stderr.write(`\n${renderText(report)}\n`);
  if (flags.submission !== undefined) await writeServerRows({ task, records, items }, flags.submission);
  if (flags.compare === undefined) return { report, comparison: null };
  const comparison = await compared(flags.compare, { spec, model, items }, task.title, () => all(records), flags);
  process.stderr.write(`\n${renderComparisonText(comparison)}\n`);
  if (out !== undefined) {
    await writeDurably(join(out, 'comparison.json'), reportJson(comparison));
    const pictures = await makeThumbnails(picturesOf(comparison), all(records));
    await writePage(join(out, 'comparison.html'), renderComparisonHtml(comparison, pictures));
  }
  return { report, comparison };
}

export interface ShowFlags {
  readonly compare?: string;
  readonly force?: boolean;
  readonly html?: string;
  readonly json?: boolean;
}

/** A run that has ended, from its folder: no records are at hand, so questions have no pictures and, in comparisons, no words. */
export async function showRun(folder: string, flags: ShowFlags): Promise<void> {
  const dir = await folderOf(folder);
  const path = join(dir, 'report.json');
  const text = await readFile(path, 'utf8').catch(() => {
    throw new CliError(`${path}: there is no report; \`mantis eval … --out ${folder}\` writes it when the run ends`, 2);
  });
  const parsed = evalReportSchema.safeParse(asJson(text));
  if (!parsed.success)
    throw new CliError(`${path}: expected the report of an evaluation, as this version writes it`, 2);
  const report = parsed.data;
  if (flags.compare === undefined) {
    process.stdout.write(flags.json === true ? `${JSON.stringify(report)}\n` : `${renderText(report)}\n`);
    if (flags.html !== undefined) await writePage(flags.html, renderHtml(report, new Map()));
    return;
  }
  const comparison = await compared(flags.compare, await runIn(dir), report.title, () => [], flags);
  process.stdout.write(
    flags.json === true ? `${JSON.stringify(comparison)}\n` : `${renderComparisonText(comparison)}\n`,
  );
  if (flags.html !== undefined) await writePage(flags.html, renderComparisonHtml(comparison, new Map()));
}

/** The other run first: what is shown is what this one changed. */
async function compared(
  other: string,
  run: ComparedRun,
  title: string,
  records: () => AsyncIterable<ReportRecord> | Iterable<ReportRecord>,
  { force = false }: Pick<ShowFlags, 'force'>,
): Promise<EvalComparison> {
  const first = await runIn(await folderOf(other));
  try {
    return await compareReports({ first, second: run, title, records: records(), force });
  } catch (error) {
    if (!(error instanceof NotComparable)) throw error;
    throw new CliError(`--compare: ${error.message}${force ? '' : ' (--force compares what they share)'}`, 2);
  }
}

async function runIn(dir: string): Promise<ComparedRun> {
  return await readRun(dir).catch((error: unknown) => {
    throw error instanceof RunFolderError ? new CliError(error.message, 2) : error;
  });
}

/** A run is named by its folder or by a file in it. */
async function folderOf(path: string): Promise<string> {
  const facts = await stat(path).catch(() => null);
  if (facts === null) throw new CliError(`${path}: expected the folder of an evaluation, or its report.json`, 2);
  return facts.isDirectory() ? path : dirname(path);
}

function all(records: EvalRecords): AsyncGenerator<EvalRecord> {
  return recordsOf(records, records.length);
}

/** One row a record, of its question as published. */
async function writeServerRows(
  { task, records, items }: Pick<FinishedRun, 'task' | 'records'> & { readonly items: readonly EvalItem[] },
  path: string,
): Promise<void> {
  if (task.submissionRow === undefined)
    throw new CliError(`--submission: ${task.title} has no server that answers are handed in to`, 2);
  const answers = new Map<string, EvalItem>();
  for (const item of items)
    if (item.variant.control === 'none' && !answers.has(item.record)) answers.set(item.record, item);
  const rows: SubmissionRow[] = [];
  for await (const record of all(records)) rows.push(task.submissionRow(answers.get(record.id)?.answer ?? '', record));
  await mkdir(dirname(path), { recursive: true });
  await writeSubmission(path, rows).catch((error: unknown) => {
    throw new CliError(`--submission: ${error instanceof Error ? error.message : String(error)}`, 2);
  });
}

async function writePage(path: string, html: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, html);
}

function asJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
