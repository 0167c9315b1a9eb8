import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { EvalSource } from '../task.ts';

/** A file of a benchmark. */
export interface SourceFile {
  readonly path: string;
  /** Its name for messages: as it stands in the given folder. */
  readonly label: string;
  /** Folder that the paths of its pictures start from. */
  readonly imageFolder: string;
  /** Named by the user one by one, not found in a folder. */
  readonly isNamed: boolean;
}

/**
 * The files of a benchmark: those that are named, and those in named folders, at any depth, that `matches` takes. Sorted by name within a folder, so that the
 * order of records is that of the published shards.
 * @param matches a path relative to the folder, with `/`
 * @param expected what is looked for, for the message where there is none
 * @throws Error naming what is missing: a path, any match, or shards of a set of `NAME-00000-of-00005`
 */
export async function findFiles(
  source: EvalSource,
  matches: (path: string) => boolean,
  expected: string,
): Promise<readonly SourceFile[]> {
  if (source.paths.length === 0)
    throw new Error(`expected files or folders of the benchmark (${expected}), received none`);
  const files: SourceFile[] = [];
  for (const path of source.paths) {
    const kind = await stat(path).catch(() => null);
    if (kind === null) throw new Error(`expected ${expected}: ${path} does not exist`);
    if (!kind.isDirectory()) {
      files.push({ path, label: basename(path), imageFolder: source.imageFolder ?? dirname(path), isNamed: true });
      continue;
    }
    const names = await filesUnder(path);
    const found = names.filter(matches);
    if (found.length === 0) {
      const others = names.slice(0, 5).join(', ');
      throw new Error(
        `expected ${expected} in ${path}; it holds ${names.length === 0 ? 'no files' : `other files: ${others}${names.length > 5 ? ', …' : ''}`}`,
      );
    }
    // The first records are in the first shards.
    if (source.limit === undefined) requireAllShards(found, path);
    for (const label of found) {
      const file = join(path, label);
      files.push({ path: file, label, imageFolder: source.imageFolder ?? dirname(file), isNamed: false });
    }
  }
  return files;
}

/** Paths relative to the folder, sorted; hidden files and folders (Hugging Face's cache has some) are passed over. */
export async function filesUnder(folder: string): Promise<readonly string[]> {
  const names: string[] = [];
  const walk = async (inside: string): Promise<void> => {
    for (const entry of await readdir(join(folder, inside), { withFileTypes: true })) {
      if (entry.name.startsWith('.')) continue;
      const path = inside === '' ? entry.name : `${inside}/${entry.name}`;
      const isFolder = entry.isSymbolicLink() ? (await stat(join(folder, path))).isDirectory() : entry.isDirectory();
      if (isFolder) await walk(path);
      else names.push(path);
    }
  };
  await walk('');
  return names.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
}

/** Whether a file is of a split, by Hugging Face's names: `test-00000-of-00003.parquet`, `test.json`, `data/test/0000.parquet`. */
export function isOfSplit(path: string, split: string): boolean {
  const name = basename(path);
  return name.startsWith(`${split}-`) || name.startsWith(`${split}.`) || dirname(path).split('/').includes(split);
}

/** What the names of a split's files are like, for what is expected where none is found. */
export function ofSplit(split: string): string {
  return `, of the split \`${split}\` (files named ${split}-….parquet, ${split}.json or ${split}.jsonl, or in a folder ${split}); --split names another`;
}

const SHARD = /^(.*)-(\d{5})-of-(\d{5})(\.[a-z]+)$/;

function requireAllShards(paths: readonly string[], folder: string): void {
  const sets = new Map<string, { readonly total: number; readonly present: Set<number> }>();
  for (const path of paths) {
    const shard = SHARD.exec(path);
    if (shard === null) continue;
    const key = `${shard[1]}-of-${shard[3]}${shard[4]}`;
    const set = sets.get(key) ?? { total: Number(shard[3]), present: new Set<number>() };
    set.present.add(Number(shard[2]));
    sets.set(key, set);
  }
  for (const [key, { total, present }] of sets) {
    if (present.size === total) continue;
    const missing = Array.from({ length: total }, (_, i) => i).filter((i) => !present.has(i));
    throw new Error(
      `${join(folder, key)}: ${present.size} of ${total} shards are there; missing: ${missing.slice(0, 10).join(', ')}${missing.length > 10 ? ', …' : ''}. Fetch them, or name the files that you mean one by one`,
    );
  }
}
