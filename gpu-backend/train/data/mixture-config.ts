import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import { parse as parseYaml, YAMLParseError } from 'yaml';
import * as z from 'zod/mini';
import type { DataFile, DataSpec } from '../../../shared/contract/backend.ts';
import { violationsOf } from '../../../shared/contract/errors.ts';

/** A row of Mantis's mixture files (mantis/train/data_configs/*.yaml). */
const Entry = z.strictObject({
  path: z.string(),
  name: z.optional(z.string()),
  type: z.optional(z.enum(['huggingface', 'json'])),
  format: z.optional(z.literal('chat')),
  split: z.optional(z.string()),
  shuffle: z.optional(z.boolean()),
  max_size: z.optional(z.nullable(z.int().check(z.minimum(1)))),
  max_num_images: z.optional(z.nullable(z.int().check(z.minimum(0)))),
  vl_only: z.optional(z.boolean()),
  sample_ratio: z.optional(z.literal(1)),
  max_seq_len: z.optional(z.nullable(z.int())),
  max_image_size: z.optional(z.nullable(z.unknown())),
  revision: z.optional(z.string()),
  offline_sha: z.optional(z.string()),
  num_proc: z.optional(z.int()),
});
const Config = z.strictObject({ data: z.array(Entry).check(z.minLength(1)) });

/** Keys that say how their own loader fetches or trains; nothing of the data depends on them. */
const PASSED_OVER = ['max_seq_len', 'max_image_size', 'revision', 'offline_sha', 'num_proc'] as const;

/** A mixture on this machine: what to import, and where. */
export interface MixturePlan {
  readonly spec: DataSpec;
  readonly paths: readonly string[];
  /** Folder of each file's pictures. */
  readonly imageRoots: readonly string[];
  /** Number of each file's entry: the shards of one are one subset. */
  readonly groups: readonly number[];
  /** Files of which examples without pictures are left out. */
  readonly picturesOnly: ReadonlySet<number>;
  readonly notes: readonly string[];
}

/** A file of the data's own machine as an upload would be described. */
export async function localFile(
  path: string,
  subset: Omit<DataFile, 'file_id' | 'file' | 'filename'> = {},
): Promise<DataFile> {
  const { size, mtimeMs } = await stat(path);
  // Its name, size and time stand for its bytes, which may be many.
  const file = { id: resolve(path), bytes: size, sha256: `${size}-${mtimeMs}` };
  return { ...subset, file_id: resolve(path), file, filename: basename(path) };
}

/**
 * Reads a mixture in Mantis's own form. A `path` is a file or folder beside the YAML or in `dataDir`; a dataset of a hub is found in the layout that a
 * download of it has (`NAME/SPLIT-00000-of-00002.parquet`, `NAME/SPLIT.json`). As in Mantis's loader, records without placeholders have their pictures
 * put before the first turn, and nothing is shuffled unless it says so.
 * @throws Error that names the entry
 */
export async function readMixture(path: string, dataDir?: string): Promise<MixturePlan> {
  const value = parsed(path, await readFile(path, 'utf8'));
  const config = Config.safeParse(value);
  if (!config.success) {
    const [first] = violationsOf(config.error.issues, value);
    throw new Error(`${path}: ${first?.message ?? 'expected a list of data'}`);
  }
  const bases = [dirname(path), ...(dataDir === undefined ? [] : [dataDir])];
  const files: DataFile[] = [];
  const paths: string[] = [];
  const groups: number[] = [];
  const picturesOnly = new Set<number>();
  const notes = new Set<string>();
  for (const [i, entry] of config.data.data.entries()) {
    const name = entry.name ?? basename(entry.path);
    for (const key of PASSED_OVER)
      if (entry[key] !== undefined && entry[key] !== null)
        notes.add(`${key} is not read: the data does not depend on it`);
    for (const found of await filesOf(entry, bases, `${path}: data[${i}] (${name})`)) {
      files.push(
        await localFile(found, {
          name,
          shuffle: entry.shuffle ?? false,
          images_first: true,
          ...(entry.max_size == null ? {} : { max_size: entry.max_size }),
          ...(entry.max_num_images == null ? {} : { max_num_images: entry.max_num_images }),
        }),
      );
      if (entry.vl_only === true) picturesOnly.add(files.length - 1);
      paths.push(found);
      groups.push(i);
    }
  }
  return {
    spec: { files, balancing: false },
    paths,
    imageRoots: paths.map((file) => dirname(file)),
    groups,
    picturesOnly,
    notes: [...notes],
  };
}

function parsed(path: string, text: string): unknown {
  try {
    return parseYaml(text, { maxAliasCount: 100 }) as unknown;
  } catch (error) {
    if (error instanceof YAMLParseError) throw new Error(`${path}: expected YAML, ${error.message}`);
    throw error;
  }
}

async function filesOf(entry: z.infer<typeof Entry>, bases: readonly string[], where: string): Promise<string[]> {
  const split = entry.split ?? 'train';
  const looked: string[] = [];
  const roots = isAbsolute(entry.path)
    ? [entry.path]
    : bases.flatMap((base) => [join(base, entry.path), join(base, basename(entry.path))]);
  for (const root of roots) {
    const kind = await stat(root).catch(() => null);
    looked.push(root);
    if (kind === null) continue;
    if (kind.isFile()) return [root];
    for (const folder of [...(entry.name === undefined ? [] : [join(root, entry.name)]), root, join(root, 'data')]) {
      const names: string[] = await readdir(folder).catch(() => []);
      const shards = names.filter((name) => name.startsWith(`${split}-`) && name.endsWith('.parquet')).sort();
      if (shards.length > 0) return shards.map((name) => join(folder, name));
      for (const ending of ['json', 'jsonl', 'parquet'])
        if (names.includes(`${split}.${ending}`)) return [join(folder, `${split}.${ending}`)];
      looked.push(folder);
    }
  }
  throw new Error(
    `${where}: expected ${split}.json, ${split}.jsonl or ${split}-*.parquet, found none in ${looked.join(', ')}; download the data set and say where it is`,
  );
}
