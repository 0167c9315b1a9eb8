import { join } from 'node:path';
import type { LeftOut } from '../../shared/contract/backend.ts';
import type { SampleMaker } from './chat-samples.ts';
import { importData } from './data/import.ts';
import type { ExampleStore, FetchImage } from './data/store.ts';
import type { FineTuneData } from './finetune-spec.ts';
import type { StagePlan } from './stage-plan.ts';

/** Something is wrong with the data as a whole, or with a record of it that nobody has ruled out. */
export class DataError extends Error {
  override readonly name = 'DataError';
}

/**
 * Takes the examples of some files into a store on disk; one that is there already is opened.
 * @param which index into the job's list of data, or `validation`
 * @throws DataError at records that are wrong though `leftOut` does not name them
 */
export async function openExamples(
  data: FineTuneData,
  which: number | 'validation',
  options: {
    readonly workDir: string;
    readonly leftOut: LeftOut;
    /** For pictures outside the data. */
    readonly fetchImage: FetchImage | undefined;
    readonly signal: AbortSignal | undefined;
  },
): Promise<ExampleStore> {
  const { workDir, leftOut, fetchImage, signal } = options;
  const dir = join(workDir, `examples-${which}`);
  const own = {
    data: which,
    leftOut,
    imageDir: join(workDir, 'images'),
    signal,
    ...(fetchImage === undefined ? {} : { fetchImage }),
  };
  const { store, files } = await importData(data.spec, data.paths, dir, own);
  const bad = files.reduce((sum, file) => sum + file.bad, 0);
  if (bad === 0) return store;
  await store.close();
  // Again, to be able to say what it is.
  let first: string | undefined;
  await importData(data.spec, data.paths, dir, {
    ...own,
    onProblem: ({ severity, line, param, message }, file) => {
      if (severity !== 'error') return;
      const name = data.spec.files.length > 1 ? `${data.spec.files[file]?.filename}, ` : '';
      first ??= `${name}${line === null ? '' : `line ${line}: `}${param === null ? '' : `${param}: `}${message}`;
    },
  }).then((again) => again.store.close());
  throw new DataError(`${first ?? 'unreadable'}${bad > 1 ? ` (the first of ${bad} bad lines)` : ''}`);
}

/** Lengths of a store's examples, by record: decoder positions. */
export interface Measured {
  readonly store: ExampleStore;
  readonly tokens: Int32Array;
}

/**
 * Lays out every example once. No picture is decoded.
 * @throws DatasetError at the first that cannot be laid out; the signal's reason
 */
export async function measureExamples(
  store: ExampleStore,
  samples: SampleMaker,
  signal: AbortSignal | undefined,
): Promise<Measured> {
  const tokens = new Int32Array(store.records);
  for (let r = 0; r < store.records; r++) {
    signal?.throwIfAborted();
    tokens[r] = (await samples.layout(await store.record(r))).ids.length;
  }
  return { store, tokens };
}

/** The entries of a store that a stage learns from. */
export interface Selection {
  /** Positions in the store. */
  readonly entries: readonly number[];
  readonly longest: number;
  /** Any of them has a picture. */
  readonly hasImages: boolean;
  /** Why others are not among them, in words. */
  readonly notes: readonly string[];
}

/** Examples that are too long are left out whole; nothing is ever cut. */
export async function selectExamples({ store, tokens }: Measured, plan: StagePlan): Promise<Selection> {
  const entries: number[] = [];
  let longest = 0;
  let tooLong = { count: 0, longest: 0, first: -1 };
  let withoutImages = 0;
  let hasImages = false;
  for (let i = 0; i < store.length; i++) {
    const record = store.recordOf(i);
    const length = tokens[record] as number;
    if (plan.needsImages && store.imageCount(i) === 0) withoutImages++;
    else if (length > plan.maxTokens)
      tooLong = {
        count: tooLong.count + 1,
        longest: Math.max(tooLong.longest, length),
        first: tooLong.first < 0 ? record : tooLong.first,
      };
    else {
      entries.push(i);
      longest = Math.max(longest, length);
      hasImages ||= store.imageCount(i) > 0;
    }
  }
  const notes: string[] = [];
  if (withoutImages > 0)
    notes.push(`${withoutImages} examples without images are left out: the projector learns from images alone.`);
  if (tooLong.count > 0) {
    const { line } = await store.record(tooLong.first);
    notes.push(
      `${tooLong.count} examples of more than ${plan.maxTokens} tokens are left out, the first in line ${line}; the longest has ${tooLong.longest}.`,
    );
  }
  return { entries, longest, hasImages, notes };
}
