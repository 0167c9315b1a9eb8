import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type Command, Option } from 'commander';
import type { DatasetFormat, DatasetProblem } from '../../shared/contract/datasets.ts';
import { type ImportOptions, type ImportResult, importData } from '../train/data/import.ts';
import { localFile, type MixturePlan, readMixture } from '../train/data/mixture-config.ts';
import { CliError } from './error.ts';
import { wholeNumber } from './parse.ts';
import { ProgressBar } from './progress.ts';

/** How commands are told what data to read. */
export interface SourceOptions {
  readonly format?: DatasetFormat;
  readonly imageRoot?: string;
  readonly data?: string;
  readonly imagesFirst?: boolean;
  readonly maxSize?: number;
  readonly maxNumImages?: number;
  readonly balancing?: boolean;
}

export function addSourceOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--format <form>', 'form of the records (default: found out)').choices([
        'openai',
        'mantis',
        'llava',
        'sharegpt',
      ]),
    )
    .option('--image-root <folder>', 'folder that paths of pictures start from (default: the file’s own)')
    .option('--data <folder>', 'where the data sets of a mixture (.yaml) are')
    .option('--images-first', 'put the pictures of records without <image> before the first turn')
    .option('--max-size <n>', 'examples taken of each file, after shuffling with seed 42', wholeNumber)
    .option('--max-num-images <n>', 'leave out examples with more pictures', wholeNumber)
    .option('--balancing', 'balance the files by the roots of their sizes, as Mantis does');
}

/** Files, or one mixture in Mantis's form. @throws CliError where a file is not there */
export async function planOf(inputs: readonly string[], options: SourceOptions): Promise<MixturePlan> {
  for (const input of inputs)
    if (!(await stat(input).catch(() => null))?.isFile()) throw new CliError(`cannot read ${input}: no such file`, 2);
  const [first] = inputs;
  if (first !== undefined && /\.ya?ml$/i.test(first)) {
    if (inputs.length > 1) throw new CliError('expected one mixture (.yaml) or files of records, received both', 2);
    try {
      const plan = await readMixture(first, options.data);
      return { ...plan, spec: { ...plan.spec, balancing: options.balancing ?? false } };
    } catch (error) {
      throw new CliError(error instanceof Error ? error.message : String(error), 2);
    }
  }
  const files = await Promise.all(
    inputs.map((input) =>
      localFile(input, {
        ...(options.format === undefined ? {} : { format: options.format }),
        ...(options.imagesFirst === true ? { images_first: true } : {}),
        ...(options.maxSize === undefined ? {} : { max_size: options.maxSize }),
        ...(options.maxNumImages === undefined ? {} : { max_num_images: options.maxNumImages }),
      }),
    ),
  );
  return {
    spec: { files, balancing: options.balancing ?? false },
    paths: inputs,
    imageRoots: inputs.map((input) => options.imageRoot ?? dirname(input)),
    groups: inputs.map((_, i) => i),
    picturesOnly: new Set(),
    notes: [],
  };
}

/** What reading came to. */
export interface Loaded extends ImportResult {
  /** By code. */
  readonly problemCounts: ReadonlyMap<string, number>;
  readonly errors: number;
  /** Examples without pictures that a mixture did not want. */
  readonly withoutPictures: number;
}

const LISTED = 20;

/**
 * Reads a plan into a store in a folder of its own, which is gone when `work` has ended. Problems are printed as they are found, the first so many of them;
 * a bar shows how far it is.
 */
export async function withData<T>(
  plan: MixturePlan,
  onExample: ImportOptions['onExample'],
  work: (loaded: Loaded) => Promise<T>,
): Promise<T> {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-dataset-'));
  const bar = new ProgressBar('read MB');
  const problemCounts = new Map<string, number>();
  let errors = 0;
  let withoutPictures = 0;
  const onProblem = (problem: DatasetProblem, file: number) => {
    const { code, line, message, severity } = problem;
    problemCounts.set(code, (problemCounts.get(code) ?? 0) + 1);
    if (severity === 'error') errors++;
    const total = [...problemCounts.values()].reduce((sum, n) => sum + n, 0);
    const where = `${plan.paths[file]}${line === null ? '' : ` record ${line}`}`;
    if (total <= LISTED) bar.log(`${severity}: ${where}: ${message} (${code})`);
    else if (total === LISTED + 1) bar.log('… more are counted at the end');
  };
  try {
    const { store, files } = await importData(plan.spec, plan.paths, dir, {
      onProblem,
      groups: plan.groups,
      imageRoot: (file) => plan.imageRoots[file],
      onProgress: (done, total) => bar.update(Math.round(done / 1e6), Math.max(1, Math.round(total / 1e6))),
      onExample: async (example, images) => {
        if (plan.picturesOnly.has(example.file) && example.images.length === 0) {
          withoutPictures++;
          return false;
        }
        return (await onExample?.(example, images)) ?? true;
      },
    });
    bar.end();
    try {
      return await work({ store, files, problemCounts, errors, withoutPictures });
    } finally {
      await store.close();
    }
  } finally {
    bar.end();
    await rm(dir, { recursive: true, force: true });
  }
}
