import { link, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { specDifferences } from '../report/spec-diff.ts';
import { type EvalItem, type EvalModel, type EvalSpec, specHash } from '../task.ts';
import { ItemFile, itemKey, parseItems } from './item-file.ts';
import { FolderError, makeFolder } from './make-folder.ts';

/** What a folder of results is about: `run.json`. */
export interface RunIdentity {
  readonly spec: EvalSpec;
  readonly model: Pick<EvalModel, 'name' | 'identity'>;
}

/** A folder holds the results of something else, or somebody is writing in it. */
export class RunFolderError extends Error {
  override readonly name = 'RunFolderError';
}

/**
 * The folder of one run: `run.json` says what is asked of whom, `items.jsonl` what was answered. A second start goes on where the first one ended; two at a time
 * are refused.
 */
export class RunFolder {
  readonly items: ItemFile;
  readonly #lock: string;

  private constructor(items: ItemFile, lock: string) {
    this.items = items;
    this.#lock = lock;
  }

  /** @throws RunFolderError naming every difference between the run that the folder holds and this one */
  static async open(dir: string, run: RunIdentity): Promise<RunFolder> {
    await makeFolder(dir).catch((error: unknown) => {
      throw error instanceof FolderError ? new RunFolderError(error.message) : error;
    });
    const lock = join(dir, 'lock');
    await takeLock(lock, dir);
    try {
      const there = await readRunIdentity(dir);
      if (there === null) await writeDurably(join(dir, 'run.json'), runJson(run));
      else requireSame(dir, there, run);
      return new RunFolder(await ItemFile.open(join(dir, 'items.jsonl')), lock);
    } catch (error) {
      await rm(lock, { force: true });
      throw error;
    }
  }

  async close(): Promise<void> {
    try {
      await this.items.close();
    } finally {
      await rm(this.#lock, { force: true });
    }
  }
}

/** @returns null where the folder holds no run @throws RunFolderError where it holds something else under that name */
export async function readRunIdentity(dir: string): Promise<RunIdentity | null> {
  const path = join(dir, 'run.json');
  const text = await readFile(path, 'utf8').catch(() => null);
  if (text === null) return null;
  try {
    const { spec, model } = JSON.parse(text) as Partial<RunIdentity>;
    if (typeof spec?.task === 'string' && typeof model?.identity === 'string') return { spec, model };
  } catch {
    // Said below.
  }
  throw new RunFolderError(`${path}: expected what an evaluation writes (spec, model); choose another --out`);
}

/** A run as its folder holds it, to be compared with another. Items stand in the order of their answers. @throws RunFolderError */
export async function readRun(dir: string): Promise<RunIdentity & { readonly items: readonly EvalItem[] }> {
  const run = await readRunIdentity(dir);
  if (run === null) throw new RunFolderError(`${dir}: expected the folder of an evaluation (run.json, items.jsonl)`);
  const byKey = new Map<string, EvalItem>();
  const text = await readFile(join(dir, 'items.jsonl'), 'utf8').catch(() => '');
  for (const item of parseItems(text)) byKey.set(itemKey(item.record, item.variant), item);
  return { ...run, items: [...byKey.values()] };
}

/** Written under another name first, so that a kill leaves the old file or the new one. */
export async function writeDurably(path: string, text: string): Promise<void> {
  const draft = `${path}.${process.pid}`;
  await writeFile(draft, text);
  const file = await open(draft, 'r+');
  await file.datasync().finally(() => file.close());
  await rename(draft, path);
}

function runJson({ spec, model: { name, identity } }: RunIdentity): string {
  return `${JSON.stringify({ hash: specHash(spec), spec, model: { name, identity } }, null, 2)}\n`;
}

function requireSame(dir: string, there: RunIdentity, run: RunIdentity): void {
  const differences = [
    ...inWords(specDifferences(there.spec, run.spec)),
    ...(there.model.identity === run.model.identity
      ? []
      : [`model: there ${there.model.name} (${there.model.identity}), here ${run.model.name} (${run.model.identity})`]),
  ];
  if (differences.length === 0) return;
  throw new RunFolderError(
    `${dir} holds the results of another run, which this one cannot go on with: ${differences.join('; ')}. Choose another --out, or delete the folder.`,
  );
}

const SHOWN_DIFFERENCES = 8;
const SHOWN_CHARS = 80;

/** `mode: there "merge", here "sequence"` for every value in which two runs differ, the first few of them. */
function inWords(differences: ReturnType<typeof specDifferences>): string[] {
  const shorten = (text: string) => (text.length > SHOWN_CHARS ? `${text.slice(0, SHOWN_CHARS)}…` : text);
  const shown = differences
    .slice(0, SHOWN_DIFFERENCES)
    .map(({ path, first, second }) => `${path}: there ${shorten(first)}, here ${shorten(second)}`);
  return differences.length > shown.length ? [...shown, `and ${differences.length - shown.length} more`] : shown;
}

/** A lock whose process has ended is nobody's. */
async function takeLock(lock: string, dir: string): Promise<void> {
  const own = `${lock}.${process.pid}`;
  const mine = JSON.stringify({ pid: process.pid, startedAt: await startOf(process.pid) });
  await writeFile(own, mine).catch((error: NodeJS.ErrnoException) => {
    throw new RunFolderError(
      `${dir}: nothing can be written there (${error.code ?? error.message}); choose another --out`,
    );
  });
  try {
    for (let attempt = 0; attempt < 2; attempt++) {
      // A link appears with its content or not at all.
      const isTaken = await link(own, lock).then(
        () => true,
        (error: NodeJS.ErrnoException) => {
          if (error.code === 'EEXIST') return false;
          throw error;
        },
      );
      if (isTaken) return;
      const holder = await holderOf(lock);
      if (holder !== null)
        throw new RunFolderError(
          `process ${holder} is writing in ${dir}; wait for it, or delete ${lock} if that process is something else`,
        );
      await rm(lock, { force: true });
    }
  } finally {
    await rm(own, { force: true });
  }
  throw new RunFolderError(`${dir}: two processes want to write there; try again`);
}

/** The process that holds a lock, null where it has ended. */
async function holderOf(lock: string): Promise<number | null> {
  try {
    const { pid, startedAt } = JSON.parse(await readFile(lock, 'utf8')) as { pid: number; startedAt: string | null };
    if (!isAlive(pid)) return null;
    // Numbers are used again: after a restart of the machine another process may have it.
    const start = await startOf(pid);
    return start === null || startedAt === null || start === startedAt ? pid : null;
  } catch {
    return null;
  }
}

/** When a process started, in the kernel's ticks; null where that cannot be read. */
async function startOf(pid: number): Promise<string | null> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => null);
  // Field 22; the name in field 2 may hold spaces.
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
