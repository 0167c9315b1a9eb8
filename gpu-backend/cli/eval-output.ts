/** Where results go, looked at before the first question: what cannot be written at the end must not be found out at the end. */
import { open, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { ComparedRun } from '../eval/report/compare.ts';
import { compareReports, NotComparable } from '../eval/report/compare.ts';
import { specDifferences } from '../eval/report/spec-diff.ts';
import { FolderError, makeFolder } from '../eval/run/make-folder.ts';
import { RunFolderError, readRun } from '../eval/run/run-folder.ts';
import { requireSubmissionForm } from '../eval/submission.ts';
import type { EvalModel, EvalSpec } from '../eval/task.ts';
import { CliError } from './error.ts';
import type { EvalFlags } from './eval-options.ts';

/** @throws CliError naming the option whose folder or file cannot be written */
export async function requireWritable({ out, cache, html, submission }: EvalFlags): Promise<void> {
  for (const [option, folder] of [
    ['--out', out],
    ['--cache', cache],
  ] as const)
    if (folder !== undefined) await named(option, () => makeFolder(folder));
  for (const [option, file] of [
    ['--html', html],
    ['--submission', submission],
  ] as const)
    if (file !== undefined) await named(option, () => requireFile(file));
  if (submission !== undefined) await named('--submission', () => requireSubmissionForm(submission));
}

/** What another run is compared with has to be there, and alike. @returns null where nothing is compared @throws CliError */
export async function requireComparable(
  { compare, force = false }: Pick<EvalFlags, 'compare' | 'force'>,
  run: { readonly spec: EvalSpec; readonly model: Pick<EvalModel, 'name' | 'identity'>; readonly title: string },
): Promise<ComparedRun | null> {
  if (compare === undefined) return null;
  const first = await runIn(compare, '--compare');
  if (first.items.length === 0) throw new CliError(`--compare: ${compare} holds no answers yet`, 2);
  if (!force && specDifferences(first.spec, run.spec).length > 0)
    await compareReports({ first, second: { ...run, items: [] }, title: run.title, records: [] }).catch(refuse);
  return first;
}

/** @throws CliError for runs that cannot be compared */
export function refuse(error: unknown): never {
  if (!(error instanceof NotComparable)) throw error;
  throw new CliError(`--compare: ${error.message} (--force compares what they share)`, 2);
}

/** The run that a folder, or a file in it, is of. */
export async function runIn(path: string, option = ''): Promise<ComparedRun> {
  try {
    return await readRun(await folderOf(path));
  } catch (error) {
    if (!(error instanceof RunFolderError || error instanceof CliError)) throw error;
    throw new CliError(`${option === '' ? '' : `${option}: `}${error.message}`, 2);
  }
}

/** A run is named by its folder or by a file in it. */
export async function folderOf(path: string): Promise<string> {
  const facts = await stat(path).catch(() => null);
  if (facts === null) throw new CliError(`${path}: expected the folder of an evaluation, or its report.json`, 2);
  return facts.isDirectory() ? path : dirname(path);
}

async function named(option: string, attempt: () => unknown): Promise<void> {
  try {
    await attempt();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const said = error instanceof FolderError || code === undefined;
    throw new CliError(`${option}: ${said ? (error as Error).message : `cannot be written (${code})`}`, 2);
  }
}

/** A file that can be written; it is not there afterwards unless it was before. */
async function requireFile(path: string): Promise<void> {
  await makeFolder(dirname(path));
  const before = await stat(path).catch(() => null);
  if (before?.isDirectory() === true || path.endsWith('/')) throw new Error(`${path}: expected a file, it is a folder`);
  const file = await open(path, 'a').catch((error: NodeJS.ErrnoException) => {
    throw new Error(`${path}: cannot be written (${error.code ?? error.message})`);
  });
  await file.close();
  if (before === null) await rm(path, { force: true });
}
