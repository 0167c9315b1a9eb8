/** The records of `mantis eval own`: conversations in the files that fine-tuning takes. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { digestRecords } from '../eval/source/collect.ts';
import type { EvalRecord, EvalRecords, EvalSource } from '../eval/task.ts';
import { ownRecord } from '../eval/tasks/own.ts';
import { sha256Hex } from '../io/digest.ts';
import { importData } from '../train/data/import.ts';
import type { ExampleStore } from '../train/data/store.ts';
import { planOf } from './dataset-source.ts';
import { fetchPictures } from './fetch-pictures.ts';
import { ProgressBar } from './progress.ts';

const SHOWN_PROBLEMS = 3;

/**
 * Reads every form of record that fine-tuning takes, or a mixture (.yaml); pictures by path lie beside the file or in `imageFolder`, those at addresses are fetched. A
 * store on disk holds them until the records are closed.
 * @throws Error where any line is wrong: a number over what happened to be readable would be of other questions than were named
 */
export async function openOwn(
  { paths, imageFolder, limit }: EvalSource,
  choices: readonly string[],
): Promise<EvalRecords> {
  const plan = await planOf(paths, imageFolder === undefined ? {} : { imageRoot: imageFolder });
  const dir = await mkdtemp(join(tmpdir(), 'mantis-eval-own-'));
  let store: ExampleStore | undefined;
  const close = async () => {
    await store?.close();
    await rm(dir, { recursive: true, force: true });
  };
  try {
    const wrong: string[] = [];
    ({ store } = await importData(plan.spec, plan.paths, dir, {
      groups: plan.groups,
      imageRoot: (file) => plan.imageRoots[file],
      onExample: ({ file, images }) => images.length > 0 || !plan.picturesOnly.has(file),
      onProblem: ({ severity, line, message }, file) => {
        if (severity === 'error')
          wrong.push(`${nameOf(plan.paths, file)}${line === null ? '' : ` line ${line}`}: ${message}`);
      },
    }));
    if (wrong.length > 0)
      throw new Error(
        `${wrong.length} ${wrong.length === 1 ? 'line is' : 'lines are'} wrong: ${wrong.slice(0, SHOWN_PROBLEMS).join(' ')}${wrong.length > SHOWN_PROBLEMS ? ' …' : ''} \`mantis dataset validate\` lists all`,
      );
    if (store.length === 0) throw new Error(`expected at least one conversation in ${paths.join(', ')}, there is none`);
    return await indexed(store, { paths: plan.paths, choices, limit, close });
  } catch (error) {
    await close();
    throw error;
  }
}

interface Indexing {
  readonly paths: readonly string[];
  readonly choices: readonly string[];
  readonly limit: number | undefined;
  close(): Promise<void>;
}

/** Looks at every record once; of each its name alone is held in memory. */
async function indexed(store: ExampleStore, { paths, choices, limit, close }: Indexing): Promise<EvalRecords> {
  const length = Math.min(store.length, limit ?? store.length);
  const ids: string[] = [];
  const brought = await fetched(store, length);
  /** A mixture may take a line several times. */
  const times = new Map<string, number>();
  const read = async (index: number, id: string): Promise<EvalRecord> => {
    const example = await store.get(index);
    const references = example.images.map((reference) => brought.get(reference) ?? reference);
    const images = references.map((reference) => ({
      sha256: digestOf(reference),
      bytes: () => store.readImage(reference),
    }));
    return ownRecord({ ...example, images: references }, id, images, choices);
  };
  const digests: string[] = [];
  for (let index = 0; index < length; index++) {
    const { file, line } = await store.get(index);
    const place = `${paths.length > 1 ? `${nameOf(paths, file)} ` : ''}line ${line}`;
    const seen = times.get(place) ?? 0;
    times.set(place, seen + 1);
    const id = seen === 0 ? place : `${place}, time ${seen + 1}`;
    ids.push(id);
    digests.push(digestRecords([await read(index, id)]));
  }
  return {
    length,
    digest: sha256Hex(new TextEncoder().encode(digests.join('\n'))),
    ...(length < store.length ? { chosen: { how: 'first', of: store.length } as const } : {}),
    get: async (index) => {
      const id = ids[index];
      if (id === undefined) throw new RangeError(`record ${index} does not exist; there are ${length}`);
      return await read(index, id);
    },
    close,
  };
}

/** Brings the pictures at addresses that the first records show. @returns reference in the store by address */
async function fetched(store: ExampleStore, length: number): Promise<Map<string, string>> {
  const addresses = new Set<string>();
  for (let index = 0; index < length; index++)
    for (const reference of (await store.get(index)).images) if (/^https?:/i.test(reference)) addresses.add(reference);
  const bar = new ProgressBar('pictures');
  try {
    return await fetchPictures(addresses, store.images, (count) => bar.update(count, addresses.size));
  } finally {
    bar.end();
  }
}

const nameOf = (paths: readonly string[], file: number): string => basename(paths[file] ?? '');

/** @throws Error for a picture that lies elsewhere */
function digestOf(reference: string): string {
  const own = /^sha256:([0-9a-f]{64})$/.exec(reference)?.[1];
  if (own === undefined)
    throw new Error(
      `expected pictures in the file, beside it or at an address, received ${reference.slice(0, 80)}; name it by its path`,
    );
  return own;
}
