/** `mantis eval show`: reports of runs that have ended, what changed between two, or all in one table. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { compareReports } from '../eval/report/compare.ts';
import { renderComparisonHtml } from '../eval/report/html/compare.ts';
import { renderHtml } from '../eval/report/html/report.ts';
import { type EvalReport, evalReportSchema, REPORT_VERSION } from '../eval/report/schema.ts';
import { renderComparisonText, renderText } from '../eval/report/text.ts';
import { CliError } from './error.ts';
import { folderOf, refuse, runIn } from './eval-output.ts';
import { writePage } from './eval-report.ts';
import { formatTable, leaderboard, runTable, type TableFormat } from './eval-table.ts';

export interface ShowFlags {
  readonly compare?: string;
  readonly force?: boolean;
  readonly html?: string;
  readonly json?: boolean;
  readonly format?: TableFormat;
}

/** @param paths one run: its report; several, or a folder of runs: a table of all @throws CliError */
export async function showRuns(paths: readonly string[], flags: ShowFlags): Promise<void> {
  if (flags.force === true && flags.compare === undefined)
    throw new CliError('--force does nothing here: there is no --compare', 2);
  if (flags.format !== undefined && (flags.json === true || flags.compare !== undefined || flags.html !== undefined))
    throw new CliError('--format is for the table alone: leave --json, --html and --compare out', 2);
  const folders = await runsIn(paths);
  const [folder, ...others] = folders;
  if (folder === undefined) throw new CliError(`${paths.join(', ')}: there is no report of a run`, 2);
  if (others.length > 0 || flags.format !== undefined) {
    if (flags.compare !== undefined || flags.html !== undefined)
      throw new CliError('--compare and --html are for one run; several are shown as a table', 2);
    const reports = await Promise.all(folders.map(reportIn));
    if (flags.json === true) process.stdout.write(`${JSON.stringify(reports)}\n`);
    else {
      const { format = 'text' } = flags;
      process.stdout.write(formatTable(format === 'csv' ? runTable(reports) : leaderboard(reports), format));
    }
    return;
  }
  const report = await reportIn(folder);
  if (flags.compare === undefined) {
    process.stdout.write(flags.json === true ? `${JSON.stringify(report)}\n` : `${renderText(report)}\n`);
    if (flags.html !== undefined) await writePage(flags.html, renderHtml(report, new Map()));
    return;
  }
  const [first, second] = [await runIn(flags.compare, '--compare'), await runIn(folder)];
  // The other run first: what is shown is what this one changed.
  const comparison = await compareReports({
    first,
    second,
    title: report.title,
    records: [],
    force: flags.force === true,
  }).catch(refuse);
  process.stdout.write(
    flags.json === true ? `${JSON.stringify(comparison)}\n` : `${renderComparisonText(comparison)}\n`,
  );
  if (flags.html !== undefined) await writePage(flags.html, renderComparisonHtml(comparison, new Map()));
}

/** Folders of runs; of a folder that is none, those in it, as several tasks with one --out leave them. Of many, those that have not ended are left out, and said to be. */
async function runsIn(paths: readonly string[]): Promise<readonly string[]> {
  const found: string[] = [];
  for (const path of paths) {
    const folder = await folderOf(path);
    const inside = (await isRun(folder)) ? [folder] : await runsBelow(folder);
    // A single one is complained of when it is read.
    if (inside.length === 0 && paths.length === 1) found.push(path);
    if (inside.length === 0 && paths.length > 1) process.stderr.write(`${path}: no report yet, left out\n`);
    found.push(...inside);
  }
  return found;
}

async function runsBelow(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  const below = entries.filter((entry) => entry.isDirectory()).map(({ name }) => join(folder, name));
  const are = await Promise.all(below.map(isRun));
  return below.filter((_, i) => are[i]).sort();
}

const isRun = (folder: string): Promise<boolean> =>
  stat(join(folder, 'report.json')).then(
    (found) => found.isFile(),
    () => false,
  );

async function reportIn(folder: string): Promise<EvalReport> {
  const path = join(await folderOf(folder), 'report.json');
  const text = await readFile(path, 'utf8').catch(() => {
    throw new CliError(
      `${path}: there is no report; \`mantis eval … --out ${folder}\` writes it when the run ends, and goes on where it was`,
      2,
    );
  });
  const written = asJson(text);
  const parsed = evalReportSchema.safeParse(written);
  if (parsed.success) return parsed.data;
  const version = (written as { readonly version?: unknown } | null)?.version;
  throw new CliError(
    typeof version === 'number' && version !== REPORT_VERSION
      ? `${path} is of version ${version}, this program reads ${REPORT_VERSION}; the same \`mantis eval … --out ${folder}\` writes it anew from the answers that it holds`
      : `${path}: expected the report of an evaluation, as this version writes it`,
    2,
  );
}

function asJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
